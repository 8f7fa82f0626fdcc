#![doc = include_str!("../README.md")]

mod augment;
mod encoder;
mod error;
pub mod families;
mod patches;
mod picture;
mod positions;
mod processor;
mod qwen_vision;
mod vit;

pub use augment::ImageAugment;
pub use encoder::{ImageEncoder, ImageEncoderConfig};
pub use error::ImageError;
pub use picture::Picture;
pub use processor::ImageProcessor;
pub use qwen_vision::{QwenVisionConfig, QwenVisionEncoder};
pub use vit::{VitConfig, VitEncoder, VitPositions};
