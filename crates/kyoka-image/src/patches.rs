//! Pictures cut into patches.

use kyoka_core::ImageInput;

/// The patches of pictures of one size, view after view, row by row, each patch channels first.
pub(crate) struct Patches {
    /// `num_views * rows * columns` patches of `3 * patch * patch` values.
    pub values: Vec<f32>,
    /// Which patches hold some of the picture; `None`: all.
    pub seen: Option<Vec<bool>>,
    num_views: usize,
    grid: [usize; 2],
}

impl Patches {
    /// # Panics
    /// If there is no picture, sizes differ, or the patch does not divide them.
    pub fn of(inputs: &[&ImageInput], side: usize) -> Self {
        assert!(!inputs.is_empty(), "patches: expected at least one picture, got none");
        let ImageInput { height, width, .. } = *inputs[0];
        assert!(
            height % side == 0 && width % side == 0 && height * width > 0,
            "patches of {side} do not divide a picture of {height} x {width}"
        );
        let num_views = inputs.iter().map(|input| input.num_views).sum();
        let mut values = Vec::with_capacity(num_views * 3 * height * width);
        for input in inputs {
            let size = (input.channels, input.height, input.width);
            assert_eq!(size, (3, height, width), "patches: expected one size (channels, height, width)");
            for view in 0..input.num_views {
                unfold(input, view, side, &mut values);
            }
        }
        let grid = [height / side, width / side];
        let masked = inputs.iter().any(|input| input.pixel_mask.is_some());
        let seen = masked.then(|| inputs.iter().flat_map(|input| seen_patches(input, side)).collect());
        let seen = seen.filter(|seen: &Vec<bool>| !seen.iter().all(|&seen| seen));
        Self { values, seen, num_views, grid }
    }

    pub fn num_views(&self) -> usize {
        self.num_views
    }

    /// Rows and columns of a view.
    pub fn grid(&self) -> [usize; 2] {
        self.grid
    }
}

fn unfold(input: &ImageInput, view: usize, side: usize, values: &mut Vec<f32>) {
    let ImageInput { channels, height, width, .. } = *input;
    let pixels = &input.pixel_values[view * channels * height * width..];
    for top in (0..height).step_by(side) {
        for left in (0..width).step_by(side) {
            for channel in 0..channels {
                for y in top..top + side {
                    let start = (channel * height + y) * width + left;
                    values.extend_from_slice(&pixels[start..start + side]);
                }
            }
        }
    }
}

/// A patch counts if any of its pixels does.
fn seen_patches(input: &ImageInput, side: usize) -> Vec<bool> {
    let (rows, columns) = (input.height / side, input.width / side);
    let Some(mask) = &input.pixel_mask else { return vec![true; input.num_views * rows * columns] };
    let mut seen = Vec::with_capacity(input.num_views * rows * columns);
    for view in mask.chunks_exact(input.height * input.width) {
        for row in 0..rows {
            for column in 0..columns {
                let mut lines =
                    (row * side..(row + 1) * side).map(|y| &view[y * input.width + column * side..][..side]);
                seen.push(lines.any(|line| line.contains(&true)));
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_read_row_by_row_channels_first() {
        let pixel_values: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let input = ImageInput::one_view(pixel_values.into(), [3, 2, 4]);
        let patches = Patches::of(&[&input], 2);
        let expected = [0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23];
        assert_eq!(patches.values, expected.map(|i| i as f32));
        assert_eq!((patches.num_views(), patches.grid(), patches.seen), (1, [1, 2], None));
    }

    #[test]
    fn a_patch_counts_if_one_of_its_pixels_does() {
        let mut mask = vec![false; 8];
        mask[6] = true;
        let mut input = ImageInput::one_view(vec![0.0; 24].into(), [3, 2, 4]);
        input.pixel_mask = Some(mask.into());
        assert_eq!(Patches::of(&[&input], 2).seen, Some(vec![false, true]));
    }
}
