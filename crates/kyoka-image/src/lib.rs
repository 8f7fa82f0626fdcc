#![doc = include_str!("../README.md")]

mod augment;
mod error;
mod picture;
mod processor;
mod vit;

pub use augment::ImageAugment;
pub use error::ImageError;
pub use picture::Picture;
pub use processor::ImageProcessor;
pub use vit::{VitConfig, VitEncoder};
