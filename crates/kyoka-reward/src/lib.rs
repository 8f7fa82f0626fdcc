#![doc = include_str!("../README.md")]

use kyoka_core::{Maker, RewardFn, own};

mod accuracy;
mod adaptive_length;
mod answer_place;
mod box_match;
mod choice_answer;
mod combine;
mod consistency;
mod cosine_length;
mod detection;
mod environment;
mod external;
mod format;
mod gate;
#[cfg(feature = "json-schema")]
mod json_schema;
mod judge;
mod learned;
mod lint;
mod list_match;
mod math;
mod math_answer;
mod named;
mod numbers;
mod overlong;
mod per_row;
mod quantity;
mod repetition;
mod running_count;
mod said_count;
mod sections;
mod step_validity;
mod steps;
mod text;
mod transcript;
mod yes_no;

pub use accuracy::{ExactAnswer, NumericAnswer};
pub use adaptive_length::AdaptiveLength;
pub use answer_place::{AnswerPlace, Pattern};
pub use box_match::{BoxMatch, BoxMeasure, PixelBox, boxes_of};
pub use choice_answer::ChoiceAnswer;
pub use combine::{ScheduleBy, Weight, WeightSchedule, WeightedSum};
pub use consistency::{Conclusion, Consistency};
pub use cosine_length::CosineLength;
pub use detection::Detection;
pub use environment::EnvironmentReward;
#[cfg(feature = "http")]
pub use external::{HttpReward, HttpRewardSettings};
pub use external::{ProgramReward, ProgramRewardSettings, stop_programs};
pub use format::{Form, Format};
#[cfg(feature = "json-schema")]
pub use json_schema::{JsonSchema, JsonSchemaSettings};
pub use judge::{Judge, JudgeMode, JudgeSettings};
pub use learned::Learned;
pub use lint::{Lint, Probe, completion_of, lint, probes};
pub use list_match::ListMatch;
pub use math_answer::MathAnswer;
pub use named::Named;
pub use overlong::SoftOverlong;
pub use per_row::{PerRow, PerRowSettings};
pub use repetition::RepetitionPenalty;
pub use running_count::RunningCount;
pub use said_count::SaidCount;
pub use sections::{answer, think};
pub use step_validity::StepValidity;
pub use steps::StepAccuracy;
pub use transcript::{ErrorRates, Transcript, TranscriptUnit};
pub use yes_no::YesNo;

/// Rules that need nothing but settings of their own, by the kind that recipes call them, and what makes them.
#[rustfmt::skip] // A line a kind, as `cargo xtask new` adds them.
pub const RULES: &[(&str, Maker<dyn RewardFn>)] = &[
    ("box_match", |settings| Ok(Box::new(own::<BoxMatch>(settings)?))),
    ("choice_answer", |settings| Ok(Box::new(own::<ChoiceAnswer>(settings)?))),
    ("consistency", |settings| Ok(Box::new(own::<Consistency>(settings)?))),
    ("count_answer", |settings| Ok(Box::new(own::<SaidCount>(settings)?))),
    ("detection", |settings| Ok(Box::new(own::<Detection>(settings)?))),
    ("environment", |settings| Ok(Box::new(own::<EnvironmentReward>(settings)?))),
    ("exact_answer", |settings| Ok(Box::new(own::<ExactAnswer>(settings)?))),
    ("format", |settings| Ok(Box::new(own::<Format>(settings)?))),
    #[cfg(feature = "http")]
    ("http", |settings| Ok(Box::new(HttpReward::read(settings)?))),
    #[cfg(feature = "json-schema")]
    ("json_schema", |settings| Ok(Box::new(JsonSchema::read(settings)?))),
    ("list_match", |settings| Ok(Box::new(own::<ListMatch>(settings)?))),
    ("math_answer", |settings| Ok(Box::new(own::<MathAnswer>(settings)?))),
    ("numeric_answer", |settings| Ok(Box::new(own::<NumericAnswer>(settings)?))),
    ("per_row", |settings| Ok(Box::new(PerRow::read(settings)?))),
    ("program", |settings| Ok(Box::new(ProgramReward::read(settings)?))),
    ("repetition", |settings| Ok(Box::new(own::<RepetitionPenalty>(settings)?))),
    ("running_count", |settings| Ok(Box::new(own::<RunningCount>(settings)?))),
    ("step_accuracy", |settings| Ok(Box::new(own::<StepAccuracy>(settings)?))),
    ("step_validity", |settings| Ok(Box::new(own::<StepValidity>(settings)?))),
    ("transcript", |settings| Ok(Box::new(own::<Transcript>(settings)?))),
    ("yes_no_answer", |settings| Ok(Box::new(own::<YesNo>(settings)?))),
];
