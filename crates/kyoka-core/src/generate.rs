//! Models that answer or score, wherever they run.

use crate::{Completion, Message, RewardError, Sample, SamplingConfig};

/// What a model has said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Generated {
    /// The text, special tokens of the end left out.
    pub text: String,
    /// Tokens of the conversation, media included; 0 where nobody says.
    pub input_tokens: u64,
    /// Tokens of the answer; 0 where nobody says.
    pub output_tokens: u64,
}

/// Answers conversations: a model in this process, or one behind an endpoint.
///
/// Several threads may ask at the same time. The same conversation under temperature 0 should have the same answer.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not answer conversations",
    note = "implement `Generate`: a name that changes with the model, and an answer to messages with pictures and sounds in them"
)]
pub trait Generate: Send + Sync {
    /// What the model is called, so that answers of different ones are told apart.
    fn model(&self) -> String;

    /// The answer to a conversation, whose last message is a user's.
    ///
    /// # Errors
    /// If there is no answer; the message says what was expected and what came.
    fn generate(&self, messages: &[Message], sampling: &SamplingConfig) -> Result<Generated, GenerateError>;
}

/// Why a model gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GenerateError(pub String);

/// Scores completions of a row: a reward model in this process, an ensemble of them, or one elsewhere.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not score completions",
    note = "implement `ScoreCompletion`: one finite score a completion, all of them from one version of the model"
)]
pub trait ScoreCompletion: Send + Sync {
    /// One score a completion, in their order; all of them from one version of the model, so that they compare.
    ///
    /// # Errors
    /// If the row or a completion cannot be read.
    fn scores(&self, sample: &Sample, completions: &[Completion]) -> Result<Vec<ModelScore>, RewardError>;
}

/// What a model makes of a completion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelScore {
    /// The score.
    pub value: f32,
    /// How far the members of an ensemble are apart, as a standard deviation; `None` where it is no ensemble.
    pub deviation: Option<f32>,
}
