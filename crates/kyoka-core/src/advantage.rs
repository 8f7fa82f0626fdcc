//! From rewards to credit.

use std::ops::Range;

/// A step that was judged, at its place in a completion.
#[derive(Debug, Clone, PartialEq)]
pub struct CreditedStep {
    /// Which rule judged which of its steps: verdicts on the same step are compared across the group.
    pub step: (usize, usize),
    /// Tokens that get the credit.
    pub tokens: Range<usize>,
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
    /// Unweighted parts of each reward, `parts[completion][part]`, for a credit that normalises them apart (GDPO);
    /// empty where nobody asks.
    pub parts: Vec<Vec<f32>>,
    /// Weight of each part; empty means 1 each.
    pub part_weights: Vec<f32>,
    /// Rewards of single tokens beside the total, e.g. `-kl_coef * KL` where the divergence is part of the reward;
    /// empty where there are none. The total itself is earned at the last token.
    pub token_rewards: Vec<Vec<f32>>,
    /// The critic's value before each token, `values[completion][t]`; empty without a critic.
    pub values: Vec<Vec<f32>>,
    /// Reward of the likeliest completion of the prompt (ReMax's baseline).
    pub greedy_total: Option<f32>,
}

/// Credit for every token of every completion, groups and completions in the order given.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Advantages {
    /// `per_token[row][t]`.
    pub per_token: Vec<Vec<f32>>,
    /// What the critic should have said before each token, `value_targets[row][t]`; empty without a critic.
    pub value_targets: Vec<Vec<f32>>,
}

impl Advantages {
    /// Looks at what `estimator`, by its name, gave for `groups`: a list a completion with a finite number a token, and as many value
    /// targets where a critic learns from them.
    ///
    /// # Errors
    /// Says what is missing or no number, and where.
    pub fn check(
        &self,
        estimator: &str,
        groups: &[GroupRewards],
        with_targets: bool,
    ) -> Result<(), AdvantageError> {
        let estimator = || estimator.to_owned();
        let lengths: Vec<usize> = groups.iter().flat_map(|group| group.lengths.iter().copied()).collect();
        let targets = with_targets.then_some(("value targets", &self.value_targets));
        for (what, rows) in [("advantages", &self.per_token)].into_iter().chain(targets) {
            if rows.len() != lengths.len() {
                let (expected, got) = (lengths.len(), rows.len());
                return Err(AdvantageError::Rows { estimator: estimator(), what, expected, got });
            }
            for (completion, (row, &expected)) in rows.iter().zip(&lengths).enumerate() {
                if row.len() != expected {
                    let (estimator, got) = (estimator(), row.len());
                    return Err(AdvantageError::Tokens { estimator, what, completion, expected, got });
                }
                if let Some(&got) = row.iter().find(|value| !value.is_finite()) {
                    return Err(AdvantageError::NoNumber { estimator: estimator(), what, completion, got });
                }
            }
        }
        Ok(())
    }
}

/// Turns rewards into credit; pure numbers, no tensors.
///
/// ```
/// use kyoka_core::{AdvantageError, AdvantageEstimator, Advantages, GroupRewards};
///
/// /// Every token of a completion gets its reward less the greatest of its group.
/// struct BelowBest;
///
/// impl AdvantageEstimator for BelowBest {
///     fn min_group_size(&self) -> usize {
///         2
///     }
///     fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
///         let mut per_token = Vec::new();
///         for group in groups {
///             let best = group.totals.iter().copied().fold(f32::NEG_INFINITY, f32::max);
///             let rows = group.totals.iter().zip(&group.lengths);
///             per_token.extend(rows.map(|(total, &length)| vec![total - best; length]));
///         }
///         Ok(Advantages { per_token, ..Advantages::default() })
///     }
/// }
/// let group = GroupRewards { totals: vec![1.0, 0.5], lengths: vec![2, 1], ..GroupRewards::default() };
/// let advantages = BelowBest.estimate(&[group]).unwrap();
/// assert_eq!(advantages.per_token, [vec![0.0, 0.0], vec![-0.5]]);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not turn rewards into credit",
    note = "implement `AdvantageEstimator`: one list of advantages a completion, one number a token, groups in order"
)]
pub trait AdvantageEstimator: Send + Sync {
    /// Fewest completions a group must have for the estimate to mean something.
    fn min_group_size(&self) -> usize;

    /// Whether [`GroupRewards::values`] must be filled, by a critic.
    fn needs_values(&self) -> bool {
        false
    }

    /// Whether [`GroupRewards::greedy_total`] must be filled, by one more completion a prompt at temperature 0.
    fn needs_greedy_rollout(&self) -> bool {
        false
    }

