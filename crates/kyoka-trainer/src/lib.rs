#![doc = include_str!("../README.md")]

mod averaging;
mod checkpoint;
mod critic;
mod error;
mod evaluate;
mod gradients;
mod micro_batch;
mod name_or_table;
mod optimizer;
mod pass;
mod preference;
mod range;
mod reward_model;
mod rl;
mod schedule;
mod session;
mod sft;
mod task;

pub(crate) use averaging::averaged;
pub use checkpoint::{
    Checkpoint, CheckpointPolicy, CheckpointStore, Progress, SavedState, load_weights, unpack,
};
pub use critic::{Critic, CriticState};
pub use error::TrainError;
pub use evaluate::{EvalReport, EvalSummary, Evaluation, evaluate};
pub use gradients::{global_norm, scale_gradients};
pub use micro_batch::{PackItem, plan_micro_batches};
pub use optimizer::{AdamW, AdamWConfig, NotFiniteUpdate};
pub(crate) use pass::{Pass, PassKind};
pub use preference::{PreferenceStage, PreferenceStageConfig};
pub use range::{SettingError, Unread};
pub use reward_model::{RewardModelConfig, RewardModelStage, load_reward_model};
pub use rl::{RlConfig, RlStage};
pub use schedule::{LearningRate, Schedule};
pub use session::{Observer, SampleRecord, Session, Stage, StepReport, TrainableFn};
pub use sft::{SftConfig, SftStage};
pub use task::{EngineFactory, Task, TaskError, TrainableLm};
