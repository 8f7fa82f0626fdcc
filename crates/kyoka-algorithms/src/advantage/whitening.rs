//! Whitening over a batch: mean 0, standard deviation 1.
//!
//! `(x - mean) / sqrt(var + 1e-8)`, the variance over `n - 1`. A batch of one token, or of equal tokens, becomes 0.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::outcome::mean_std;

/// What counts once in the batch's mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whitening {
    /// Every token, so that long completions weigh more, as in verl. The default.
    #[default]
    Tokens,
    /// Every completion, as in TRL: `(x - mean) / (std + 1e-4)`.
    Sequences,
}

/// Added to the variance of tokens.
const VARIANCE_EPSILON: f64 = 1e-8;

/// Added to the standard deviation of sequences.
const STD_EPSILON: f64 = 1e-4;

/// Count, mean and summed squares of deviations; rows are merged in order (Chan, Golub, LeVeque 1979), so that the
/// number of threads changes nothing.
#[derive(Default)]
pub(super) struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Of the tokens of a row.
    pub fn of<T: Copy + Into<f64>>(row: &[T]) -> Self {
        let count = row.len() as f64;
        let mean = lanes(row, |value| value) / count.max(1.0);
        Self { count, mean, squares: lanes(row, |value| (value - mean) * (value - mean)) }
    }

    /// Of both.
    pub fn merge(self, other: &Self) -> Self {
        let count = self.count + other.count;
        if count == 0.0 {
            return self;
        }
        let distance = other.mean - self.mean;
        let between = distance * distance * self.count * other.count / count;
        Self {
            count,
            mean: self.mean + distance * other.count / count,
            squares: self.squares + other.squares + between,
        }
    }

    /// What whitens a value.
    pub fn whiten(self) -> impl Fn(f64) -> f32 + Sync {
        let variance = self.squares / (self.count - 1.0).max(1.0);
        let (mean, scale) = (self.mean, 1.0 / (variance + VARIANCE_EPSILON).sqrt());
        move |value| ((value - mean) * scale) as f32
    }
}

/// A sum in eight independent lanes, which the compiler can vectorise.
fn lanes<T: Copy + Into<f64>>(row: &[T], value: impl Fn(f64) -> f64) -> f64 {
    let mut sums = [0.0; 8];
    let chunks = row.chunks_exact(8);
    let rest: f64 = chunks.remainder().iter().map(|&x| value(x.into())).sum();
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += value(x.into());
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Whitens the tokens of `num_rows` rows; `fill` writes the values of a row and is called twice for each.
pub(super) fn whitened_tokens(num_rows: usize, fill: impl Fn(usize, &mut Vec<f64>) + Sync) -> Vec<Vec<f32>> {
    let rows = || (0..num_rows).into_par_iter();
    let of_row = |buffer: &mut Vec<f64>, row| {
        fill(row, buffer);
        Moments::of(buffer)
    };
    let moments: Vec<Moments> = rows().map_init(Vec::new, of_row).collect();
    let whiten = moments.iter().fold(Moments::default(), Moments::merge).whiten();
    let write = |buffer: &mut Vec<f64>, row| {
        fill(row, buffer);
        buffer.iter().map(|&value| whiten(value)).collect()
    };
    rows().map_init(Vec::new, write).collect()
}

/// Whitens one value a completion, by tokens or by completions.
pub(super) fn whitened_outcomes(whitening: Whitening, values: &[f64], lengths: &[usize]) -> Vec<f64> {
    match whitening {
        Whitening::Sequences => {
            let (mean, std) = mean_std(values);
            values.iter().map(|value| (value - mean) / (std + STD_EPSILON)).collect()
        }
        Whitening::Tokens => {
            let count: f64 = lengths.iter().map(|&length| length as f64).sum();
            let weighted = |value: &dyn Fn(f64) -> f64| -> f64 {
                values.iter().zip(lengths).map(|(&x, &length)| value(x) * length as f64).sum()
            };
            let mean = weighted(&|x| x) / count.max(1.0);
            let squares = weighted(&|x| (x - mean) * (x - mean));
            let scale = 1.0 / (squares / (count - 1.0).max(1.0) + VARIANCE_EPSILON).sqrt();
            values.iter().map(|value| (value - mean) * scale).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_case() {
        // Tokens 1, 1, 4: mean 2, variance 6 / 2.
        let rows = [vec![1.0, 1.0], vec![4.0]];
        let white = whitened_tokens(2, |row, buffer| buffer.clone_from(&rows[row]));
        let std = 3.0_f32.sqrt();
        for (got, expected) in white.concat().iter().zip([-1.0 / std, -1.0 / std, 2.0 / std]) {
            assert!((got - expected).abs() < 1e-6);
        }
        let same = whitened_outcomes(Whitening::Tokens, &[1.0, 4.0], &[2, 1]);
        assert!((same[1] - f64::from(white[1][0])).abs() < 1e-6);
        // Completions 1 and 4: mean 2.5, standard deviation sqrt(4.5).
        let sequences = whitened_outcomes(Whitening::Sequences, &[1.0, 4.0], &[2, 1]);
        assert!((sequences[1] - 1.5 / (4.5_f64.sqrt() + 1e-4)).abs() < 1e-12);
    }

    #[test]
    fn one_token_and_no_token_are_defined() {
        assert_eq!(whitened_tokens(1, |_, buffer| *buffer = vec![7.0]), [[0.0]]);
        assert_eq!(whitened_tokens(2, |_, buffer| buffer.clear()), [[0.0; 0], [0.0; 0]]);
    }
}
