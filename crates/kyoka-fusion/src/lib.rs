#![doc = include_str!("../README.md")]

mod cache;
mod decoder;
mod decoder_layer;
pub mod families;
mod feature_cache;
mod multimodal;
mod packing;
mod positions;
mod projector;
mod recompute;

pub use cache::DecoderCache;
pub use decoder::{Decoder, DecoderConfig};
pub use feature_cache::FeatureCache;
pub use multimodal::{MultimodalLm, NoEncoder, Trace};
pub use positions::PositionScheme;
pub use projector::{Projector, ProjectorConfig, Tower};
