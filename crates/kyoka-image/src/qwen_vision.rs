//! The vision tower of Qwen2-VL (arXiv 2409.12191), Qwen2.5-VL (arXiv 2502.13923) and Qwen2.5-Omni (arXiv 2503.20215):
//! pictures of any size and clips, positions by rotation, attention within windows.

use std::sync::Arc;

use burn::{
    module::Module,
    tensor::{Device, Tensor, TensorData},
};
use kyoka_core::{ImageInput, ModalityEncoder, ModalityFeatures};
use kyoka_nn::{
    AttentionLayout, EncoderLayer, EncoderLayerConfig, Linear, Linears, NamedLinears, Norm, Position, Rotary,
    RotaryAxes, RotaryConfig, WeightInit, indices, packed_attention,
};
use serde::{Deserialize, Serialize};

/// Sizes of the tower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QwenVisionConfig {
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Frames of a patch; a still picture is repeated.
    pub temporal_patch_size: usize,
    /// Side of the squares of patches that the projector folds into one token.
    pub merge_size: usize,
    /// Number of layers.
    pub num_layers: usize,
    /// Sizes of a layer.
    pub layer: EncoderLayerConfig,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Side of an attention window in pixels; without one every layer sees the whole frame.
    pub window_size: Option<usize>,
    /// Layers that see the whole frame in spite of windows.
    pub full_attention_layers: Vec<usize>,
}

/// Patch embedding, rotary pre-norm layers, final norm; one feature a patch, squares of patches together.
#[derive(Module, Debug)]
pub struct QwenVisionEncoder {
    /// Weight `[3 * frames * patch * patch, D]`: a convolution whose stride is its width.
    pub patch_embedding: Linear,
    /// The layers.
    pub layers: Vec<EncoderLayer>,
    /// Norm after the last layer (`merger.ln_q`).
    pub norm: Norm,
    #[module(skip)]
    config: QwenVisionConfig,
}

/// Steps, rows and columns of a picture's patches.
type Grid = [usize; 3];

impl QwenVisionEncoder {
    /// An encoder with seeded weights.
    pub fn new(config: &QwenVisionConfig, init: &mut WeightInit) -> Self {
        let QwenVisionConfig { patch_size, temporal_patch_size, num_layers, layer, .. } = *config;
        let d_patch = 3 * temporal_patch_size * patch_size * patch_size;
        Self {
            patch_embedding: init.linear(d_patch, layer.d_model, false),
            layers: (0..num_layers).map(|_| EncoderLayer::new(layer, init)).collect(),
            norm: Norm::new(layer.norm, layer.d_model, layer.norm_epsilon, init),
            config: config.clone(),
        }
    }

    fn grid_of(&self, input: &ImageInput) -> Grid {
        let QwenVisionConfig { patch_size, temporal_patch_size, .. } = self.config;
        let steps = input.num_views.div_ceil(temporal_patch_size);
        [steps, input.height / patch_size, input.width / patch_size]
    }

    /// Patches of a picture, square after square.
    fn unfold(&self, input: &ImageInput, values: &mut Vec<f32>) {
        let QwenVisionConfig { patch_size: side, temporal_patch_size, merge_size, .. } = self.config;
        let ImageInput { channels, height, width, num_views, .. } = *input;
        let square = side * merge_size;
        assert!(
            channels == 3 && height % square == 0 && width % square == 0,
            "qwen vision: expected 3 channels and sides of a multiple of {square}, got {channels} x {height} x {width}"
        );
        let [steps, rows, columns] = self.grid_of(input);
        for step in 0..steps {
            for [row, column] in squares(rows, columns, merge_size) {
                for channel in 0..channels {
                    for frame in step * temporal_patch_size..(step + 1) * temporal_patch_size {
                        let plane = frame.min(num_views - 1) * channels + channel;
                        for y in row * side..(row + 1) * side {
                            let start = (plane * height + y) * width + column * side;
                            values.extend_from_slice(&input.pixel_values[start..start + side]);
                        }
                    }
                }
            }
        }
    }

