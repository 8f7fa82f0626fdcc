#![doc = include_str!("../README.md")]

use kyoka_core::{Maker, RewardFn, own};

mod accuracy;
mod combine;
mod cosine_length;
mod environment;
mod format;
mod named;
mod overlong;
mod quantity;
mod repetition;
mod running_count;
mod sections;
mod steps;
mod text;

pub use accuracy::{ExactAnswer, NumericAnswer};
pub use combine::WeightedSum;
pub use cosine_length::CosineLength;
pub use environment::EnvironmentReward;
pub use format::Format;
pub use named::Named;
pub use overlong::SoftOverlong;
pub use repetition::RepetitionPenalty;
pub use running_count::RunningCount;
pub use sections::{answer, think};
pub use steps::StepAccuracy;

/// Rules that need nothing but settings of their own, by the kind that recipes call them, and what makes them.
#[rustfmt::skip] // A line a kind, as `cargo xtask new` adds them.
pub const RULES: &[(&str, Maker<dyn RewardFn>)] = &[
    ("environment", |settings| Ok(Box::new(own::<EnvironmentReward>(settings)?))),
    ("repetition", |settings| Ok(Box::new(own::<RepetitionPenalty>(settings)?))),
];
