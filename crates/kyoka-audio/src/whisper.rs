//! Whisper's audio encoder (arXiv 2212.04356): two convolutions, sinusoidal positions, pre-norm layers.

use burn::{
    module::Module,
    nn::Linear,
    tensor::{Bool, Device, Tensor, TensorData},
};
use kyoka_core::{AudioInput, ModalityEncoder, ModalityFeatures};
use kyoka_nn::{Activation, EncoderLayer, EncoderLayerConfig, LayerNorm, WeightInit, fused};
use serde::{Deserialize, Serialize};

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
}

impl WhisperConfig {
    /// Two layers of width 96: about 0.28 M parameters.
    pub fn tiny() -> Self {
        let layer = EncoderLayerConfig {
            d_model: 96,
            num_heads: 3,
            d_hidden: 384,
            norm_epsilon: 1e-5,
            activation: Activation::Gelu,
        };
        Self { num_mels: 80, num_layers: 2, layer }
    }
}

/// Kernel width of both convolutions.
const KERNEL: usize = 3;

/// Log-mel frames to one feature for every two frames.
///
/// The convolutions are matrix products over unfolded frames: tap by tap, channels within a tap.
#[derive(Module, Debug)]
pub struct WhisperEncoder {
    /// Stride 1; weight `[3 * num_mels, D]`.
    pub conv1: Linear,
    /// Stride 2; weight `[3 * D, D]`.
    pub conv2: Linear,
    /// The layers.
    pub layers: Vec<EncoderLayer>,
    /// Norm after the last layer.
    pub norm: LayerNorm,
    num_mels: usize,
}

impl WhisperEncoder {
    /// An encoder with seeded weights.
    pub fn new(config: &WhisperConfig, init: &mut WeightInit) -> Self {
        let WhisperConfig { num_mels, num_layers, layer } = *config;
        Self {
            conv1: init.linear(KERNEL * num_mels, layer.d_model, true),
            conv2: init.linear(KERNEL * layer.d_model, layer.d_model, true),
            layers: (0..num_layers).map(|_| EncoderLayer::new(layer, init)).collect(),
            norm: LayerNorm::new(layer.d_model, layer.norm_epsilon, init),
            num_mels,
        }
    }

    /// Three neighbouring frames side by side, zeros beyond the ends.
    fn unfold(&self, input: &AudioInput, values: &mut Vec<f32>) {
        assert_eq!(input.num_mels, self.num_mels, "whisper: expected the configured number of mel bands");
        for frame in 0..input.frames {
            for tap in 0..KERNEL {
                let source = (frame + tap).checked_sub(1).filter(|&source| source < input.frames);
                values.extend((0..self.num_mels).map(|mel| {
                    source.map_or(0.0, |source| input.input_features[mel * input.frames + source])
                }));
            }
        }
    }
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

impl ModalityEncoder for WhisperEncoder {
    type Input = AudioInput;

    fn d_output(&self) -> usize {
        self.conv2.weight.dims()[1]
    }

    fn num_positions(&self, input: &AudioInput) -> usize {
        input.frames / 2
    }

    fn encode(&self, inputs: &[&AudioInput], device: &Device) -> ModalityFeatures {
        assert!(!inputs.is_empty(), "whisper: expected at least one sound, got none");
        let frames = inputs[0].frames;
        assert!(
            frames > 0 && frames.is_multiple_of(2) && inputs.iter().all(|input| input.frames == frames),
            "whisper: expected sounds of one even number of frames"
        );
        let (b, t, d) = (inputs.len(), frames / 2, self.d_output());
        let mut values = Vec::with_capacity(b * frames * KERNEL * self.num_mels);
        for input in inputs {
            self.unfold(input, &mut values);
        }
        let unfolded =
            Tensor::<2>::from_data(TensorData::new(values, [b * frames, KERNEL * self.num_mels]), device);
        // Frame pairs: [B, T, 2, D] with tap 1 the even frame, tap 2 the odd one, tap 0 the odd one before.
        let pairs: Tensor<3> = fused::gelu(self.conv1.forward(unfolded)).reshape([b, t, 2 * d]);
        let odd = pairs.clone().narrow(2, d, d);
        let before = Tensor::cat(vec![Tensor::zeros([b, 1, d], device), odd.narrow(1, 0, t - 1)], 1);
        let taps: Tensor<2> = Tensor::cat(vec![before, pairs], 2).reshape([b * t, KERNEL * d]);
        let embedded: Tensor<3> = fused::gelu(self.conv2.forward(taps)).reshape([b, t, d]);
        let hidden = embedded + sinusoids(t, d, device).unsqueeze();
        let hidden = EncoderLayer::run(&self.layers, hidden);
        let embeddings = self.norm.forward(hidden.reshape([b * t, d])).reshape([b, t, d]);
        let mask = Tensor::<2, Bool>::from_data(TensorData::new(vec![true; b * t], [b, t]), device);
        ModalityFeatures { embeddings, mask }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Tolerance, activation, module::conv1d, ops::ConvOptions};

    use super::*;

    /// Weight `[3 C, D]` of a product over unfolded frames as a convolution's `[D, C, 3]`.
    fn as_convolution(linear: &Linear) -> Tensor<3> {
        let [taps, d] = linear.weight.dims();
        linear.weight.val().reshape([KERNEL, taps / KERNEL, d]).permute([2, 1, 0])
    }

    #[test]
    fn unfolded_products_equal_the_convolutions() {
        let device = Device::default();
        let config = WhisperConfig { num_layers: 0, ..WhisperConfig::tiny() };
        let encoder = WhisperEncoder::new(&config, &mut WeightInit::new(3, &device));
        let features: Vec<f32> = (0..80 * 20).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        let mel = Tensor::<3>::from_data(TensorData::new(features.clone(), [1, 80, 20]), &device);
        let input = AudioInput { input_features: features.into(), num_mels: 80, frames: 20, valid_frames: 20 };
        let convolve = |x: Tensor<3>, linear: &Linear, stride: usize| {
            let options = ConvOptions::new([stride], [1], [1], 1);
            activation::gelu(conv1d(
                x,
                as_convolution(linear),
                linear.bias.as_ref().map(|b| b.val()),
                options,
            ))
        };
        let hidden = convolve(convolve(mel, &encoder.conv1, 1), &encoder.conv2, 2).swap_dims(1, 2);
        let embedded = hidden + sinusoids(10, 96, &device).unsqueeze();
        let expected = encoder.norm.forward(embedded.reshape([10, 96])).reshape([1, 10, 96]);
        let got = encoder.encode(&[&input], &device).embeddings;
        got.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-4));
    }
}
