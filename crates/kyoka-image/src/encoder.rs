//! The vision towers under one name.

use burn::{module::Module, tensor::Device};
use kyoka_core::{ImageInput, ModalityEncoder, ModalityFeatures};
use kyoka_nn::{Linears, NamedLinears, WeightInit};
use serde::{Deserialize, Serialize};

use crate::{ImageProcessor, QwenVisionConfig, QwenVisionEncoder, VitConfig, VitEncoder};

/// Sizes of a vision tower of any kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ImageEncoderConfig {
    /// SigLIP, CLIP, DINOv2, and our own.
    Vit(VitConfig),
    /// Qwen2-VL and its kin.
    Qwen(QwenVisionConfig),
}

impl ImageEncoderConfig {
    /// An encoder with seeded weights.
    pub fn build(&self, init: &mut WeightInit) -> ImageEncoder {
        match self {
            Self::Vit(config) => ImageEncoder::Vit(VitEncoder::new(config, init)),
            Self::Qwen(config) => ImageEncoder::Qwen(QwenVisionEncoder::new(config, init)),
        }
    }

    /// Refuses a processor that cuts pictures into other patches than this tower reads.
    ///
    /// # Errors
    /// Names the field of the processor that differs.
    pub fn check_processor(&self, processor: &ImageProcessor) -> Result<(), String> {
        let (Self::Qwen(tower), ImageProcessor::Qwen2Vl(processor)) = (self, processor) else {
            return Ok(());
        };
        let patches = &processor.patches;
        let pairs = [
            ("patch_size", tower.patch_size, patches.patch_size),
            ("merge_size", tower.merge_size, patches.merge_size),
            ("temporal_patch_size", tower.temporal_patch_size, patches.temporal_patch_size),
        ];
        match pairs.into_iter().find(|(_, expected, got)| expected != got) {
            None => Ok(()),
            Some((field, expected, got)) => {
                Err(format!("{field}: expected the tower's {expected}, got {got}"))
            }
        }
    }
}

/// A vision tower of any kind.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "one exists a policy, and it is never moved in bulk")]
pub enum ImageEncoder {
    /// SigLIP, CLIP, DINOv2, and our own.
    Vit(VitEncoder),
    /// Qwen2-VL and its kin.
    Qwen(QwenVisionEncoder),
}

impl Linears for ImageEncoder {
    fn linears<'a>(&'a mut self, prefix: &str, found: &mut NamedLinears<'a>) {
        match self {
            Self::Vit(encoder) => encoder.linears(prefix, found),
            Self::Qwen(encoder) => encoder.linears(prefix, found),
        }
    }
}

impl ModalityEncoder for ImageEncoder {
    type Input = ImageInput;

    fn d_output(&self) -> usize {
        match self {
            Self::Vit(encoder) => encoder.d_output(),
            Self::Qwen(encoder) => encoder.d_output(),
        }
    }

    fn num_positions(&self, input: &ImageInput) -> usize {
        match self {
            Self::Vit(encoder) => encoder.num_positions(input),
            Self::Qwen(encoder) => encoder.num_positions(input),
        }
    }

    fn grid(&self, input: &ImageInput) -> Option<[usize; 3]> {
        match self {
            Self::Vit(encoder) => encoder.grid(input),
            Self::Qwen(encoder) => encoder.grid(input),
        }
    }

    fn encode(&self, inputs: &[&ImageInput], device: &Device) -> ModalityFeatures {
        match self {
            Self::Vit(encoder) => encoder.encode(inputs, device),
            Self::Qwen(encoder) => encoder.encode(inputs, device),
        }
    }
}
