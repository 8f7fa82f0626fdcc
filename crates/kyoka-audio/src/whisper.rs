//! Whisper's audio encoder (arXiv 2212.04356) and those grown out of it: two convolutions, positions, pre-norm layers.

use std::sync::Arc;

use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor, TensorData},
};
use kyoka_core::{AudioInput, ModalityEncoder, ModalityFeatures};
use kyoka_nn::{
    EncoderLayer, EncoderLayerConfig, Linear, Linears, NamedLinears, Norm, NormKind, WeightInit, fused,
    indices,
};
use serde::{Deserialize, Serialize};

/// Which frames are encoded, and which see each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AudioSpan {
    /// All frames, padding included, as Whisper was trained.
    #[default]
    Padded,
    /// The frames that hold sound (Qwen2-Audio, arXiv 2407.10759).
    Valid,
    /// The frames that hold sound, in chunks that see themselves only and count positions anew (Qwen2.5-Omni, arXiv
    /// 2503.20215).
    Chunks {
        /// Frames of a chunk; even.
        frames: usize,
    },
}

/// Sizes of the encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhisperConfig {
    /// Number of mel bands.
    pub num_mels: usize,
    /// Number of layers.
    pub num_layers: usize,
    /// Sizes of a layer.
    pub layer: EncoderLayerConfig,
    /// Positions kept as parameters, as checkpoints have them; without, sinusoids are computed. Default none.
    #[serde(default)]
    pub max_positions: Option<usize>,
    /// Which frames are encoded. Default all.
    #[serde(default)]
    pub span: AudioSpan,
    /// Whether the features of neighbours are averaged in pairs. Default false.
    #[serde(default)]
    pub pooled: bool,
}

impl WhisperConfig {
    /// Two layers of width 96: about 0.28 M parameters.
    pub fn tiny() -> Self {
        Self::new(80, 2, EncoderLayerConfig::plain(96, 3, 384, 1e-5))
    }

    /// Positions that a sound of `frames` fills, of which `valid_frames` hold sound.
    pub fn num_positions(&self, frames: usize, valid_frames: usize) -> usize {
        let positions = match self.span {
            AudioSpan::Padded => frames.div_ceil(2),
            AudioSpan::Valid => valid_frames.div_ceil(2),
            AudioSpan::Chunks { frames } => {
                valid_frames / frames * frames.div_ceil(2) + (valid_frames % frames).div_ceil(2)
            }
        };
        if self.pooled { positions / 2 } else { positions }
    }

    /// Whisper's shape: all frames, nothing pooled, computed positions.
    pub fn new(num_mels: usize, num_layers: usize, layer: EncoderLayerConfig) -> Self {
        Self { num_mels, num_layers, layer, max_positions: None, span: AudioSpan::Padded, pooled: false }
    }
}

/// Kernel width of both convolutions.
const KERNEL: usize = 3;

/// Log-mel frames to one feature for every two frames, or four where they are pooled.
///
/// The convolutions are matrix products over unfolded frames: channel by channel, taps within a channel, as the weights
/// of checkpoints lie.
#[derive(Module, Debug)]
pub struct WhisperEncoder {
    /// Stride 1; weight `[num_mels * 3, D]`.
    pub conv1: Linear,
    /// Stride 2; weight `[D * 3, D]`.
    pub conv2: Linear,
    /// Shape `[T, D]`, where positions are parameters.
    pub position_embedding: Option<Param<Tensor<2>>>,
    /// The layers.
    pub layers: Vec<EncoderLayer>,
    /// Norm after the last layer.
    pub norm: Norm,
    #[module(skip)]
    config: WhisperConfig,
}

/// Frames that are convolved and attend together.
#[derive(Debug, Clone, Copy)]
struct Sequence {
    /// Number of the input.
    input: usize,
    /// First frame.
    start: usize,
    /// Frames from here on are zeros for the convolutions.
    end: usize,
    /// Features it gives.
    positions: usize,
}

impl WhisperEncoder {
    /// An encoder with seeded weights.
    pub fn new(config: &WhisperConfig, init: &mut WeightInit) -> Self {
        let WhisperConfig { num_mels, num_layers, layer, max_positions, .. } = *config;
        Self {
            conv1: init.linear(KERNEL * num_mels, layer.d_model, true),
            conv2: init.linear(KERNEL * layer.d_model, layer.d_model, true),
            position_embedding: max_positions.map(|count| init.uniform([count, layer.d_model], 0.02)),
            layers: (0..num_layers).map(|_| EncoderLayer::new(layer, init)).collect(),
            norm: Norm::new(NormKind::Layer, layer.d_model, layer.norm_epsilon, init),
            config: config.clone(),
        }
    }

