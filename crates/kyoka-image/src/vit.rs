//! A vision transformer (arXiv 2010.11929) without class token: one feature a patch.

use burn::{
    module::{Module, Param},
    nn::Linear,
    tensor::{Bool, Device, Tensor, TensorData},
};
use kyoka_core::{ImageInput, ModalityEncoder, ModalityFeatures};
use kyoka_nn::{Activation, EncoderLayer, EncoderLayerConfig, LayerNorm, WeightInit, WeightRule};
use serde::{Deserialize, Serialize};

/// Sizes of the encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// Height of the pictures in pixels, a multiple of the patch.
    pub height: usize,
    /// Width of the pictures in pixels, a multiple of the patch.
    pub width: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Number of layers.
    pub num_layers: usize,
    /// Sizes of a layer.
    pub layer: EncoderLayerConfig,
}

impl VitConfig {
    /// Three layers of width 96 over 28 x 28 pictures in 16 patches: about 0.35 M parameters.
    pub fn tiny() -> Self {
        let layer = EncoderLayerConfig {
            d_model: 96,
            num_heads: 3,
            d_hidden: 384,
            norm_epsilon: 1e-6,
            activation: Activation::Gelu,
        };
        Self { height: 28, width: 28, patch_size: 7, num_layers: 3, layer }
    }
}

/// Patch embedding, learned positions, pre-norm layers, final norm.
#[derive(Module, Debug)]
pub struct VitEncoder {
    /// Weight `[3 * patch * patch, D]`: a convolution whose stride is its width.
    pub patch_embedding: Linear,
    /// Shape `[P, D]`.
    pub position_embedding: Param<Tensor<2>>,
    /// The layers.
    pub layers: Vec<EncoderLayer>,
    /// Norm after the last layer.
    pub norm: LayerNorm,
    height: usize,
    width: usize,
    patch_size: usize,
}

impl VitEncoder {
    /// An encoder with seeded weights.
    ///
    /// # Panics
    /// If the patch does not divide the picture.
    pub fn new(config: &VitConfig, init: &mut WeightInit) -> Self {
        let VitConfig { height, width, patch_size, num_layers, layer } = *config;
        assert!(
            height % patch_size == 0 && width % patch_size == 0,
            "vit: patches of {patch_size} do not divide a picture of {height} x {width}"
        );
        let positions = (height / patch_size) * (width / patch_size);
        Self {
            patch_embedding: init.linear(3 * patch_size * patch_size, layer.d_model, true),
            position_embedding: init.uniform([positions, layer.d_model], 0.02),
            layers: (0..num_layers).map(|_| EncoderLayer::new(layer, init)).collect(),
            norm: LayerNorm::new(layer.d_model, layer.norm_epsilon, init),
            height,
            width,
            patch_size,
        }
    }

