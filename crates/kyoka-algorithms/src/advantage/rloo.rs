//! RLOO: the mean of the others as baseline (arXiv 2402.14740, equation 8).
//!
//! `A_i = R_i - 1 / (G - 1) * sum over j != i of R_j`

use kyoka_core::{AdvantageError, AdvantageEstimator, Advantages, GroupRewards};

use super::{
    Singleton,
    outcome::{mean_std, outcome_advantages},
};

/// Leave-one-out baseline.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rloo {
    /// What a group of one gets. Default an error.
    pub singleton: Singleton,
}

impl AdvantageEstimator for Rloo {
    fn min_group_size(&self) -> usize {
        self.singleton.min_group_size()
    }

    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
        outcome_advantages("rloo", self.min_group_size(), groups, |outcomes| {
            self.singleton.or(outcomes, |outcomes| {
                // R_i - (G mean - R_i) / (G - 1) = G / (G - 1) * (R_i - mean)
                let (mean, _) = mean_std(outcomes);
                let scale = outcomes.len() as f64 / (outcomes.len() - 1) as f64;
                outcomes.iter().map(|outcome| scale * (outcome - mean)).collect()
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{assert_close, firsts},
        *,
    };

    #[test]
    fn hand_case() {
        assert_close(&firsts(&Rloo::default(), &[3.0, 0.0, 0.0]), &[3.0, -1.5, -1.5]);
    }
}