    /// Positions by row and column of every patch, square after square, and the lengths of frames.
    fn positions(&self, grids: &[Grid]) -> (Vec<Position>, Vec<usize>) {
        let (mut positions, mut frames) = (Vec::new(), Vec::new());
        for &[steps, rows, columns] in grids {
            for step in 0..steps {
                let cells = squares(rows, columns, self.config.merge_size);
                positions.extend(cells.into_iter().map(|[row, column]| [step, row, column]));
                frames.push(rows * columns);
            }
        }
        (positions, frames)
    }

    /// The order in which windows follow each other, as rows of the unfolded patches, and the windows' lengths.
    fn windows(&self, grids: &[Grid], side: usize) -> (Vec<usize>, Vec<usize>) {
        let merge = self.config.merge_size;
        let (mut order, mut lengths) = (Vec::new(), Vec::new());
        let mut frame_start = 0;
        for &[steps, rows, columns] in grids {
            let (rows, columns) = (rows / merge, columns / merge);
            for _ in 0..steps {
                for top in (0..rows).step_by(side) {
                    for left in (0..columns).step_by(side) {
                        let before = order.len();
                        for row in top..(top + side).min(rows) {
                            for column in left..(left + side).min(columns) {
                                let start = frame_start + (row * columns + column) * merge * merge;
                                order.extend(start..start + merge * merge);
                            }
                        }
                        lengths.push(order.len() - before);
                    }
                }
                frame_start += rows * columns * merge * merge;
            }
        }
        (order, lengths)
    }

    fn layout(&self, lengths: &[usize], rotary: &Rotary) -> Arc<AttentionLayout> {
        Arc::new(AttentionLayout::new(self.config.layer.heads(), lengths, false).with_rotary(rotary.clone()))
    }

    /// All layers; rows come and go in the order of squares.
    fn run(&self, mut hidden: Tensor<2>, grids: &[Grid]) -> Tensor<2> {
        let device = hidden.device();
        let (mut positions, frames) = self.positions(grids);
        let QwenVisionConfig { patch_size, merge_size, ref layer, rope_theta, .. } = self.config;
        let axes = RotaryAxes::RowsAndColumns;
        let rotary = RotaryConfig { axes, ..RotaryConfig::new(layer.heads().d_head, rope_theta) };
        let Some(window) = self.config.window_size else {
            let layout = self.layout(&frames, &Rotary::new(&rotary, &positions, &device));
            return EncoderLayer::run(&self.layers, hidden, &layout);
        };
        let (order, windows) = self.windows(grids, (window / merge_size / patch_size).max(1));
        positions = order.iter().map(|&row| positions[row]).collect();
        let rotary = Rotary::new(&rotary, &positions, &device);
        let (whole, windowed) = (self.layout(&frames, &rotary), self.layout(&windows, &rotary));
        hidden = hidden.select(0, indices(&order, &device));
        for (number, layer) in self.layers.iter().enumerate() {
            let full = self.config.full_attention_layers.contains(&number);
            let layout = if full { &whole } else { &windowed };
            hidden = layer.forward(hidden, |qkv| packed_attention(qkv, layout));
        }
        let mut back = vec![0; order.len()];
        order.into_iter().enumerate().for_each(|(place, row)| back[row] = place);
        hidden.select(0, indices(&back, &device))
    }
}

/// Rows and columns of patches, square of `side` after square, in reading order.
fn squares(rows: usize, columns: usize, side: usize) -> Vec<[usize; 2]> {
    let mut cells = Vec::with_capacity(rows * columns);
    for top in (0..rows).step_by(side) {
        for left in (0..columns).step_by(side) {
            cells.extend((0..side * side).map(|cell| [top + cell / side, left + cell % side]));
        }
    }
    cells
}

impl Linears for QwenVisionEncoder {
    fn linears<'a>(&'a mut self, prefix: &str, found: &mut NamedLinears<'a>) {
        found.push((format!("{prefix}patch_embedding"), &mut self.patch_embedding));
        self.layers.linears(&format!("{prefix}layers."), found);
    }
}

impl ModalityEncoder for QwenVisionEncoder {
    type Input = ImageInput;

