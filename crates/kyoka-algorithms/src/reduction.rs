//! How per-token losses become one number.
//!
//! A reduction is a weight for every completion, computed from the lengths of the whole global batch. Micro-batches
//! multiply their tokens by these weights and sum, so the split of the batch cannot change the loss.

use serde::{Deserialize, Serialize};

/// The denominator of the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// All tokens count the same (DAPO): `1 / sum of lengths`.
    TokenMean,
    /// All completions count the same (GRPO): `1 / (R * length)`.
    SequenceMeanTokenMean,
    /// Sum within a completion, mean over completions: `1 / R`.
    SequenceMeanTokenSum,
    /// Sum within a completion, divided by a constant length (Dr.GRPO): `1 / (R * max_new_tokens)`.
    SequenceMeanTokenSumNorm,
}

impl Reduction {
    /// The weight of each completion's tokens.
    ///
    /// Completions without a token get weight 0 and do not count in `R`; a batch without any token gives zeros.
    pub fn weights(self, lengths: &[usize], max_new_tokens: usize) -> Vec<f32> {
        let rows = lengths.iter().filter(|&&length| length > 0).count() as f32;
        let tokens = lengths.iter().sum::<usize>() as f32;
        let weight = |length: usize| match self {
            _ if length == 0 => 0.0,
            Self::TokenMean => 1.0 / tokens,
            Self::SequenceMeanTokenMean => 1.0 / (rows * length as f32),
            Self::SequenceMeanTokenSum => 1.0 / rows,
            Self::SequenceMeanTokenSumNorm => 1.0 / (rows * max_new_tokens as f32),
        };
        lengths.iter().map(|&length| weight(length)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_case() {
        let weights = |reduction: Reduction| reduction.weights(&[1, 3, 0], 10);
        assert_eq!(weights(Reduction::TokenMean), [0.25, 0.25, 0.0]);
        assert_eq!(weights(Reduction::SequenceMeanTokenMean), [0.5, 1.0 / 6.0, 0.0]);
        assert_eq!(weights(Reduction::SequenceMeanTokenSum), [0.5, 0.5, 0.0]);
        assert_eq!(weights(Reduction::SequenceMeanTokenSumNorm), [0.05, 0.05, 0.0]);
    }

    #[test]
    fn a_batch_without_tokens_weighs_nothing() {
        assert_eq!(Reduction::TokenMean.weights(&[0, 0], 10), [0.0, 0.0]);
        assert!(Reduction::TokenMean.weights(&[], 10).is_empty());
    }
}
