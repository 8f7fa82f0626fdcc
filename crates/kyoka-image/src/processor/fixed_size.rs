//! The processor of encoders made from scratch.

use image::{RgbImage, imageops};
use kyoka_core::ImageInput;
use serde::{Deserialize, Serialize};

use crate::{Picture, PixelScale};

/// Resizes to a fixed size, whatever the aspect ratio, and normalises each channel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedSizeProcessor {
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// Subtracted from each channel of values in [0, 1].
    pub image_mean: [f32; 3],
    /// Divides each channel afterwards.
    pub image_std: [f32; 3],
}

impl Default for FixedSizeProcessor {
    fn default() -> Self {
        Self { height: 28, width: 28, image_mean: [0.5; 3], image_std: [0.5; 3] }
    }
}

impl FixedSizeProcessor {
    /// Resizes with a Catmull-Rom filter if the size differs, then gives `(value / 255 - mean) / std`.
    pub fn process(&self, picture: &Picture) -> ImageInput {
        let same_size = (picture.height, picture.width) == (self.height, self.width);
        let resized;
        let picture = if same_size {
            picture
        } else {
            resized = self.resize(picture);
            &resized
        };
        let mut values = Vec::new();
        PixelScale::new(self.image_mean, self.image_std).append(picture, &mut values);
        ImageInput::one_view(values.into(), [3, self.height, self.width])
    }

    fn resize(&self, picture: &Picture) -> Picture {
        let source = RgbImage::from_raw(picture.width as u32, picture.height as u32, picture.rgb.clone());
        let source = source.expect("a picture holds height x width x 3 bytes");
        let (height, width) = (self.height, self.width);
        let filter = imageops::FilterType::CatmullRom;
        let rgb = imageops::resize(&source, width as u32, height as u32, filter).into_raw();
        Picture { height, width, rgb }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_normalised_channels_first() {
        let picture = Picture { height: 1, width: 2, rgb: vec![0, 255, 51, 255, 0, 102] };
        let input = FixedSizeProcessor { height: 1, width: 2, ..FixedSizeProcessor::default() }.process(&picture);
        let expected = [-1.0, 1.0, 1.0, -1.0, -0.6, -0.2];
        for (got, expected) in input.pixel_values.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn any_size_comes_out_at_the_asked_size() {
        let input = FixedSizeProcessor::default().process(&Picture::grey(5, 203, vec![200; 1015]));
        assert_eq!(input.pixel_values.len(), 3 * 28 * 28);
        assert!(input.pixel_values.iter().all(|value| (value - (200.0 / 127.5 - 1.0)).abs() < 0.02));
    }
}