    /// How the parameters are made of a SigLIP checkpoint's, whose names start with `theirs`; ours start with `ours`.
    pub fn siglip_rules(config: &VitConfig, ours: &str, theirs: &str) -> Vec<WeightRule> {
        let patches = WeightRule::linear(
            &format!("{ours}patch_embedding"),
            &[format!("{theirs}embeddings.patch_embedding")],
            true,
        );
        let positions = WeightRule::same(
            format!("{ours}position_embedding"),
            format!("{theirs}embeddings.position_embedding.weight"),
        );
        let norm = |ours: String, theirs: String| {
            [("gamma", "weight"), ("beta", "bias")]
                .map(|(part, name)| WeightRule::same(format!("{ours}.{part}"), format!("{theirs}.{name}")))
        };
        let mut rules = patches;
        rules.push(positions);
        rules.extend(norm(format!("{ours}norm"), format!("{theirs}post_layernorm")));
        for layer in 0..config.num_layers {
            let (ours, theirs) = (format!("{ours}layers.{layer}"), format!("{theirs}encoder.layers.{layer}"));
            let mut linear = |part: &str, names: &[&str]| {
                let names: Vec<String> = names.iter().map(|name| format!("{theirs}.{name}")).collect();
                rules.extend(WeightRule::linear(&format!("{ours}.{part}"), &names, true));
            };
            linear("qkv", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]);
            linear("out", &["self_attn.out_proj"]);
            linear("mlp.fc1", &["mlp.fc1"]);
            linear("mlp.fc2", &["mlp.fc2"]);
            rules.extend(norm(format!("{ours}.attention_norm"), format!("{theirs}.layer_norm1")));
            rules.extend(norm(format!("{ours}.mlp_norm"), format!("{theirs}.layer_norm2")));
        }
        rules
    }

    /// Pixels of one picture, patch by patch, each patch channels first.
    fn unfold(&self, input: &ImageInput, values: &mut Vec<f32>) {
        let ImageInput { num_views, channels, height, width, .. } = *input;
        assert_eq!(
            (num_views, channels, height, width),
            (1, 3, self.height, self.width),
            "vit: expected one view and (channels, height, width) as configured"
        );
        let side = self.patch_size;
        for top in (0..height).step_by(side) {
            for left in (0..width).step_by(side) {
                for channel in 0..channels {
                    for y in top..top + side {
                        let start = (channel * height + y) * width + left;
                        values.extend_from_slice(&input.pixel_values[start..start + side]);
                    }
                }
            }
        }
    }
}

impl ModalityEncoder for VitEncoder {
    type Input = ImageInput;

    fn d_output(&self) -> usize {
        self.position_embedding.dims()[1]
    }

    fn num_positions(&self, _: &ImageInput) -> usize {
        self.position_embedding.dims()[0]
    }

    fn encode(&self, inputs: &[&ImageInput], device: &Device) -> ModalityFeatures {
        assert!(!inputs.is_empty(), "vit: expected at least one picture, got none");
        let [p, d] = self.position_embedding.dims();
        let b = inputs.len();
        let d_patch = 3 * self.patch_size * self.patch_size;
        let mut values = Vec::with_capacity(b * p * d_patch);
        for input in inputs {
            self.unfold(input, &mut values);
        }
        let patches = Tensor::<2>::from_data(TensorData::new(values, [b * p, d_patch]), device);
        let embedded: Tensor<3> = self.patch_embedding.forward(patches).reshape([b, p, d]);
        let hidden = embedded + self.position_embedding.val().unsqueeze();
        let hidden = EncoderLayer::run(&self.layers, hidden);
        let embeddings = self.norm.forward(hidden.reshape([b * p, d])).reshape([b, p, d]);
        let mask = Tensor::<2, Bool>::from_data(TensorData::new(vec![true; b * p], [b, p]), device);
        ModalityFeatures { embeddings, mask }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageProcessor;

    #[test]
    fn features_of_a_picture_do_not_depend_on_its_neighbours() {
        let device = Device::default();
        let encoder = VitEncoder::new(&VitConfig::tiny(), &mut WeightInit::new(1, &device));
        let process = |shade: u8| {
            let values = (0..784).map(|i| (i as u8).wrapping_mul(shade)).collect();
            ImageProcessor::default().process(&crate::Picture::grey(28, 28, values))
        };
        let (first, second) = (process(3), process(7));
        let both = encoder.encode(&[&first, &second], &device).embeddings;
        let alone = encoder.encode(&[&second], &device).embeddings;
        let difference = (both.narrow(0, 1, 1) - alone).abs().max().into_scalar::<f32>();
        assert!(difference < 1e-5, "{difference}");
    }

    #[test]
    fn patches_are_read_row_by_row_channels_first() {
        let mut config = VitConfig::tiny();
        (config.height, config.width, config.patch_size) = (2, 4, 2);
        let encoder = VitEncoder::new(&config, &mut WeightInit::new(1, &Device::default()));
        let pixel_values: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let input = ImageInput::one_view(pixel_values.into(), [3, 2, 4]);
        let mut values = Vec::new();
        encoder.unfold(&input, &mut values);
        let expected = [0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23];
        assert_eq!(values, expected.map(|i| i as f32));
    }
}
