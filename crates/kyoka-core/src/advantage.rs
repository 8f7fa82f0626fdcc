//! From rewards to credit.

/// A step that was judged, at its place in a completion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CreditedStep {
    /// Which step: verdicts of the same step are compared across the group.
    pub step: usize,
    /// Token that gets the credit.
    pub token: usize,
    /// Its reward.
    pub value: f32,
}

/// The rewards of the completions of one prompt.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GroupRewards {
    /// Total reward of each completion.
    pub totals: Vec<f32>,
    /// Number of tokens of each completion.
    pub lengths: Vec<usize>,
    /// Judged steps of each completion; empty where there are none.
    pub steps: Vec<Vec<CreditedStep>>,
}

/// Credit for every token of every completion, groups and completions in the order given.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Advantages {
    /// `per_token[row][t]`.
    pub per_token: Vec<Vec<f32>>,
}

/// Turns rewards into credit; pure numbers, no tensors.
pub trait AdvantageEstimator: Send + Sync {
    /// Fewest completions a group must have for the estimate to mean something.
    fn min_group_size(&self) -> usize;

    /// Credit for a whole batch of groups (some estimators normalise across the batch).
    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError>;
}

/// Why no advantage could be computed.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum AdvantageError {
    /// A reward is NaN or infinite.
    #[error("group {group}, completion {completion}: expected a finite reward, got {got}")]
    NotFinite {
        /// Place of the group in the batch.
        group: usize,
        /// Place of the completion in its group.
        completion: usize,
        /// The value.
        got: f32,
    },
    /// A group is too small for the estimator.
    #[error("group {group}: {estimator} needs at least {expected} completions a prompt, got {got}")]
    GroupTooSmall {
        /// The estimator's name.
        estimator: &'static str,
        /// Place of the group in the batch.
        group: usize,
        /// Fewest completions.
        expected: usize,
        /// Completions found.
        got: usize,
    },
}
