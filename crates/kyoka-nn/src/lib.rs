#![doc = include_str!("../README.md")]

mod attention;
mod attention_bias;
mod attention_layout;
mod cache;
mod checkpoint;
mod dropout;
mod encoder_layer;
pub mod fused;
mod host_kv;
mod init;
mod linear;
mod mlp;
mod norm;
mod packed_attention;
mod rope_scaling;
mod rotary;
mod weight_rule;

pub use attention::{PrefixKv, attend};
pub use attention_bias::{causal_bias, prefix_bias};
pub use attention_layout::{AttentionLayout, HeadConfig, indices};
pub use cache::CompletionKv;
pub use checkpoint::{
    CheckpointError, CheckpointFiles, CheckpointLayout, ConfigError, ConfigFields, DiskTensor, Dtype, Fit,
    TensorFault, TensorInfo, write_checkpoint, write_tensors,
};
pub use dropout::SeededDropout;
pub use encoder_layer::{EncoderLayer, EncoderLayerConfig};
pub use host_kv::{HostKv, StepRow, caches_on_host};
pub use init::WeightInit;
pub use linear::{Linear, Linears, LowRank, LowRankConfig, NamedLinears};
pub use mlp::{Activation, GatedMlp, GeluMlp};
pub use norm::{Norm, NormKind};
pub use packed_attention::{masked_attention, packed_attention};
pub use rope_scaling::{RopeScaling, yarn_attention_factor};
pub use rotary::{Position, Rotary, RotaryAxes, RotaryConfig};
pub use weight_rule::WeightRule;
