//! MaxRL: the gradient of the log of the success rate, to first order (arXiv 2602.02710, section 4).
//!
//! `A_i = (R_i - mean(R)) / mean(R)`, for rewards of at least 0; a group with a mean of 0 or less gets none.

use kyoka_core::{AdvantageError, AdvantageEstimator, Advantages, GroupRewards};

use super::outcome::{mean_std, outcome_advantages};

/// Rewards relative to the group's mean.
#[derive(Debug, Clone, Copy, Default)]
pub struct MaxRl;

impl AdvantageEstimator for MaxRl {
    /// One completion alone gets 0, which is what the formula says.
    fn min_group_size(&self) -> usize {
        1
    }

    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
        outcome_advantages("max_rl", self.min_group_size(), groups, |outcomes| {
            let (mean, _) = mean_std(outcomes);
            let relative = |outcome: &f64| if mean > 0.0 { (outcome - mean) / mean } else { 0.0 };
            outcomes.iter().map(relative).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::firsts, *};

    #[test]
    fn hand_case() {
        assert_eq!(firsts(&MaxRl, &[1.0, 0.0, 0.0, 0.0]), [3.0, -1.0, -1.0, -1.0]);
    }

    #[test]
    fn a_mean_of_zero_or_less_gives_nothing() {
        assert_eq!(firsts(&MaxRl, &[-1.0, 0.0]), [0.0, 0.0]);
        assert_eq!(firsts(&MaxRl, &[1.0, -1.0]), [0.0, 0.0]);
    }
}
