#![doc = include_str!("../README.md")]

use kyoka_core::{Maker, RewardFn, own};

mod accuracy;
mod answer_place;
mod box_match;
mod choice_answer;
mod combine;
mod cosine_length;
mod environment;
mod format;
mod list_match;
mod math;
mod math_answer;
mod named;
mod numbers;
mod overlong;
mod quantity;
mod repetition;
mod running_count;
mod said_count;
mod sections;
mod steps;
mod text;
mod transcript;
mod yes_no;

pub use accuracy::{ExactAnswer, NumericAnswer};
pub use answer_place::{AnswerPlace, Pattern};
pub use box_match::{BoxMatch, BoxMeasure, PixelBox, boxes_of};
pub use choice_answer::ChoiceAnswer;
pub use combine::WeightedSum;
pub use cosine_length::CosineLength;
pub use environment::EnvironmentReward;
pub use format::Format;
pub use list_match::ListMatch;
pub use math_answer::MathAnswer;
pub use named::Named;
pub use overlong::SoftOverlong;
pub use repetition::RepetitionPenalty;
pub use running_count::RunningCount;
pub use said_count::SaidCount;
pub use sections::{answer, think};
pub use steps::StepAccuracy;
pub use transcript::{ErrorRates, Transcript, TranscriptUnit};
pub use yes_no::YesNo;

/// Rules that need nothing but settings of their own, by the kind that recipes call them, and what makes them.
#[rustfmt::skip] // A line a kind, as `cargo xtask new` adds them.
pub const RULES: &[(&str, Maker<dyn RewardFn>)] = &[
    ("box_match", |settings| Ok(Box::new(own::<BoxMatch>(settings)?))),
    ("choice_answer", |settings| Ok(Box::new(own::<ChoiceAnswer>(settings)?))),
    ("count_answer", |settings| Ok(Box::new(own::<SaidCount>(settings)?))),
    ("environment", |settings| Ok(Box::new(own::<EnvironmentReward>(settings)?))),
    ("list_match", |settings| Ok(Box::new(own::<ListMatch>(settings)?))),
    ("math_answer", |settings| Ok(Box::new(own::<MathAnswer>(settings)?))),
    ("repetition", |settings| Ok(Box::new(own::<RepetitionPenalty>(settings)?))),
    ("transcript", |settings| Ok(Box::new(own::<Transcript>(settings)?))),
    ("yes_no_answer", |settings| Ok(Box::new(own::<YesNo>(settings)?))),
];
