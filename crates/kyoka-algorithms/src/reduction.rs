//! How per-token losses become one number.
//!
//! A reduction is a weight for every completion, computed from the lengths of the whole global batch. Micro-batches
//! multiply their tokens by these weights and sum, so the split of the batch cannot change the loss.

use serde::{Deserialize, Serialize};

/// The denominator of the loss; `B` counts completions, `|o|` is a length, `L` a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// All tokens count the same (DAPO): `1 / sum of |o|`.
    TokenMean,
    /// No denominator: 1.
    TokenSum,
    /// All completions count the same (GRPO): `1 / (B |o|)`.
    SequenceMeanTokenMean,
    /// Sum within a completion, mean over completions: `1 / B`.
    SequenceMeanTokenSum,
    /// Sum within a completion, divided by a constant length (Dr.GRPO in verl): `1 / (B L)`.
    SequenceMeanTokenSumNorm,
    /// As `SequenceMeanTokenMean`, but completions without a token count in `B` (TRL's `grpo`).
    AllRowsTokenMean,
    /// As `SequenceMeanTokenSumNorm`, but completions without a token count in `B` (TRL's `dr_grpo`).
    AllRowsTokenSumNorm,
}

impl Reduction {
    /// The weight of each completion's tokens: the loss is the sum of weight times per-token loss.
    ///
    /// Completions without a token get weight 0 and, but for the last two reductions, do not count in `B`; a batch
    /// without any token gives zeros. `max_new_tokens` is `L`.
    pub fn weights(self, lengths: &[usize], max_new_tokens: usize) -> Vec<f32> {
        let weights = self.weights_f64(lengths, max_new_tokens as f64);
        weights.into_iter().map(|weight| weight as f32).collect()
    }

    /// The weights in full precision, for any constant `L`.
    pub fn weights_f64(self, lengths: &[usize], constant: f64) -> Vec<f64> {
        let filled = lengths.iter().filter(|&&length| length > 0).count() as f64;
        let rows = lengths.len() as f64;
        let tokens = lengths.iter().sum::<usize>() as f64;
        let weight = |length: usize| match self {
            _ if length == 0 => 0.0,
            Self::TokenMean => 1.0 / tokens,
            Self::TokenSum => 1.0,
            Self::SequenceMeanTokenMean => 1.0 / (filled * length as f64),
            Self::SequenceMeanTokenSum => 1.0 / filled,
            Self::SequenceMeanTokenSumNorm => 1.0 / (filled * constant),
            Self::AllRowsTokenMean => 1.0 / (rows * length as f64),
            Self::AllRowsTokenSumNorm => 1.0 / (rows * constant),
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
        assert_eq!(weights(Reduction::TokenSum), [1.0, 1.0, 0.0]);
        assert_eq!(weights(Reduction::AllRowsTokenMean), [1.0 / 3.0, 1.0 / 9.0, 0.0]);
        assert_eq!(weights(Reduction::AllRowsTokenSumNorm), [1.0 / 30.0, 1.0 / 30.0, 0.0]);
    }

    #[test]
    fn eight_micro_batches_of_one_are_one_of_eight() {
        let lengths = [3, 1, 0, 7, 2, 2, 5, 1];
        let loss = |row: usize, token: usize| (row as f64 * 1.7 - token as f64 * 0.3).sin();
        for reduction in
            [Reduction::TokenMean, Reduction::SequenceMeanTokenMean, Reduction::AllRowsTokenSumNorm]
        {
            let weights = reduction.weights_f64(&lengths, 10.0);
            let row = |row: usize| -> f64 { (0..lengths[row]).map(|t| weights[row] * loss(row, t)).sum() };
            let apart: f64 = (0..8).map(row).sum();
            let tokens = |row| (0..lengths[row]).map(move |t| (row, t));
            let together: f64 = (0..8).flat_map(tokens).map(|(row, t)| weights[row] * loss(row, t)).sum();
            assert!((apart - together).abs() < 1e-12, "{reduction:?}");
        }
    }

    #[test]
    fn a_batch_without_tokens_weighs_nothing() {
        assert_eq!(Reduction::TokenMean.weights(&[0, 0], 10), [0.0, 0.0]);
        assert!(Reduction::TokenMean.weights(&[], 10).is_empty());
    }
}
