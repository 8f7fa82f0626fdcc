//! SmolVLM and Idefics3: the picture split into square tiles, with a view of the whole at the end.

use kyoka_core::ImageInput;
use serde::{Deserialize, Serialize};

use super::ImageLayout;
use crate::{Picture, PixelScale, Resample, resize, resize_window};

/// Longest side that any picture is brought to before it is split.
const MAX_SIDE: usize = 4096;

/// Brings the longest side to a length, then to whole tiles, cuts the tiles and adds the picture in one tile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Idefics3Processor {
    /// Length of the longest side before splitting; `None`: as it is.
    pub longest_edge: Option<usize>,
    /// Side of a tile.
    pub tile: usize,
    /// Whether pictures are split; otherwise each is one tile.
    pub do_image_splitting: bool,
    /// Filter of all resizing.
    pub resample: Resample,
    /// From bytes to values.
    pub scale: PixelScale,
}

impl Idefics3Processor {
    /// Height and width after the first resizing, which brings the longest side to its length and keeps the ratio.
    fn first_size(&self, height: usize, width: usize) -> [usize; 2] {
        let Some(longest) = self.longest_edge else { return [height, width] };
        let ratio = width as f64 / height as f64;
        let [height, width] = if width >= height {
            let height = (longest as f64 / ratio) as usize;
            [(height + height % 2).max(1), longest]
        } else {
            let width = (longest as f64 * ratio) as usize;
            [longest, (width + width % 2).max(1)]
        };
        let ratio = width as f64 / height as f64;
        if width >= height && width > MAX_SIDE {
            [((MAX_SIDE as f64 / ratio) as usize).max(1), MAX_SIDE]
        } else if height > width && height > MAX_SIDE {
            [MAX_SIDE, ((MAX_SIDE as f64 * ratio) as usize).max(1)]
        } else {
            [height, width]
        }
    }

    /// Height and width in whole tiles.
    fn tiled_size(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        let whole = |length: usize| length.div_ceil(self.tile) * self.tile;
        let ratio = width as f64 / height as f64;
        if width >= height {
            let width = whole(width);
            [whole((width as f64 / ratio) as usize), width]
        } else {
            let height = whole(height);
            [height, whole((height as f64 * ratio) as usize)]
        }
    }

    /// Tiles of a picture of this size.
    pub fn layout(&self, height: usize, width: usize) -> ImageLayout {
        let tile = self.tile;
        let one = ImageLayout { num_views: 1, height: tile, width: tile, split: None };
        if !self.do_image_splitting {
            return one;
        }
        let [height, width] = self.tiled_size(self.first_size(height, width));
        if height <= tile && width <= tile {
            return one;
        }
        let (rows, columns) = (height / tile, width / tile);
        ImageLayout { num_views: rows * columns + 1, split: Some([rows, columns]), ..one }
    }

    /// Tiles row by row, then the whole picture in one tile; or that alone.
    pub fn process(&self, picture: &Picture) -> ImageInput {
        let ImageLayout { num_views, split, .. } = self.layout(picture.height, picture.width);
        let tile = self.tile;
        let mut values = Vec::with_capacity(num_views * 3 * tile * tile);
        let size = self.first_size(picture.height, picture.width);
        let mut resized = resize(picture, size, self.resample);
        if let Some([rows, columns]) = split {
            resized = resize(&resized, [rows * tile, columns * tile], self.resample);
            let size = [resized.height, resized.width];
            for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
                let window = [row * tile..(row + 1) * tile, column * tile..(column + 1) * tile];
                self.scale.append(&resize_window(&resized, size, window, self.resample), &mut values);
            }
        }
        self.scale.append(&resize(&resized, [tile, tile], self.resample), &mut values);
        ImageInput { num_views, split, ..ImageInput::one_view(values.into(), [3, tile, tile]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processor(longest_edge: usize, tile: usize) -> Idefics3Processor {
        let scale = PixelScale::new([0.5; 3], [0.5; 3]);
        let (longest_edge, do_image_splitting) = (Some(longest_edge), true);
        Idefics3Processor { longest_edge, tile, do_image_splitting, resample: Resample::Lanczos, scale }
    }

    #[test]
    fn the_layout_is_known_before_the_pixels() {
        let processor = processor(96, 48);
        assert_eq!(processor.layout(61, 97).split, Some([2, 2]));
        assert_eq!(processor.layout(203, 5).split, Some([2, 1]));
        for (height, width) in [(61, 97), (203, 5), (1, 1), (1, 402)] {
            let picture = Picture::grey(height, width, vec![3; height * width]);
            let (layout, input) = (processor.layout(height, width), processor.process(&picture));
            assert_eq!((input.num_views, input.split), (layout.num_views, layout.split));
            assert_eq!(input.pixel_values.len(), layout.num_views * 3 * 48 * 48);
        }
    }

    #[test]
    fn tiles_stand_row_by_row_and_the_whole_comes_last() {
        let mut processor = processor(4, 2);
        processor.scale = PixelScale { rescale_factor: 1.0, image_mean: [0.0; 3], image_std: [1.0; 3] };
        processor.resample = Resample::Nearest;
        let input = processor.process(&Picture::grey(4, 4, (0..16).collect()));
        let red = |view: usize| &input.pixel_values[view * 12..view * 12 + 4];
        assert_eq!(red(0), [0.0, 1.0, 4.0, 5.0]);
        assert_eq!(red(1), [2.0, 3.0, 6.0, 7.0]);
        assert_eq!(red(2), [8.0, 9.0, 12.0, 13.0]);
        assert_eq!(red(4), [5.0, 7.0, 13.0, 15.0]);
    }

    #[test]
    fn unsplit_pictures_fill_one_tile() {
        let mut processor = processor(96, 48);
        processor.do_image_splitting = false;
        let input = processor.process(&Picture::grey(7, 300, vec![0; 2100]));
        assert_eq!((input.num_views, input.height, input.width, input.split), (1, 48, 48, None));
    }
}