    /// The sequences of an input.
    fn sequences(&self, number: usize, input: &AudioInput) -> Vec<Sequence> {
        let whole = |frames: usize, end: usize| Sequence {
            input: number,
            start: 0,
            end,
            positions: frames.div_ceil(2),
        };
        match self.config.span {
            AudioSpan::Padded => vec![whole(input.frames, input.frames)],
            AudioSpan::Valid => vec![whole(input.valid_frames, input.frames)],
            AudioSpan::Chunks { frames } => (0..input.valid_frames)
                .step_by(frames)
                .map(|start| {
                    let end = (start + frames).min(input.valid_frames);
                    Sequence { input: number, start, end, positions: (end - start).div_ceil(2) }
                })
                .collect(),
        }
    }

    /// For two frames a feature, three neighbouring frames side by side, zeros beyond the ends.
    fn unfold(&self, input: &AudioInput, sequence: Sequence, values: &mut Vec<f32>) {
        assert_eq!(
            input.num_mels, self.config.num_mels,
            "whisper: expected the configured number of mel bands"
        );
        for frame in sequence.start..sequence.start + 2 * sequence.positions {
            let taps = [0, 1, 2].map(|tap| {
                let source = (frame + tap).checked_sub(1)?;
                (sequence.start..sequence.end).contains(&source).then_some(source)
            });
            for band in input.input_features.chunks_exact(input.frames) {
                values.extend(taps.map(|source: Option<usize>| source.map_or(0.0, |source| band[source])));
            }
        }
    }

    /// The frames of sounds as rows, which the first convolution multiplies: band after band, a frame between its two
    /// neighbours.
    ///
    /// # Shapes
    /// - output: `[2 N, 3 M]`, `N` positions of all sounds, two frames each, zeros beyond a sound's end; `M` mel bands
    ///
    /// # Panics
    /// If a sound has another number of mel bands than the encoder.
    pub fn frame_rows(&self, inputs: &[&AudioInput], device: &Device) -> Tensor<2> {
        self.unfolded(inputs, &self.all_sequences(inputs).concat(), device)
    }

    fn unfolded(&self, inputs: &[&AudioInput], sequences: &[Sequence], device: &Device) -> Tensor<2> {
        let n: usize = sequences.iter().map(|sequence| sequence.positions).sum();
        let width = KERNEL * self.config.num_mels;
        let mut values = Vec::with_capacity(2 * n * width);
        for &sequence in sequences {
            self.unfold(inputs[sequence.input], sequence, &mut values);
        }
        Tensor::from_data(TensorData::new(values, [2 * n, width]), device)
    }

    fn all_sequences(&self, inputs: &[&AudioInput]) -> Vec<Vec<Sequence>> {
        inputs.iter().enumerate().map(|(number, input)| self.sequences(number, input)).collect()
    }

    /// Both convolutions over unfolded frames.
    ///
    /// # Shapes
    /// - output: `[N, D]`, the sequences' features one after the other
    fn convolve(&self, unfolded: Tensor<2>, sequences: &[Sequence]) -> Tensor<2> {
        let n: usize = sequences.iter().map(|sequence| sequence.positions).sum();
        let (d, device) = (self.d_output(), &unfolded.device());
        assert_eq!(unfolded.dims()[0], 2 * n, "whisper: expected two rows for each position of the sounds");
        let mut frames = fused::gelu(self.conv1.forward(unfolded));
        // An odd sequence has a frame too many; the second convolution must see zeros there.
        if sequences.iter().any(|sequence| sequence.start + 2 * sequence.positions > sequence.end) {
            let inside = sequences.iter().flat_map(|sequence| {
                let length = sequence.end - sequence.start;
                (0..2 * sequence.positions).map(move |frame| frame < length)
            });
            frames = frames * column(inside, device);
        }
        // Pairs `[N, 2 D]`: tap 1 the even frame, tap 2 the odd one, tap 0 the odd one before.
        let pairs: Tensor<2> = frames.reshape([n, 2 * d]);
        let odd = pairs.clone().narrow(1, d, d);
        let mut before = Tensor::cat(vec![Tensor::zeros([1, d], device), odd.narrow(0, 0, n - 1)], 0);
        if sequences.len() > 1 {
            let goes_on =
                sequences.iter().flat_map(|sequence| (0..sequence.positions).map(|place| place > 0));
            before = before * column(goes_on, device);
        }
        // `[N, 3, D]` to `[N, D, 3]` would copy every frame; the weight is turned instead.
        let weight = self.conv2.weight.val().reshape([d, KERNEL, d]).swap_dims(0, 1).reshape([KERNEL * d, d]);
        let output = Tensor::cat(vec![before, pairs], 1).matmul(weight);
        fused::gelu(match &self.conv2.bias {
            Some(bias) => output + bias.val().unsqueeze(),
            None => output,
        })
    }

