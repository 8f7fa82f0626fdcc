#![doc = include_str!("../README.md")]

mod advantage;
mod distribution;
mod encoder;
mod environment;
mod generate;
mod lm;
mod media;
mod metrics;
mod nearest;
mod own_settings;
mod parameters;
mod policy_loss;
mod prompt;
mod python_json;
mod recompute;
mod reward;
mod rollout;
mod rollout_engine;
mod sample;
mod seed;
mod task;
mod threads;

pub use advantage::{AdvantageError, AdvantageEstimator, Advantages, CreditedStep, GroupRewards};
pub use distribution::Distribution;
pub use encoder::{ModalityEncoder, ModalityFeatures};
pub use environment::{Action, Answer, Environment, EnvironmentError, EnvironmentFactory, ToolSchema};
pub use generate::{Generate, GenerateError, Generated, ModelScore, ScoreCompletion};
pub use lm::{CausalLm, PackedCompletion, PackedGroup, Prefill};
pub use media::{AudioInput, Content, ImageInput, MediaRef, Modality};
pub use metrics::Metrics;
pub use nearest::{misspelt, nearest};
pub use own_settings::{Maker, OwnSettings, PartError, SettingsFault, own, read_settings};
pub use parameters::{
    LazyParameter, ParameterError, ParameterPath, lazy_parameters, load_parameters, named_parameters,
    parameter_shapes,
};
pub use policy_loss::{PolicyLoss, PolicyLossError, PolicyLossInput, PolicyLossOutput};
pub use prompt::{ModalitySpan, Prompt};
pub use python_json::from_python_json;
pub use recompute::{CutScore, Recompute, SavedPass};
pub use reward::{
    CompletedTurn, Completion, Reward, RewardContext, RewardError, RewardFn, RewardProgress, StepVerdict,
    UnfitRow,
};
pub use rollout::{AnsweredTurn, Rollout, RolloutError, RolloutGroup, SamplingConfig, Segment, StopReason};
pub use rollout_engine::{Episode, Episodes, GroupSink, Reply, RolloutEngine, RolloutPrompt, RolloutRequest};
pub use sample::{
    Message, Origin, Part, Place, PlaceholderMismatch, Role, Sample, conversation_parts, prompt_parts,
    prompt_without_media,
};
pub use seed::{Stream, stream_rng};
pub use task::{Task, TaskError};
pub use threads::{on_threads, on_threads_at_most};
