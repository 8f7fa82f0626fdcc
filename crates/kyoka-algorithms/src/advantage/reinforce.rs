//! REINFORCE with the batch's mean as baseline (Williams 1992, section 4).
//!
//! `A_i = R_i - mean of all R of the batch`
//!
//! Deviation 1: the baseline includes the completion itself, which scales the gradient by `1 - 1 / B`.

use kyoka_core::{AdvantageError, AdvantageEstimator, Advantages, GroupRewards};

use super::outcome::{check, mean_std, outcomes, spread};

/// Batch-centred outcome rewards.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reinforce;

impl AdvantageEstimator for Reinforce {
    fn credits_equal_rewards(&self) -> bool {
        true
    }

    fn min_group_size(&self) -> usize {
        1
    }

    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
        check("reinforce", self.min_group_size(), groups)?;
        let outcomes: Vec<f64> = groups.iter().flat_map(outcomes).collect();
        let (mean, _) = mean_std(&outcomes);
        Ok(spread(groups, outcomes.iter().map(|outcome| outcome - mean)))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::group, *};

    #[test]
    fn the_baseline_is_that_of_the_batch() {
        let advantages = Reinforce.estimate(&[group(&[1.0]), group(&[0.0]), group(&[2.0])]).unwrap();
        assert_eq!(advantages.per_token.concat(), [0.0, -1.0, 1.0]);
    }
}
