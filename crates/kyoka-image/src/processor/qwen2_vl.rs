//! Qwen2-VL, Qwen2.5-VL and Qwen2.5-Omni: any size in whole patches, within a number of pixels.

use kyoka_core::ImageInput;
use serde::{Deserialize, Serialize};

use super::ImageLayout;
use crate::{ImageError, Picture, PixelScale, Resample, resize};

/// Largest ratio of the longer to the shorter side.
const MAX_ASPECT_RATIO: usize = 200;

/// How a picture is cut into the rows that the vision tower reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchShape {
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Patches a side that the merger makes one token of.
    pub merge_size: usize,
    /// Frames in a patch; a still picture is repeated.
    pub temporal_patch_size: usize,
}

impl PatchShape {
    /// Patches over time, down and across (`image_grid_thw`).
    pub fn grid(&self, input: &ImageInput) -> [usize; 3] {
        let frames = input.num_views.div_ceil(self.temporal_patch_size);
        [frames, input.height / self.patch_size, input.width / self.patch_size]
    }

    /// Tokens of a picture of this many pixels, a multiple of patch times merge a side.
    pub fn num_tokens(&self, layout: &ImageLayout) -> usize {
        let side = self.patch_size * self.merge_size;
        layout.num_views.div_ceil(self.temporal_patch_size) * (layout.height / side) * (layout.width / side)
    }

    /// The rows the tower reads: patches in groups of `merge_size` squared, each channel by channel, frame by frame.
    ///
    /// # Panics
    /// If the sides are no multiples of `patch_size * merge_size`.
    ///
    /// # Shapes
    /// - output: `[patches, channels * temporal_patch_size * patch_size * patch_size]`
    pub fn unfold(&self, input: &ImageInput) -> Vec<f32> {
        let Self { patch_size, merge_size, temporal_patch_size } = *self;
        let ImageInput { num_views, channels, height, width, .. } = *input;
        let side = patch_size * merge_size;
        assert!(
            height.is_multiple_of(side) && width.is_multiple_of(side),
            "qwen2_vl: expected sides in multiples of {side}, got {height} x {width}"
        );
        let [frames, rows, columns] = self.grid(input);
        let mut values = Vec::with_capacity(frames * rows * columns * channels * temporal_patch_size * patch_size * patch_size);
        for frame in 0..frames {
            for [top, left] in places([rows, columns], merge_size).map(|place| place.map(|at| at * patch_size)) {
                for channel in 0..channels {
                    for view in (0..temporal_patch_size).map(|step| frame * temporal_patch_size + step) {
                        let plane = view.min(num_views - 1) * channels + channel;
                        for y in top..top + patch_size {
                            let start = (plane * height + y) * width + left;
                            values.extend_from_slice(&input.pixel_values[start..start + patch_size]);
                        }
                    }
                }
            }
        }
        values
    }
}

/// Row and column of every patch: square groups of `merge` a side, row by row, and row by row within each.
fn places([rows, columns]: [usize; 2], merge: usize) -> impl Iterator<Item = [usize; 2]> {
    let within = move |(top, left): (usize, usize)| {
        (0..merge).flat_map(move |y| (0..merge).map(move |x| [top + y, left + x]))
    };
    (0..rows)
        .step_by(merge)
        .flat_map(move |top| (0..columns).step_by(merge).map(move |left| (top, left)))
        .flat_map(within)
}

/// Brings pictures to whole patches and a number of pixels within bounds, the ratio kept as nearly as possible.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Qwen2VlProcessor {
    /// Fewest pixels; `None` for both bounds: the picture is taken as it is.
    pub pixels: Option<[usize; 2]>,
    /// How the tower cuts it.
    pub patches: PatchShape,
    /// Filter of the resizing.
    pub resample: Resample,
    /// From bytes to values.
    pub scale: PixelScale,
}

impl Qwen2VlProcessor {
    /// View of a picture of this size.
    ///
    /// # Errors
    /// If one side is more than 200 times the other, or if the picture is taken as it is and not in whole patches.
    pub fn layout(&self, height: usize, width: usize) -> Result<ImageLayout, ImageError> {
        let factor = self.patches.patch_size * self.patches.merge_size;
        let [height, width] = match self.pixels {
            Some(bounds) => smart_resize(height, width, factor, bounds)?,
            None if height.is_multiple_of(factor) && width.is_multiple_of(factor) => [height, width],
            None => return Err(ImageError::NotInPatches { height, width, factor }),
        };
        Ok(ImageLayout { num_views: 1, height, width, split: None })
    }

    /// One view, resized; [`PatchShape::unfold`] cuts it.
    ///
    /// # Errors
    /// As [`layout`](Self::layout).
    pub fn process(&self, picture: &Picture) -> Result<ImageInput, ImageError> {
        let ImageLayout { height, width, .. } = self.layout(picture.height, picture.width)?;
        let mut values = Vec::new();
        self.scale.append(&resize(picture, [height, width], self.resample), &mut values);
        Ok(ImageInput::one_view(values.into(), [3, height, width]))
    }
}

/// Height and width in multiples of `factor` with a number of pixels within `bounds`.
///
/// # Errors
/// If one side is more than 200 times the other.
pub fn smart_resize(
    height: usize,
    width: usize,
    factor: usize,
    [fewest, most]: [usize; 2],
) -> Result<[usize; 2], ImageError> {
    if height.max(width) > MAX_ASPECT_RATIO * height.min(width) {
        return Err(ImageError::AspectRatio { height, width, most: MAX_ASPECT_RATIO });
    }
    let (h, w, f) = (height as f64, width as f64, factor as f64);
    let near = [h, w].map(|side| (side / f).round_ties_even() as usize * factor);
    let area = near[0].saturating_mul(near[1]);
    Ok(if area > most {
        let shrink = (h * w / most as f64).sqrt();
        [h, w].map(|side| ((side / shrink / f).floor() as usize * factor).max(factor))
    } else if area < fewest {
        let grow = (fewest as f64 / (h * w)).sqrt();
        [h, w].map(|side| (side * grow / f).ceil() as usize * factor)
    } else {
        near
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_hold_the_bounds_and_halves_round_to_even() {
        let resized = |h, w| smart_resize(h, w, 28, [3136, 1_003_520]).unwrap();
        assert_eq!(resized(1, 1), [56, 56]);
        assert_eq!(resized(1, 200), [28, 812]);
        // 70 is two and a half patches: two.
        assert_eq!(resized(70, 98), [56, 112]);
        let [h, w] = resized(3000, 4000);
        assert!(h * w <= 1_003_520 && h % 28 == 0 && w % 28 == 0);
        assert!(matches!(smart_resize(402, 1, 28, [1, 9]), Err(ImageError::AspectRatio { .. })));
    }

    #[test]
    fn patches_are_grouped_for_the_merger_and_stills_are_repeated() {
        let shape = PatchShape { patch_size: 1, merge_size: 2, temporal_patch_size: 2 };
        let values: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let input = ImageInput::one_view(values.into(), [2, 2, 4]);
        let expected = [0, 1, 4, 5, 2, 3, 6, 7].map(|i| i as f32);
        let rows: Vec<[f32; 4]> = expected.map(|i| [i, i, i + 8.0, i + 8.0]).to_vec();
        assert_eq!(shape.unfold(&input), rows.concat());
        assert_eq!(shape.grid(&input), [1, 2, 4]);
    }
}
