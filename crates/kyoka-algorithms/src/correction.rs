//! The sampler is not quite the trainer: importance weights, masks and what to watch.
//!
//! With `l_t = log pi - log mu`, the trainer's log-probability at the start of the batch minus the sampler's, per
//! token, and clamped to +-20 before `exp` (deviation 1; TRL does not clamp):
//!
//! - truncated (TIS, verl pull request 2953): `min(exp l_t, cap)`, or of the sequence's sum of `l_t`;
//! - masked (MIS, IcePop, arXiv 2510.18855): the weight where it lies within `[low, high]`, else 0; by token, by
//!   sequence, or by the geometric mean of the sequence, the weight then being the token's;
//! - batch-normalised: truncated weights divided by their mean over the batch (tokens or sequences).
//!
//! Subtract in f64: the difference of two close numbers is what counts.
//! All weights are numbers without a gradient: they multiply the per-token policy loss.

use serde::{Deserialize, Serialize};

use crate::policy_loss::LOG_RATIO_BOUND;

/// What a weight is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightLevel {
    /// Each token's own ratio.
    Token,
    /// The product over the completion, the same for all its tokens.
    Sequence,
    /// The token's ratio, judged by the geometric mean over the completion.
    Geometric,
}

/// What happens to weights that are too large.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightBound {
    /// Cut down to `cap`.
    Truncate {
        /// Greatest weight.
        cap: f64,
    },
    /// Set to 0 outside `[low, high]`.
    Mask {
        /// Least value that is kept.
        low: f64,
        /// Greatest value that is kept.
        high: f64,
    },
}

/// A correction of the mismatch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Correction {
    /// What a weight is made of.
    pub level: WeightLevel,
    /// What happens to weights that are too large.
    pub bound: WeightBound,
    /// Whether weights are divided by their mean over the batch.
    pub normalise: bool,
}

impl Correction {
    /// The weight of every token, given `log pi - log mu` of the tokens of every completion.
    ///
    /// Every number must be of a token that counts; completions may be empty.
    pub fn weights(&self, log_ratios: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let mut weights: Vec<Vec<f64>> = log_ratios.iter().map(|row| self.row(row)).collect();
        if self.normalise {
            let mean = match self.level {
                WeightLevel::Sequence => mean(weights.iter().filter_map(|row| row.first().copied())),
                WeightLevel::Token | WeightLevel::Geometric => mean(weights.iter().flatten().copied()),
            };
            if mean > 0.0 {
                weights.iter_mut().flatten().for_each(|weight| *weight /= mean);
            }
        }
        weights
    }

    fn row(&self, row: &[f64]) -> Vec<f64> {
        let tokens = || row.iter().map(|&l| bounded_exp(l));
        let sum: f64 = row.iter().sum();
        let sequence = bounded_exp(sum);
        let geometric = bounded_exp(sum / row.len().max(1) as f64);
        match (self.bound, self.level) {
            (WeightBound::Truncate { cap }, WeightLevel::Token) => tokens().map(|w| w.min(cap)).collect(),
            (WeightBound::Truncate { cap }, WeightLevel::Sequence) => vec![sequence.min(cap); row.len()],
            (WeightBound::Truncate { cap }, WeightLevel::Geometric) => vec![geometric.min(cap); row.len()],
            (WeightBound::Mask { low, high }, WeightLevel::Token) => {
                tokens().map(|w| if (low..=high).contains(&w) { w } else { 0.0 }).collect()
            }
            (WeightBound::Mask { low, high }, WeightLevel::Sequence) => {
                vec![if (low..=high).contains(&sequence) { sequence } else { 0.0 }; row.len()]
            }
            (WeightBound::Mask { low, high }, WeightLevel::Geometric) => {
                if (low..=high).contains(&geometric) { tokens().collect() } else { vec![0.0; row.len()] }
            }
        }
    }
}

fn bounded_exp(log: f64) -> f64 {
    log.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + value));
    sum / f64::max(count, 1.0)
}

/// How a rejection judges a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectionLevel {
    /// Each token by its own value.
    Token,
    /// The whole completion by the sum over its tokens.
    SequenceSum,
    /// The whole completion by their mean.
    SequenceMean,
    /// The whole completion by the greatest of them.
    SequenceMax,
}

/// The value a rejection looks at, of `l = log pi - log mu`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectionRule {
    /// `exp(-l) = mu / pi` within these bounds (the sign that verl has).
    K1 {
        /// Least ratio that is kept.
        low: f64,
        /// Greatest ratio that is kept.
        high: f64,
    },
    /// `l^2 / 2` of at most this.
    K2 {
        /// Greatest value that is kept.
        max: f64,
    },
    /// `exp(l) - l - 1` of at most this.
    K3 {
        /// Greatest value that is kept.
        max: f64,
    },
}

/// Which tokens are kept, in the shape of `log_ratios`.
pub fn keep_mask(rule: RejectionRule, level: RejectionLevel, log_ratios: &[Vec<f64>]) -> Vec<Vec<bool>> {
    let value = |&l: &f64| {
        let l = l.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND);
        match rule {
            RejectionRule::K1 { .. } => -l,
            RejectionRule::K2 { .. } => 0.5 * l * l,
            RejectionRule::K3 { .. } => l.exp() - l - 1.0,
        }
    };
    let keeps = |value: f64| match rule {
        RejectionRule::K1 { low, high } => (low..=high).contains(&bounded_exp(value)),
        RejectionRule::K2 { max } | RejectionRule::K3 { max } => value <= max,
    };
    let row = |row: &Vec<f64>| {
        let values = row.iter().map(value);
        let judged = match level {
            RejectionLevel::Token => return values.map(keeps).collect(),
            RejectionLevel::SequenceSum => values.sum(),
            RejectionLevel::SequenceMean => mean(values),
            RejectionLevel::SequenceMax => values.fold(f64::NEG_INFINITY, f64::max),
        };
        vec![keeps(judged); row.len()]
    };
    log_ratios.iter().map(row).collect()
}

