#![doc = include_str!("../README.md")]

mod averaging;
mod checkpoint;
mod checkpoint_store;
mod critic;
mod episodes;
mod error;
mod eval_rules;
mod evaluate;
mod gradients;
mod micro_batch;
mod name_or_table;
mod optimizer;
mod part_means;
mod pass;
mod preference;
mod progress;
mod range;
mod reward_model;
mod rl;
mod run_stage;
mod sample_record;
mod schedule;
mod session;
mod sft;
mod stage;
mod state;
mod trainable;
mod unpaired;

pub(crate) use averaging::averaged;
pub use checkpoint::{Checkpoint, CheckpointPolicy, load_reward_model, load_weights, unpack};
pub use checkpoint_store::CheckpointStore;
pub use critic::{Critic, CriticState};
pub use episodes::EpisodeRules;
pub use error::TrainError;
pub use eval_rules::EvalRules;
pub use evaluate::{EvalReport, EvalSummary, Evaluation, Failures, evaluate, pass_at, passes};
pub use gradients::{global_norm, scale_gradients};
pub use micro_batch::{PackItem, plan_micro_batches};
pub use optimizer::{AdamW, AdamWConfig, NotFiniteUpdate};
pub(crate) use pass::{Pass, PassKind};
pub use preference::{PreferenceStage, PreferenceStageConfig};
pub use progress::{Coefficients, Evaluated, PhaseSeconds, Progress};
pub use range::{SettingError, Unread};
pub use reward_model::{
    JudgementKind, Judgements, ModelReward, RewardModelConfig, RewardModelStage, check_judgement,
};
pub use rl::{RlConfig, RlParts, RlStage};
pub use sample_record::SampleRecord;
pub use schedule::{LearningRate, Schedule};
pub use session::{Resumed, Session, TrainableFn};
pub use sft::{SftConfig, SftStage};
pub use stage::{Observer, Stage, StageKind, StepReport};
pub use state::TrainState;
pub use trainable::TrainableLm;
pub use unpaired::{UnpairedStage, UnpairedStageConfig};
