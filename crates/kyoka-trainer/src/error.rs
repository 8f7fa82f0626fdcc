//! Why training stopped.

use std::path::PathBuf;

use kyoka_algorithms::AlgorithmError;
use kyoka_core::{
    AdvantageError, Origin, ParameterError, PolicyLossError, RewardError, RolloutError, Sample, TaskError,
};

use crate::SettingError;

/// Why training stopped.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A row could not be turned into a prompt or a target.
    #[error("{origin}: row {id}: {source}")]
    Row {
        /// File and place of the row.
        origin: Origin,
        /// The row.
        id: String,
        /// What is wrong.
        source: TaskError,
    },
    /// Sampling failed.
    #[error("{stage}, step {step}: rollout: {source}")]
    Rollout {
        /// The stage.
        stage: String,
        /// The step.
        step: usize,
        /// Why.
        source: RolloutError,
    },
    /// A completion could not be judged.
    #[error(transparent)]
    Reward(#[from] RewardError),
    /// Of too many completions no reward could say anything.
    #[error(
        "{stage}, step {step}: expected at most a share of {expected} of the completions without a reward ({stage}.max_ungraded), got {got}: {fault}"
    )]
    Ungraded {
        /// The stage.
        stage: String,
        /// The step.
        step: usize,
        /// The largest share that is taken.
        expected: f64,
        /// How many of how many.
        got: String,
        /// What the first failure was.
        fault: String,
    },
    /// Rewards gave no advantage.
    #[error("{stage}, step {step}: {source}")]
    Advantage {
        /// The stage.
        stage: String,
        /// The step.
        step: usize,
        /// Why.
        source: AdvantageError,
    },
    /// A policy loss gave something else than a loss a token.
    #[error("{stage}, step {step}: policy loss {loss}: {source}")]
    PolicyLoss {
        /// The stage.
        stage: String,
        /// The step.
        step: usize,
        /// The loss's name.
        loss: String,
        /// What has another shape.
        source: PolicyLossError,
    },
    /// The loss or the gradient is not a number; weights are those of the step before.
    #[error(
        "{stage}, step {step}: the {what} is not finite; nothing was updated. Rows of the batch: {rows}. Last good checkpoint: {checkpoint}"
    )]
    NotFinite {
        /// The stage.
        stage: String,
        /// The step.
        step: usize,
        /// Loss or gradient.
        what: &'static str,
        /// Ids of the batch's rows.
        rows: String,
        /// Where to resume from.
        checkpoint: String,
    },
    /// An update would make weights that are no numbers; those in memory and on disk are of before it.
    #[error(
        "{stage}, step {step}: the update of {parameter} is not finite and was not made. Rows of the batch: {rows}. Last good checkpoint: {checkpoint}"
    )]
    NotFiniteUpdate {
        /// The stage.
        stage: String,
        /// The step.
        step: usize,
        /// The first such parameter.
        parameter: String,
        /// Ids of the batch's rows.
        rows: String,
        /// Where to resume from.
        checkpoint: String,
    },
    /// A stage's settings are out of range or do not go together.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The policy cannot recompute its layers, which `gradient_checkpointing` asks for.
    #[error("gradient_checkpointing: expected a model that can recompute its layers, got one that cannot")]
    CannotRecompute,
    /// A setting is out of range.
    #[error("{field}: expected {expected}, got {got}")]
    Config {
        /// The setting.
        field: &'static str,
        /// Its range.
        expected: &'static str,
        /// The value.
        got: String,
    },
    /// A checkpoint cannot be written or read.
    #[error("checkpoint {path}: {reason}")]
    Checkpoint {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A checkpoint was written by a newer Kyoka.
    #[error(
        "checkpoint {path}: expected a checkpoint of version {expected} or older, got version {got}, which a newer Kyoka has written"
    )]
    NewerCheckpoint {
        /// The file.
        path: PathBuf,
        /// The newest version that can be read.
        expected: u32,
        /// The file's.
        got: u32,
    },
    /// A checkpoint's weights do not fit the model.
    #[error("checkpoint {path}: {source}")]
    Parameters {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        source: ParameterError,
    },
    /// The run's files could not be written.
    #[error("{path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A step or an evaluation failed; what was trained before stands.
    #[error("{source}; {standing}")]
    Failed {
        /// What failed.
        source: Box<TrainError>,
        /// Which checkpoint stands, and what is lost.
        standing: String,
    },
    /// The user asked to stop; the run can be resumed.
    #[error("stopped on request at {stage}, step {step}; resume from {checkpoint}")]
    Interrupted {
        /// The stage.
        stage: String,
        /// Steps done.
        step: usize,
        /// Where to resume from.
        checkpoint: String,
    },
}

impl TrainError {
    /// From what is wrong with a row to the error that names it.
    pub(crate) fn row(sample: &Sample) -> impl Fn(TaskError) -> Self {
        move |source| Self::Row { origin: sample.origin.clone(), id: sample.id.clone(), source }
    }

    /// From an algorithm's error to the one of the stage that asked for it.
    pub fn algorithm(stage: &str) -> impl Fn(AlgorithmError) -> Self {
        move |source| Self::Setting(SettingError::Algorithm { stage: stage.to_owned(), source })
    }

    /// Whether this is an engine that was told to stop, rather than a fault.
    pub(crate) fn is_interruption(&self) -> bool {
        matches!(self, Self::Rollout { source: RolloutError::Interrupted, .. })
    }
}