/// How far sampler and trainer are apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct MismatchMetrics {
    /// `KL(mu || pi)`, estimated by the mean of `-l` over tokens drawn from `mu`.
    pub kl: f64,
    /// The same by k3, which is never negative.
    pub kl_k3: f64,
    /// Effective sample size of the tokens as a share of their number: `(sum w)^2 / (n sum w^2)`, 1 without mismatch.
    pub effective_sample_share: f64,
    /// Largest `|l|`.
    pub max_abs_log_ratio: f64,
}

impl MismatchMetrics {
    /// Of the tokens of a batch; without any, no divergence and a share of 1.
    pub fn new(log_ratios: &[Vec<f64>]) -> Self {
        let logs = || log_ratios.iter().flatten().copied();
        let count = logs().count() as f64;
        if count == 0.0 {
            return Self { effective_sample_share: 1.0, ..Self::default() };
        }
        let weights = || logs().map(bounded_exp);
        let (sum, squares) = (weights().sum::<f64>(), weights().map(|w| w * w).sum::<f64>());
        Self {
            kl: -mean(logs()),
            kl_k3: mean(logs().map(|l| bounded_exp(l) - l - 1.0)),
            effective_sample_share: sum * sum / (count * squares),
            max_abs_log_ratio: logs().fold(0.0, |most, l| f64::max(most, l.abs())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs() -> Vec<Vec<f64>> {
        vec![vec![2.0_f64.ln(), 4.0_f64.ln()], vec![], vec![0.5_f64.ln()]]
    }

    fn weights(level: WeightLevel, bound: WeightBound, normalise: bool) -> Vec<Vec<f64>> {
        let exact = Correction { level, bound, normalise }.weights(&logs());
        exact.iter().map(|row| row.iter().map(|w| (w * 1e5).round() / 1e5).collect()).collect()
    }

    #[test]
    fn truncation_by_hand() {
        let bound = WeightBound::Truncate { cap: 3.0 };
        assert_eq!(weights(WeightLevel::Token, bound, false), [vec![2.0, 3.0], vec![], vec![0.5]]);
        assert_eq!(weights(WeightLevel::Sequence, bound, false), [vec![3.0, 3.0], vec![], vec![0.5]]);
        // Means: 5.5 / 3 over tokens, 3.5 / 2 over completions.
        assert_eq!(weights(WeightLevel::Token, bound, true)[2], [0.27273]);
        assert_eq!(weights(WeightLevel::Sequence, bound, true)[2], [0.28571]);
    }

    #[test]
    fn masks_by_hand() {
        let bound = WeightBound::Mask { low: 0.4, high: 3.0 };
        assert_eq!(weights(WeightLevel::Token, bound, false), [vec![2.0, 0.0], vec![], vec![0.5]]);
        assert_eq!(weights(WeightLevel::Sequence, bound, false), [vec![0.0, 0.0], vec![], vec![0.5]]);
        // Geometric mean sqrt(8) = 2.83 is kept, with the tokens' own ratios.
        assert_eq!(weights(WeightLevel::Geometric, bound, false), [vec![2.0, 4.0], vec![], vec![0.5]]);
    }

    #[test]
    fn far_ratios_and_an_empty_batch_are_defined() {
        let correction = Correction {
            level: WeightLevel::Sequence,
            bound: WeightBound::Truncate { cap: f64::INFINITY },
            normalise: true,
        };
        assert!(correction.weights(&[vec![40.0; 9], vec![-40.0]]).iter().flatten().all(|w| w.is_finite()));
        assert!(correction.weights(&[]).is_empty());
        assert_eq!(MismatchMetrics::new(&[vec![]]).effective_sample_share, 1.0);
    }

    #[test]
    fn rejections_by_hand() {
        let max = RejectionRule::K2 { max: 0.3 };
        // l^2 / 2: 0.240, 0.961 and 0.240; mean of the first two 0.6.
        assert_eq!(keep_mask(max, RejectionLevel::Token, &logs()), [vec![true, false], vec![], vec![true]]);
        for level in [RejectionLevel::SequenceMean, RejectionLevel::SequenceMax, RejectionLevel::SequenceSum]
        {
            assert_eq!(keep_mask(max, level, &logs()), [vec![false, false], vec![], vec![true]]);
        }
        let k1 = RejectionRule::K1 { low: 0.4, high: 2.5 };
        // mu / pi: 0.5, 0.25 and 2.
        assert_eq!(keep_mask(k1, RejectionLevel::Token, &logs()), [vec![true, false], vec![], vec![true]]);
    }

    #[test]
    fn metrics_by_hand() {
        let metrics = MismatchMetrics::new(&[vec![2.0_f64.ln()], vec![0.0]]);
        assert!((metrics.kl + 0.5 * 2.0_f64.ln()).abs() < 1e-6);
        assert!((metrics.effective_sample_share - 0.9).abs() < 1e-6);
        assert!((metrics.max_abs_log_ratio - 2.0_f64.ln()).abs() < 1e-6);
        assert!((metrics.kl_k3 - 0.5 * (1.0 - 2.0_f64.ln())).abs() < 1e-6);
    }
}
