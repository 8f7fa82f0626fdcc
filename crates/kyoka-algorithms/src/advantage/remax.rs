//! ReMax: the reward of the likeliest completion as baseline (arXiv 2310.10505, equation 6).
//!
//! `A_t = sum over t' >= t of r_t' - R(greedy completion of the same prompt)`

use kyoka_core::{AdvantageError, AdvantageEstimator, Advantages, GroupRewards};

use super::outcome::{check, returns_to_go};

/// Greedy baseline.
#[derive(Debug, Clone, Copy, Default)]
pub struct Remax;

impl AdvantageEstimator for Remax {
    fn credits_equal_rewards(&self) -> bool {
        true
    }

    fn min_group_size(&self) -> usize {
        1
    }

    fn needs_greedy_rollout(&self) -> bool {
        true
    }

    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
        check("remax", self.min_group_size(), groups)?;
        let mut per_token = Vec::new();
        let mut returns = Vec::new();
        for (group_index, group) in groups.iter().enumerate() {
            let baseline = group.greedy_total.filter(|total| total.is_finite());
            let Some(baseline) = baseline.map(f64::from) else {
                let got = group.greedy_total.map_or("none".to_owned(), |total| total.to_string());
                return Err(AdvantageError::MissingGreedy { estimator: "remax", group: group_index, got });
            };
            for completion in 0..group.totals.len() {
                returns_to_go(group, completion, 1.0, &mut returns);
                per_token.push(returns.iter().map(|earned| (earned - baseline) as f32).collect());
            }
        }
        Ok(Advantages { per_token, ..Advantages::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::group, *};

    #[test]
    fn hand_case() {
        let with_greedy = GroupRewards { greedy_total: Some(0.5), ..group(&[1.0, 0.0]) };
        assert_eq!(Remax.estimate(&[with_greedy]).unwrap().per_token.concat(), [0.5, -0.5]);
    }

    #[test]
    fn a_missing_greedy_reward_is_named() {
        let error = Remax.estimate(&[group(&[1.0])]).unwrap_err();
        assert_eq!(error.to_string(), "group 0: remax needs the reward of a greedy completion, got none");
    }
}