    fn d_output(&self) -> usize {
        self.norm.gamma.dims()[0]
    }

    fn num_positions(&self, input: &ImageInput) -> usize {
        self.grid_of(input).iter().product()
    }

    fn grid(&self, input: &ImageInput) -> Option<[usize; 3]> {
        Some(self.grid_of(input))
    }

    fn encode(&self, inputs: &[&ImageInput], device: &Device) -> ModalityFeatures {
        assert!(!inputs.is_empty(), "qwen vision: expected at least one picture, got none");
        let grids: Vec<Grid> = inputs.iter().map(|input| self.grid_of(input)).collect();
        let lengths: Vec<usize> = grids.iter().map(|grid| grid.iter().product()).collect();
        let [d_patch, _] = self.patch_embedding.weight.dims();
        let n: usize = lengths.iter().sum();
        let mut values = Vec::with_capacity(n * d_patch);
        inputs.iter().for_each(|input| self.unfold(input, &mut values));
        let patches = Tensor::<2>::from_data(TensorData::new(values, [n, d_patch]), device);
        let hidden = self.run(self.patch_embedding.forward(patches), &grids);
        ModalityFeatures { embeddings: self.norm.forward(hidden), lengths }
    }
}

#[cfg(test)]
mod tests {
    use kyoka_nn::NormKind;

    use super::*;

    fn encoder(window_size: Option<usize>) -> QwenVisionEncoder {
        let layer = EncoderLayerConfig {
            norm: NormKind::RootMeanSquare,
            gated: true,
            ..EncoderLayerConfig::plain(16, 2, 24, 1e-6)
        };
        let config = QwenVisionConfig {
            patch_size: 2,
            temporal_patch_size: 2,
            merge_size: 2,
            num_layers: 2,
            layer,
            rope_theta: 100.0,
            window_size,
            full_attention_layers: vec![],
        };
        QwenVisionEncoder::new(&config, &mut WeightInit::new(1, &Device::default()))
    }

    fn picture(height: usize, width: usize) -> ImageInput {
        let pixels: Vec<f32> = (0..3 * height * width).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
        ImageInput::one_view(pixels.into(), [3, height, width])
    }

    #[test]
    fn squares_of_patches_stand_together() {
        let expected = [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3], [1, 2], [1, 3]];
        assert_eq!(squares(2, 4, 2), expected);
    }

    #[test]
    fn a_still_picture_fills_all_frames_of_its_step() {
        let encoder = encoder(None);
        let still = picture(4, 4);
        let mut clip = still.clone();
        clip.num_views = 2;
        clip.pixel_values = [&still.pixel_values[..], &still.pixel_values[..]].concat().into();
        let [mut once, mut twice] = [Vec::new(), Vec::new()];
        encoder.unfold(&still, &mut once);
        encoder.unfold(&clip, &mut twice);
        assert_eq!(once, twice);
        assert_eq!(encoder.grid(&clip), Some([1, 2, 2]));
    }

    #[test]
    fn a_window_of_the_whole_picture_is_no_window() {
        let device = Device::default();
        let inputs = [picture(8, 12), picture(4, 8)];
        let inputs: Vec<&ImageInput> = inputs.iter().collect();
        let features = |window| encoder(window).encode(&inputs, &device).embeddings;
        let difference = |a: Tensor<2>, b: Tensor<2>| (a - b).abs().max().into_scalar::<f32>();
        assert!(difference(features(None), features(Some(12))) < 1e-5);
        assert!(difference(features(None), features(Some(4))) > 1e-3, "small windows see less");
    }

    #[test]
    fn windows_at_the_edge_are_smaller() {
        let (order, lengths) = encoder(Some(8)).windows(&[[1, 4, 6]], 2);
        // Two rows and three columns of squares of four: a window of four squares, one of two.
        assert_eq!(lengths, [16, 8]);
        assert_eq!(order[8..12], [12, 13, 14, 15], "the second row of the first window");
        assert_eq!(order[16..20], [8, 9, 10, 11], "the third column's first square");
    }
}
