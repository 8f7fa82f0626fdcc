//! From pixels to what an encoder reads.

use image::{RgbImage, imageops};
use kyoka_core::ImageInput;
use serde::{Deserialize, Serialize};

use crate::Picture;

/// Resizes to a fixed size and normalises each channel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageProcessor {
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// Subtracted from each channel of values in [0, 1].
    pub image_mean: [f32; 3],
    /// Divides each channel afterwards.
    pub image_std: [f32; 3],
}

impl Default for ImageProcessor {
    fn default() -> Self {
        Self { height: 28, width: 28, image_mean: [0.5; 3], image_std: [0.5; 3] }
    }
}

impl ImageProcessor {
    /// Resizes with a Catmull-Rom filter if the size differs, then gives `(value / 255 - mean) / std`.
    pub fn process(&self, picture: &Picture) -> ImageInput {
        let same_size = (picture.height, picture.width) == (self.height, self.width);
        let resized;
        let rgb = if same_size {
            &picture.rgb
        } else {
            resized = self.resize(picture);
            &resized
        };
        let plane = self.height * self.width;
        let mut values = vec![0.0; 3 * plane];
        for (place, pixel) in rgb.chunks_exact(3).enumerate() {
            for channel in 0..3 {
                let value = f32::from(pixel[channel]) / 255.0;
                values[channel * plane + place] =
                    (value - self.image_mean[channel]) / self.image_std[channel];
            }
        }
        ImageInput::one_view(values.into(), [3, self.height, self.width])
    }

    fn resize(&self, picture: &Picture) -> Vec<u8> {
        let source = RgbImage::from_raw(picture.width as u32, picture.height as u32, picture.rgb.clone());
        let source = source.expect("a picture holds height x width x 3 bytes");
        imageops::resize(&source, self.width as u32, self.height as u32, imageops::FilterType::CatmullRom)
            .into_raw()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_normalised_channels_first() {
        let picture = Picture { height: 1, width: 2, rgb: vec![0, 255, 51, 255, 0, 102] };
        let input = ImageProcessor { height: 1, width: 2, ..ImageProcessor::default() }.process(&picture);
        let expected = [-1.0, 1.0, 1.0, -1.0, -0.6, -0.2];
        for (got, expected) in input.pixel_values.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn any_size_comes_out_at_the_asked_size() {
        let input = ImageProcessor::default().process(&Picture::grey(5, 203, vec![200; 1015]));
        assert_eq!(input.pixel_values.len(), 3 * 28 * 28);
        assert!(input.pixel_values.iter().all(|value| (value - (200.0 / 127.5 - 1.0)).abs() < 0.02));
    }
}