    /// Positions of the sequences' features, `[N, D]`.
    fn positions(&self, sequences: &[Sequence], device: &Device) -> Tensor<2> {
        let longest = sequences.iter().map(|sequence| sequence.positions).max().unwrap_or(0);
        let table = match &self.position_embedding {
            Some(table) => {
                let [count, _] = table.dims();
                assert!(longest <= count, "whisper: expected at most {count} positions, got {longest}");
                table.val()
            }
            None => sinusoids(longest, self.d_output(), device),
        };
        let rows: Vec<usize> = sequences.iter().flat_map(|sequence| 0..sequence.positions).collect();
        table.select(0, indices(&rows, device))
    }
}

/// 1 or 0 a row, `[N, 1]`.
fn column(kept: impl Iterator<Item = bool>, device: &Device) -> Tensor<2> {
    let values: Vec<f32> = kept.map(|kept| f32::from(u8::from(kept))).collect();
    let rows = values.len();
    Tensor::from_data(TensorData::new(values, [rows, 1]), device)
}

/// `sin` and `cos` of positions at geometric frequencies, sines first (the paper's code, `sinusoids`).
///
/// # Shapes
/// - output: `[T, D]`
fn sinusoids(t: usize, d: usize, device: &Device) -> Tensor<2> {
    let half = d / 2;
    let step = 10_000_f64.ln() / (half as f64 - 1.0);
    let angle = |position: usize, i: usize| position as f64 * (-step * i as f64).exp();
    let values: Vec<f32> = (0..t)
        .flat_map(|position| {
            let sines = (0..half).map(move |i| angle(position, i).sin() as f32);
            sines.chain((0..half).map(move |i| angle(position, i).cos() as f32))
        })
        .collect();
    Tensor::from_data(TensorData::new(values, [t, d]), device)
}

/// Means of neighbours within each input; an odd one at the end is dropped.
fn pool(rows: Tensor<2>, lengths: &mut [usize]) -> Tensor<2> {
    let (mut start, mut first) = (0, Vec::new());
    for length in lengths {
        first.extend((0..*length / 2).map(|pair| start + 2 * pair));
        start += *length;
        *length /= 2;
    }
    let second: Vec<usize> = first.iter().map(|row| row + 1).collect();
    let [first, second] =
        [first, second].map(|places| rows.clone().select(0, indices(&places, &rows.device())));
    (first + second) * 0.5
}

impl Linears for WhisperEncoder {
    /// The layers' maps; the convolutions take no adapters.
    fn linears<'a>(&'a mut self, prefix: &str, found: &mut NamedLinears<'a>) {
        self.layers.linears(&format!("{prefix}layers."), found);
    }
}

impl ModalityEncoder for WhisperEncoder {
    type Input = AudioInput;

    fn d_output(&self) -> usize {
        self.conv2.weight.dims()[1]
    }

    fn num_positions(&self, input: &AudioInput) -> usize {
        self.config.num_positions(input.frames, input.valid_frames)
    }

    fn encode(&self, inputs: &[&AudioInput], device: &Device) -> ModalityFeatures {
        self.encode_rows(self.frame_rows(inputs, device), inputs)
    }
}

impl WhisperEncoder {
    /// What [`ModalityEncoder::encode`] gives, of rows that may be tracked, for gradients with respect to the features of
    /// sounds; `inputs` are the sounds that the rows were made of.
    ///
    /// # Shapes
    /// - input: `[2 N, 3 M]`, as [`WhisperEncoder::frame_rows`] gives them
    ///
    /// # Panics
    /// If there is no sound, one of no frame or of more positions than are learned, or the rows are not those of `inputs`.
    pub fn encode_rows(&self, frame_rows: Tensor<2>, inputs: &[&AudioInput]) -> ModalityFeatures {
        assert!(!inputs.is_empty(), "whisper: expected at least one sound, got none");
        let of_inputs = self.all_sequences(inputs);
        let device = frame_rows.device();
        let positions = |sequences: &Vec<Sequence>| sequences.iter().map(|sequence| sequence.positions).sum();
        let mut lengths: Vec<usize> = of_inputs.iter().map(positions).collect();
        assert!(!lengths.contains(&0), "whisper: expected sounds of at least one frame");
        let sequences = of_inputs.concat();
        let mut hidden = self.convolve(frame_rows, &sequences) + self.positions(&sequences, &device);
        if let Some(first) = self.layers.first() {
            let spans: Vec<usize> = sequences.iter().map(|sequence| sequence.positions).collect();
            hidden = EncoderLayer::run(&self.layers, hidden, &Arc::new(first.layout(&spans)));
        }
        if self.config.pooled {
            hidden = pool(hidden, &mut lengths);
        }
        ModalityFeatures { embeddings: self.norm.forward(hidden), lengths }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Tolerance, activation, module::conv1d, ops::ConvOptions};

