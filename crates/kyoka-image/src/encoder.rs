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
    /// One that a program brings: what others need to know of it.
    Own(OwnImageEncoder),
}

/// An image encoder of another crate, as the configuration of a policy tells of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnImageEncoder {
    /// What the program calls it.
    pub name: String,
    /// What the encoder itself reads.
    pub settings: serde_json::Value,
    /// Positions of a picture.
    pub num_positions: usize,
    /// Width of a position's vector.
    pub d_output: usize,
    /// Its parameters.
    pub num_params: usize,
}

impl ImageEncoderConfig {
    /// An encoder with seeded weights; `None` for one that only the program that brings it can build.
    pub fn build(&self, init: &mut WeightInit) -> Option<ImageEncoder> {
        match self {
            Self::Vit(config) => Some(ImageEncoder::Vit(VitEncoder::new(config, init))),
            Self::Qwen(config) => Some(ImageEncoder::Qwen(QwenVisionEncoder::new(config, init))),
            Self::Own(_) => None,
        }
    }

    /// Positions of so many views of a picture, each of so many pixels; a class token is none.
    pub fn num_positions(&self, num_views: usize, height: usize, width: usize) -> usize {
        match self {
            Self::Vit(VitConfig { patch_size, .. }) => {
                num_views * (height / patch_size) * (width / patch_size)
            }
            Self::Qwen(QwenVisionConfig { patch_size, temporal_patch_size, .. }) => {
                num_views.div_ceil(*temporal_patch_size) * (height / patch_size) * (width / patch_size)
            }
            Self::Own(own) => own.num_positions,
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
