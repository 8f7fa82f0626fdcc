//! Resize, then cut out the middle: the processors of CLIP, SigLIP, DINOv2 and ViT checkpoints.

use kyoka_core::ImageInput;
use serde::{Deserialize, Serialize};

use super::{ImageLayout, check_area};
use crate::{ImageError, Picture, PixelScale, Resample, resize_window};

/// The size a picture is brought to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetSize {
    /// Height and width, whatever the aspect ratio (SigLIP, ViT).
    Exact(usize, usize),
    /// The shorter side; the longer one keeps the aspect ratio, rounded down (CLIP, DINOv2).
    ShortestEdge(usize),
}

impl TargetSize {
    /// Height and width that a picture gets.
    fn of(self, height: usize, width: usize) -> [usize; 2] {
        match self {
            Self::Exact(height, width) => [height, width],
            Self::ShortestEdge(edge) => {
                let longer = |long: usize, short: usize| (edge as f64 * long as f64 / short as f64) as usize;
                if width <= height { [longer(height, width), edge] } else { [edge, longer(width, height)] }
            }
        }
    }
}

/// Resizes, cuts out the middle and normalises.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CropProcessor {
    /// Size before cutting; `None`: as it is.
    pub size: Option<TargetSize>,
    /// Height and width of the middle piece; where the picture is smaller, black is put around it. `None`: all of it.
    pub crop_size: Option<[usize; 2]>,
    /// Filter of the resizing.
    pub resample: Resample,
    /// From bytes to values.
    pub scale: PixelScale,
}

impl CropProcessor {
    /// View of a picture of this size.
    ///
    /// # Errors
    /// If nothing is cut out and the resized picture would have more than 2^28 pixels.
    pub fn layout(&self, height: usize, width: usize) -> Result<ImageLayout, ImageError> {
        let resized = self.size.map_or([height, width], |size| size.of(height, width));
        let [height, width] = self.crop_size.unwrap_or(resized);
        check_area(height, width)?;
        Ok(ImageLayout { num_views: 1, height, width, split: None })
    }

    /// One view of the picture.
    ///
    /// # Errors
    /// As [`layout`](Self::layout).
    pub fn process(&self, picture: &Picture) -> Result<ImageInput, ImageError> {
        let ImageLayout { height, width, .. } = self.layout(picture.height, picture.width)?;
        let resized =
            self.size.map_or([picture.height, picture.width], |size| size.of(picture.height, picture.width));
        let (rows, columns) = (Middle::new(resized[0], height), Middle::new(resized[1], width));
        let window = [rows.kept.clone(), columns.kept.clone()];
        let middle = resize_window(picture, resized, window, self.resample);
        let mut values = Vec::new();
        if (middle.height, middle.width) == (height, width) {
            self.scale.append(&middle, &mut values);
        } else {
            self.scale.append(&framed(&middle, [height, width], [rows.margin, columns.margin]), &mut values);
        }
        Ok(ImageInput::one_view(values.into(), [3, height, width]))
    }
}

/// The part of a line that stays when its middle is cut out, and the black before it where the line is too short.
struct Middle {
    kept: std::ops::Range<usize>,
    margin: usize,
}

impl Middle {
    fn new(length: usize, wanted: usize) -> Self {
        if wanted > length {
            Self { kept: 0..length, margin: (wanted - length) / 2 }
        } else {
            let start = (length - wanted) / 2;
            Self { kept: start..start + wanted, margin: 0 }
        }
    }
}

/// A picture in a black frame.
fn framed(picture: &Picture, [height, width]: [usize; 2], [top, left]: [usize; 2]) -> Picture {
    let mut rgb = vec![0; height * width * 3];
    for (y, row) in picture.rgb.chunks_exact(picture.width * 3).enumerate() {
        let start = ((top + y) * width + left) * 3;
        rgb[start..start + row.len()].copy_from_slice(row);
    }
    Picture { height, width, rgb }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(size: Option<TargetSize>, crop_size: Option<[usize; 2]>) -> CropProcessor {
        let scale = PixelScale { rescale_factor: 1.0, image_mean: [0.0; 3], image_std: [1.0; 3] };
        CropProcessor { size, crop_size, resample: Resample::Bicubic, scale }
    }

    #[test]
    fn the_shortest_edge_is_hit_and_the_other_keeps_the_ratio() {
        let size = TargetSize::ShortestEdge(40);
        assert_eq!(size.of(203, 5), [1624, 40]);
        assert_eq!(size.of(61, 97), [40, 63]);
        assert_eq!(size.of(8, 8), [40, 40]);
    }

    #[test]
    fn the_middle_is_cut_out_and_small_pictures_get_a_black_frame() {
        let picture = Picture::grey(3, 4, (1..=12).collect());
        let cut = plain(None, Some([1, 2])).process(&picture).unwrap();
        assert_eq!(&cut.pixel_values[..2], [6.0, 7.0]);
        let framed = plain(None, Some([5, 5])).process(&picture).unwrap();
        assert_eq!(framed.pixel_values[5..10], [1.0, 2.0, 3.0, 4.0, 0.0]);
        assert!(framed.pixel_values[..5].iter().all(|&value| value == 0.0));
    }

    #[test]
    fn only_what_is_kept_is_computed() {
        // Resized whole this picture would have 224 x 3,670,016 pixels.
        let line = Picture::grey(1, 16_384, vec![9; 16_384]);
        let processor = plain(Some(TargetSize::ShortestEdge(224)), Some([224, 224]));
        assert_eq!(processor.process(&line).unwrap().pixel_values.len(), 3 * 224 * 224);
        let uncut = plain(Some(TargetSize::ShortestEdge(224)), None).process(&line);
        assert!(matches!(uncut, Err(ImageError::TooLarge { .. })));
    }
}
