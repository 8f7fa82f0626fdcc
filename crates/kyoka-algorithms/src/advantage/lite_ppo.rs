//! Lite PPO: group mean, batch standard deviation (arXiv 2508.08221, section 4.3).
//!
//! `A_i = (R_i - mean of the group) / (std of all rewards of the batch + eps)`
//!
//! Deviation 1: the paper has no `eps`; 1e-4 is TRL's.

use kyoka_core::{AdvantageError, AdvantageEstimator, Advantages, GroupRewards};

use super::{
    Singleton,
    outcome::{check, mean_std, outcomes, spread},
};

/// Locally centred, globally scaled.
#[derive(Debug, Clone, Copy)]
pub struct LitePpo {
    /// Added to the standard deviation. Default 1e-4.
    pub epsilon: f64,
    /// What a group of one gets: an error (default) or, as it is its own mean, 0.
    pub singleton: Singleton,
}

impl Default for LitePpo {
    fn default() -> Self {
        Self { epsilon: 1e-4, singleton: Singleton::Refuse }
    }
}

impl AdvantageEstimator for LitePpo {
    fn min_group_size(&self) -> usize {
        self.singleton.min_group_size()
    }

    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
        check("lite_ppo", self.min_group_size(), groups)?;
        let outcomes: Vec<Vec<f64>> = groups.iter().map(outcomes).collect();
        let (_, std) = mean_std(&outcomes.concat());
        let credit = |outcomes: &Vec<f64>| {
            let (mean, _) = mean_std(outcomes);
            outcomes.iter().map(|outcome| (outcome - mean) / (std + self.epsilon)).collect::<Vec<f64>>()
        };
        Ok(spread(groups, outcomes.iter().flat_map(credit)))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{assert_close, group},
        *,
    };

    #[test]
    fn hand_case() {
        // All rewards: 1, 0, 1, 1; mean 0.75, variance 0.75 / 3.
        let advantages = LitePpo::default().estimate(&[group(&[1.0, 0.0]), group(&[1.0, 1.0])]).unwrap();
        let half = 0.5 / (0.5 + 1e-4);
        assert_close(&advantages.per_token.concat(), &[half, -half, 0.0, 0.0]);
    }
}
