//! What a run consists of: stages, and who is told of their steps.

use kyoka_algorithms::CriticKind;
use kyoka_core::Metrics;
use serde::{Deserialize, Serialize};

use crate::{
    AdamWConfig, EvalReport, LearningRate, PhaseSeconds, Progress, SampleRecord, TrainError, TrainState,
    TrainableLm,
};

/// What the steps of a stage do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageKind {
    /// Supervised fine-tuning.
    Sft,
    /// Training on comparisons.
    Preference,
    /// Training on single completions that people took or did not take.
    UnpairedPreference,
    /// Training of a reward model on comparisons; the policy stays as it is.
    RewardModel,
    /// Reinforcement learning.
    Rl,
}

impl StageKind {
    /// All kinds, in the order in which they usually follow each other.
    pub const ALL: [Self; 5] =
        [Self::Sft, Self::Preference, Self::UnpairedPreference, Self::RewardModel, Self::Rl];

    /// The kind as recipes write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Preference => "preference",
            Self::UnpairedPreference => "unpaired_preference",
            Self::RewardModel => "reward_model",
            Self::Rl => "rl",
        }
    }
}

/// What a step reports.
#[derive(Debug, Clone)]
pub struct StepReport {
    /// The stage's name.
    pub stage: String,
    /// Steps done, this one included.
    pub step: usize,
    /// Steps of the stage.
    pub total_steps: usize,
    /// Numbers of the step, for the log; nothing reads them back.
    pub metrics: Metrics,
    /// How long its phases took; the session writes them into the metrics as `time/<phase>_s`.
    pub seconds: PhaseSeconds,
    /// A few of the step's completions.
    pub samples: Vec<SampleRecord>,
    /// Something the user should know; training goes on.
    pub warning: Option<String>,
}

/// Is told of everything that happens in a run.
pub trait Observer {
    /// A step is done.
    ///
    /// # Errors
    /// An error ends the run; the step is kept.
    fn on_step(&mut self, report: &StepReport) -> Result<(), TrainError>;

    /// An evaluation is done; `step` counts the steps of the stage before it, 0 stands for the start of the run.
    ///
    /// # Errors
    /// An error ends the run; the steps before are kept.
    fn on_eval(&mut self, stage: &str, step: usize, splits: &[EvalReport]) -> Result<(), TrainError>;

    /// Something was lost or is not as the user may think; the run goes on. Does nothing by default.
    ///
    /// # Errors
    /// An error ends the run.
    fn on_warning(&mut self, _warning: &str) -> Result<(), TrainError> {
        Ok(())
    }
}

/// A part of a run with steps of one kind.
pub trait Stage<M: TrainableLm> {
    /// Its name, unique in the run: it stands in the log, in the names of checkpoints and in messages.
    fn name(&self) -> &str;

    /// What its steps do.
    fn kind(&self) -> StageKind;

    /// Steps to take at most.
    fn total_steps(&self) -> usize;

    /// Whether the stage ends where the run stands.
    fn is_done(&self, progress: &Progress) -> bool {
        progress.step >= self.total_steps()
    }

    /// Steps between evaluations; 0 evaluates at the end only.
    fn eval_every(&self) -> usize;

    /// Learning rate and optimizer.
    fn optimization(&self) -> (LearningRate, AdamWConfig);

    /// Whether a reference policy (the weights at the start of the stage) is wanted.
    fn wants_reference(&self) -> bool {
        false
    }

    /// Which critic is wanted.
    fn critic(&self) -> CriticKind {
        CriticKind::None
    }

    /// How many heads the reward model has that the stage trains, which begins as a copy of the policy; `None` where it trains none.
    fn reward_heads(&self) -> Option<usize> {
        None
    }

    /// Whether adapters drop values in training, as their settings say. A stage that samples has none: what learns must be
    /// what samples.
    fn has_dropout(&self) -> bool {
        true
    }

    /// What the stage itself must remember to go on after a restart, for `stage.json` of a checkpoint.
    fn state(&self) -> Option<Vec<u8>> {
        None
    }

    /// Takes over what [`state`](Self::state) gave.
    ///
    /// # Errors
    /// Says what is wrong with it.
    fn restore(&mut self, _state: &[u8]) -> Result<(), String> {
        Ok(())
    }

    /// One step; updates the state.
    ///
    /// # Errors
    /// If a row is unfit, sampling or judging fails, or a number is not finite. An error before the first update of a step
    /// leaves the state's weights as they were.
    fn step(&mut self, state: &mut TrainState<M>) -> Result<StepReport, TrainError>;
}
