#![doc = include_str!("../README.md")]

mod attention;
mod cache;
mod checkpoint;
mod encoder_layer;
pub mod fused;
mod host_kv;
mod init;
mod layer_norm;
mod mlp;
mod packed_attention;
mod rotary;
mod weight_rule;

pub use attention::{PrefixKv, attend, causal_bias};
pub use cache::CompletionKv;
pub use checkpoint::{
    CheckpointError, CheckpointFiles, CheckpointLayout, DiskTensor, Dtype, Fit, TensorFault, TensorInfo,
    write_checkpoint, write_tensors,
};
pub use encoder_layer::{EncoderLayer, EncoderLayerConfig};
pub use host_kv::{HostKv, StepRow, caches_on_host};
pub use init::WeightInit;
pub use layer_norm::LayerNorm;
pub use mlp::{Activation, GatedMlp, GeluMlp};
pub use packed_attention::{AttentionLayout, HeadConfig, indices, packed_attention};
pub use rotary::{Rotary, RotaryConfig};
pub use weight_rule::WeightRule;
