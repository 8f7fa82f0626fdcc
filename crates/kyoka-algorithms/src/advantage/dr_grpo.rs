//! Dr.GRPO: group mean only (arXiv 2503.20783, section 3.2).
//!
//! `A_i = R_i - mean(R)`. Dividing by the standard deviation would weigh easy and hard prompts more.

use kyoka_core::{AdvantageError, AdvantageEstimator, Advantages, GroupRewards};

use super::{
    Singleton,
    outcome::{mean_std, outcome_advantages},
};

/// Centred outcome rewards.
#[derive(Debug, Clone, Copy, Default)]
pub struct DrGrpo {
    /// What a group of one gets. Default an error.
    pub singleton: Singleton,
}

impl AdvantageEstimator for DrGrpo {
    fn min_group_size(&self) -> usize {
        self.singleton.min_group_size()
    }

    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
        outcome_advantages("dr_grpo", self.min_group_size(), groups, |outcomes| {
            self.singleton.or(outcomes, |outcomes| {
                let (mean, _) = mean_std(outcomes);
                outcomes.iter().map(|outcome| outcome - mean).collect()
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::firsts, *};

    #[test]
    fn hand_case() {
        assert_eq!(firsts(&DrGrpo::default(), &[1.0, 0.0, 0.0, 0.0]), [0.75, -0.25, -0.25, -0.25]);
    }
}
