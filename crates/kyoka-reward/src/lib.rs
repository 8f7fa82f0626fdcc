#![doc = include_str!("../README.md")]

mod accuracy;
mod combine;
mod format;
mod overlong;
mod running_count;
mod sections;
mod steps;

pub use accuracy::{ExactAnswer, NumericAnswer};
pub use combine::WeightedSum;
pub use format::Format;
pub use overlong::SoftOverlong;
pub use running_count::RunningCount;
pub use sections::{answer, think};
pub use steps::StepAccuracy;
