#![doc = include_str!("../README.md")]

mod augment;
mod encoder;
mod error;
pub mod families;
mod jpeg;
mod limits;
mod patches;
mod picture;
mod positions;
mod processor;
mod qwen_vision;
mod resample;
mod scale;
mod tiff;
mod vit;

pub use augment::ImageAugment;
pub use encoder::{ImageEncoder, ImageEncoderConfig, OwnImageEncoder};
pub use error::ImageError;
pub use kyoka_nn::ConfigError;
pub use picture::Picture;
pub use processor::{
    CropProcessor, FixedSizeProcessor, Idefics3Processor, ImageLayout, ImageProcessor, PatchShape,
    Qwen2VlProcessor, TargetSize, smart_resize,
};
pub use qwen_vision::{QwenVisionConfig, QwenVisionEncoder};
pub use resample::{Resample, resize, resize_window};
pub use scale::PixelScale;
pub use vit::{VitConfig, VitEncoder, VitPositions};
