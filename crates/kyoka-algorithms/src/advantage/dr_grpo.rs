//! Dr.GRPO: group mean only (arXiv 2503.20783, section 3.2).
//!
//! `A_i = R_i - mean(R)`. Dividing by the standard deviation would weigh easy and hard prompts more.

use kyoka_core::{AdvantageError, AdvantageEstimator, Advantages, GroupRewards};

use super::{mean_std, outcome_advantages};

/// Centred outcome rewards.
#[derive(Debug, Clone, Copy, Default)]
pub struct DrGrpo;

impl AdvantageEstimator for DrGrpo {
    fn min_group_size(&self) -> usize {
        2
    }

    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
        outcome_advantages("dr_grpo", self.min_group_size(), groups, |totals| {
            let (mean, _) = mean_std(totals);
            totals.iter().map(|total| total - mean).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::firsts, *};

    #[test]
    fn hand_case() {
        assert_eq!(firsts(&DrGrpo, &[1.0, 0.0, 0.0, 0.0]), [0.75, -0.25, -0.25, -0.25]);
    }
}
