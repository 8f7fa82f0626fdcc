//! From pixels to what an encoder reads.

mod config;
mod crop;
mod fixed_size;
mod idefics3;
mod qwen2_vl;

pub use crop::{CropProcessor, TargetSize};
pub use fixed_size::FixedSizeProcessor;
pub use idefics3::Idefics3Processor;
pub use qwen2_vl::{PatchShape, Qwen2VlProcessor, smart_resize};

use kyoka_core::ImageInput;
use serde::{Deserialize, Serialize};

use crate::{ImageError, Picture};

/// Most pixels of one view: a square of 16,384 a side.
const MAX_PIXELS: usize = 1 << 28;

/// Makes encoder input of pictures, as the encoder's family was trained with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ImageProcessor {
    /// Encoders from scratch: one size for all.
    FixedSize(FixedSizeProcessor),
    /// CLIP, SigLIP, DINOv2, ViT.
    Crop(CropProcessor),
    /// SmolVLM, Idefics3.
    Idefics3(Idefics3Processor),
    /// Qwen2-VL, Qwen2.5-VL, Qwen2.5-Omni.
    Qwen2Vl(Qwen2VlProcessor),
}

impl Default for ImageProcessor {
    fn default() -> Self {
        Self::fixed_size(28, 28)
    }
}

/// What a picture becomes, known from its size alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLayout {
    /// Views of the picture.
    pub num_views: usize,
    /// Height of a view in pixels.
    pub height: usize,
    /// Width of a view in pixels.
    pub width: usize,
    /// Rows and columns of tiles; `None`: not split.
    pub split: Option<[usize; 2]>,
}

impl ImageProcessor {
    /// Every picture at one size, values in [-1, 1].
    pub fn fixed_size(height: usize, width: usize) -> Self {
        Self::FixedSize(FixedSizeProcessor { height, width, ..FixedSizeProcessor::default() })
    }

    /// What a picture of this size becomes.
    ///
    /// # Errors
    /// If the family refuses pictures of this size.
    pub fn layout(&self, height: usize, width: usize) -> Result<ImageLayout, ImageError> {
        match self {
            Self::FixedSize(fixed) => {
                Ok(ImageLayout { num_views: 1, height: fixed.height, width: fixed.width, split: None })
            }
            Self::Crop(processor) => processor.layout(height, width),
            Self::Idefics3(processor) => Ok(processor.layout(height, width)),
            Self::Qwen2Vl(processor) => processor.layout(height, width),
        }
    }

    /// Encoder input of a picture.
    ///
    /// # Errors
    /// If the family refuses pictures of this size.
    pub fn process(&self, picture: &Picture) -> Result<ImageInput, ImageError> {
        match self {
            Self::FixedSize(processor) => Ok(processor.process(picture)),
            Self::Crop(processor) => processor.process(picture),
            Self::Idefics3(processor) => Ok(processor.process(picture)),
            Self::Qwen2Vl(processor) => processor.process(picture),
        }
    }
}

fn check_area(height: usize, width: usize) -> Result<(), ImageError> {
    let fits = height.checked_mul(width).is_some_and(|area| area <= MAX_PIXELS);
    if fits { Ok(()) } else { Err(ImageError::TooLarge { height, width, most: MAX_PIXELS }) }
}
