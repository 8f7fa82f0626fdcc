#![doc = include_str!("../README.md")]

mod cache;
mod decoder;
mod decoder_layer;
mod multimodal;
mod packing;
mod projector;
mod recompute;

pub use cache::DecoderCache;
pub use decoder::{Decoder, DecoderConfig};
pub use multimodal::{MultimodalLm, NoEncoder};
pub use projector::{Projector, ProjectorConfig, Tower};
