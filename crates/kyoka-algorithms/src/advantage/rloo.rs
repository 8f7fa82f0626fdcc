//! RLOO: the mean of the others as baseline (arXiv 2402.14740, equation 8).
//!
//! `A_i = R_i - 1 / (G - 1) * sum over j != i of R_j`

use kyoka_core::{AdvantageError, AdvantageEstimator, Advantages, GroupRewards};

use super::{mean_std, outcome_advantages};

/// Leave-one-out baseline.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rloo;

impl AdvantageEstimator for Rloo {
    fn min_group_size(&self) -> usize {
        2
    }

    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
        outcome_advantages("rloo", self.min_group_size(), groups, |totals| {
            // R_i - (G mean - R_i) / (G - 1) = G / (G - 1) * (R_i - mean)
            let (mean, _) = mean_std(totals);
            let scale = totals.len() as f32 / (totals.len() - 1) as f32;
            totals.iter().map(|total| scale * (total - mean)).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::firsts, *};

    #[test]
    fn hand_case() {
        let advantages = firsts(&Rloo, &[3.0, 0.0, 0.0]);
        for (got, expected) in advantages.iter().zip([3.0, -1.5, -1.5]) {
            assert!((got - expected).abs() < 1e-6);
        }
    }
}
