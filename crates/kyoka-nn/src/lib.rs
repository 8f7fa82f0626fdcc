#![doc = include_str!("../README.md")]

mod attention;
mod cache;
mod encoder_layer;
mod init;
mod mlp;
mod rotary;

pub use attention::{PrefixKv, attend, causal_bias};
pub use cache::CompletionKv;
pub use encoder_layer::{EncoderLayer, EncoderLayerConfig};
pub use init::WeightInit;
pub use mlp::{GatedMlp, GeluMlp};
pub use rotary::{Rotary, RotaryConfig};