    /// Whether [`GroupRewards::parts`] must be filled.
    fn needs_parts(&self) -> bool {
        false
    }

    /// Whether a group of equal rewards can have credit, because the baseline is not the group's own: such groups are
    /// no waste, and dynamic sampling is refused.
    fn credits_equal_rewards(&self) -> bool {
        false
    }

    /// Credit for a whole batch of groups (some estimators normalise across the batch): a list a completion, in the order
    /// of groups and completions, with a number for each of its tokens.
    ///
    /// # Errors
    /// If a reward is not finite, a group is too small, or something it needs is missing.
    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError>;
}

/// Why no advantage could be computed.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum AdvantageError {
    /// An estimator's own reason.
    #[error("{estimator}: {reason}")]
    Failed {
        /// The estimator's name.
        estimator: String,
        /// What went wrong.
        reason: String,
    },
    /// There is not one list a completion.
    #[error("{estimator}: expected {what} of {expected} completions, got those of {got}")]
    Rows {
        /// The estimator's name.
        estimator: String,
        /// Advantages or value targets.
        what: &'static str,
        /// Completions of the batch.
        expected: usize,
        /// Lists.
        got: usize,
    },
    /// There is not one number a token.
    #[error(
        "{estimator}: completion {completion} of the batch: expected {expected} {what}, one a token, got {got}"
    )]
    Tokens {
        /// The estimator's name.
        estimator: String,
        /// Advantages or value targets.
        what: &'static str,
        /// Place of the completion in the batch.
        completion: usize,
        /// Tokens.
        expected: usize,
        /// Numbers.
        got: usize,
    },
    /// An estimator gave something that is not a number.
    #[error(
        "{estimator}: completion {completion} of the batch: expected finite numbers as {what}, got {got}"
    )]
    NoNumber {
        /// The estimator's name.
        estimator: String,
        /// Advantages or value targets.
        what: &'static str,
        /// Place of the completion in the batch.
        completion: usize,
        /// The value.
        got: f32,
    },
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
    /// The estimator needs a critic's values.
    #[error(
        "group {group}, completion {completion}: {estimator} needs {expected} values of a critic, got {got}"
    )]
    MissingValues {
        /// The estimator's name.
        estimator: &'static str,
        /// Place of the group in the batch.
        group: usize,
        /// Place of the completion in its group.
        completion: usize,
        /// Tokens of the completion.
        expected: usize,
        /// Values found.
        got: usize,
    },
    /// The estimator needs the reward of the likeliest completion.
    #[error("group {group}: {estimator} needs the reward of a greedy completion, got {got}")]
    MissingGreedy {
        /// The estimator's name.
        estimator: &'static str,
        /// Place of the group in the batch.
        group: usize,
        /// "none" or the number that is not finite.
        got: String,
    },
    /// The estimator needs the parts of each reward.
    #[error("group {group}: {estimator} needs the reward parts of {expected} completions, got {got}")]
    MissingParts {
        /// The estimator's name.
        estimator: &'static str,
        /// Place of the group in the batch.
        group: usize,
        /// Completions of the group.
        expected: usize,
        /// Completions with parts.
        got: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_estimator_gives_is_a_finite_number_a_token() {
        let group = GroupRewards { totals: vec![1.0, 0.0], lengths: vec![2, 1], ..GroupRewards::default() };
        let check = |per_token: Vec<Vec<f32>>, value_targets: Vec<Vec<f32>>, with_targets| {
            let advantages = Advantages { per_token, value_targets };
            advantages
                .check("mine", std::slice::from_ref(&group), with_targets)
                .map_err(|error| error.to_string())
        };
        let good = || vec![vec![1.0, 1.0], vec![-1.0]];
        assert_eq!(check(good(), Vec::new(), false), Ok(()));
        assert_eq!(check(good(), good(), true), Ok(()));
        for (per_token, targets, said) in [
            (vec![vec![1.0, 1.0]], good(), "mine: expected advantages of 2 completions, got those of 1"),
            (good(), Vec::new(), "mine: expected value targets of 2 completions, got those of 0"),
            (
                vec![vec![1.0], vec![-1.0]],
                good(),
                "mine: completion 0 of the batch: expected 2 advantages, one a token, got 1",
            ),
            (
                vec![vec![1.0, 1.0], vec![f32::NAN]],
                good(),
                "mine: completion 1 of the batch: expected finite numbers as advantages, got NaN",
            ),
        ] {
            assert_eq!(check(per_token, targets, true), Err(said.to_owned()));
        }
    }
}