    use super::*;

    /// Weight `[C 3, D]` of a product over unfolded frames as a convolution's `[D, C, 3]`.
    fn as_convolution(linear: &Linear) -> Tensor<3> {
        let [taps, d] = linear.weight.dims();
        linear.weight.val().transpose().reshape([d, taps / KERNEL, KERNEL])
    }

    fn sound(frames: usize, valid_frames: usize) -> AudioInput {
        let features: Vec<f32> = (0..80 * frames).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        AudioInput { input_features: features.into(), num_mels: 80, frames, valid_frames }
    }

    /// Convolutions, sinusoids and norm, straight from Burn's operations.
    fn composed(encoder: &WhisperEncoder, input: &AudioInput) -> Tensor<2> {
        let device = Device::default();
        let values = TensorData::new(input.input_features.to_vec(), [1, 80, input.frames]);
        let convolve = |x: Tensor<3>, linear: &Linear, stride: usize| {
            let options = ConvOptions::new([stride], [1], [1], 1);
            let bias = linear.bias.as_ref().map(|bias| bias.val());
            activation::gelu(conv1d(x, as_convolution(linear), bias, options))
        };
        let mel = Tensor::<3>::from_data(values, &device);
        let hidden = convolve(convolve(mel, &encoder.conv1, 1), &encoder.conv2, 2).swap_dims(1, 2);
        let [_, t, d] = hidden.dims();
        encoder.norm.forward(hidden.reshape([t, d]) + sinusoids(t, d, &device))
    }

    fn near(got: Tensor<2>, expected: Tensor<2>) {
        got.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-4));
    }

    #[test]
    fn unfolded_products_equal_the_convolutions() {
        let device = Device::default();
        let config = WhisperConfig { num_layers: 0, ..WhisperConfig::tiny() };
        let encoder = WhisperEncoder::new(&config, &mut WeightInit::new(3, &device));
        let (even, odd) = (sound(20, 20), sound(15, 15));
        let features = encoder.encode(&[&even, &odd], &device);
        assert_eq!(features.lengths, [10, 8]);
        near(features.embeddings.clone().narrow(0, 0, 10), composed(&encoder, &even));
        near(features.embeddings.narrow(0, 10, 8), composed(&encoder, &odd));
    }

    #[test]
    fn padding_is_heard_by_nobody_but_the_convolutions() {
        let device = Device::default();
        let config = WhisperConfig { span: AudioSpan::Valid, pooled: true, ..WhisperConfig::tiny() };
        let encoder = WhisperEncoder::new(&config, &mut WeightInit::new(3, &device));
        let (padded, longer) = (sound(20, 11), sound(20, 14));
        let both = encoder.encode(&[&padded, &longer], &device);
        assert_eq!(both.lengths, [3, 3]);
        assert_eq!([encoder.num_positions(&padded), encoder.num_positions(&longer)], [3, 3]);
        near(both.embeddings.narrow(0, 3, 3), encoder.encode(&[&longer], &device).embeddings);
    }

    #[test]
    fn a_chunk_is_a_sound_of_its_own() {
        let device = Device::default();
        let config = WhisperConfig { span: AudioSpan::Chunks { frames: 8 }, ..WhisperConfig::tiny() };
        let encoder = WhisperEncoder::new(&config, &mut WeightInit::new(3, &device));
        let whole = sound(13, 13);
        let part = |range: std::ops::Range<usize>| {
            let rows = whole.input_features.chunks_exact(13).flat_map(|row| row[range.clone()].to_vec());
            let frames = range.len();
            AudioInput { input_features: rows.collect(), num_mels: 80, frames, valid_frames: frames }
        };
        let features = encoder.encode(&[&whole], &device);
        assert_eq!(features.lengths, [4 + 3]);
        let parts = encoder.encode(&[&part(0..8), &part(8..13)], &device);
        near(features.embeddings, parts.embeddings);
    }
}
