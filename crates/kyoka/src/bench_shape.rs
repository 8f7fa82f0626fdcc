//! The policy that is measured when no checkpoint is named.

use std::str::FromStr;

use kyoka_fusion::{DecoderConfig, ProjectorConfig};
use kyoka_image::{ImageEncoderConfig, ImageProcessor, VitConfig};
use kyoka_nn::{Activation, EncoderLayerConfig};

use crate::{PolicyConfig, VisionConfig};

/// Tokens of the vocabulary; the first eight are special.
pub(crate) const VOCAB: usize = 2048;
/// Ends a completion.
pub(crate) const END_ID: u32 = 2;
/// Stands for pictures.
pub(crate) const IMAGE_ID: u32 = 4;

/// Side of a patch, and patches of a square that make a token.
const PATCH: usize = 16;
const FOLD: usize = 4;

/// Width of a head.
const HEAD: usize = 64;

/// A SmolVLM-shaped policy with random weights: the vision tower of the peers' fixture (width 192, 4 layers) and a decoder
/// of a chosen size. `256x4` is the fixture itself, 6.1 M parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BenchShape {
    /// Width of the decoder, a multiple of 128.
    pub d_model: usize,
    /// Layers of the decoder.
    pub num_layers: usize,
}

impl Default for BenchShape {
    fn default() -> Self {
        Self { d_model: 256, num_layers: 4 }
    }
}

impl FromStr for BenchShape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sizes = text.split_once('x').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match sizes {
            Some((d_model, num_layers)) if d_model > 0 && d_model % (2 * HEAD) == 0 && num_layers > 0 => {
                Ok(Self { d_model, num_layers })
            }
            _ => Err("expected a width (a multiple of 128) and a number of layers, such as 256x4".to_owned()),
        }
    }
}

impl BenchShape {
    /// The configuration whose pictures take `image_tokens` tokens; `None` if no square picture does.
    pub(crate) fn config(self, image_tokens: usize) -> Option<PolicyConfig> {
        let columns = image_tokens.isqrt();
        if columns == 0 || columns * columns != image_tokens {
            return None;
        }
        let side = columns * FOLD.isqrt() * PATCH;
        let decoder = DecoderConfig {
            d_model: self.d_model,
            num_layers: self.num_layers,
            num_heads: self.d_model / HEAD,
            num_kv_heads: self.d_model / HEAD / 2,
            d_head: HEAD,
            // As 688 to 256.
            d_hidden: self.d_model * 43 / 16,
            tie_embeddings: false,
            max_positions: 2048,
            ..DecoderConfig::tiny(VOCAB)
        };
        let activation = Activation::GeluPytorchTanh;
        let layer = EncoderLayerConfig { activation, ..EncoderLayerConfig::plain(192, 3, 768, 1e-6) };
        let vision = VisionConfig {
            processor: ImageProcessor::fixed_size(side, side),
            encoder: ImageEncoderConfig::Vit(VitConfig::new(side, PATCH, 4, layer)),
            projector: ProjectorConfig {
                grid_columns: Some(side / PATCH),
                ..ProjectorConfig::linear(FOLD, false)
            },
        };
        Some(PolicyConfig { vision: Some(vision), ..PolicyConfig::of(decoder) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_a_width_and_layers() {
        assert_eq!("384x6".parse(), Ok(BenchShape { d_model: 384, num_layers: 6 }));
        for wrong in ["256", "250x4", "0x4", "256x0", "x", "256x4x1"] {
            assert!(wrong.parse::<BenchShape>().is_err(), "{wrong}");
        }
        assert!(BenchShape::default().config(15).is_none());
        let config = BenchShape::default().config(64).unwrap();
        let vision = config.vision.unwrap();
        let layout = vision.processor.layout(512, 512).unwrap();
        assert_eq!(vision.tokens_of_layout(&layout).tokens_per_view, 64);
    }
}
