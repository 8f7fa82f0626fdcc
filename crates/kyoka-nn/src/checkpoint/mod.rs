//! Checkpoints in safetensors: files mapped into memory, read by rule, written back under the names they had.

mod config_fields;
mod decode;
mod encode;
mod error;
mod files;
mod header;
mod index;
mod load;
mod write;

pub use config_fields::{ConfigError, ConfigFields};
pub use encode::DiskTensor;
pub use error::{CheckpointError, TensorFault};
pub use files::{CheckpointFiles, CheckpointLayout, TensorInfo};
pub use load::Fit;
pub use safetensors::Dtype;
pub use write::{write_checkpoint, write_tensors};

pub(crate) use decode::{FLOATS, Rows, copy, is_float, turn};
