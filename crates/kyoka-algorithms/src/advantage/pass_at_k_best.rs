//! Pass@k by the best completion alone (arXiv 2503.19595, section 3).
//!
//! `A = R_max - R_second` for the best completion of a group, 0 for the others; divided by `std(R) + eps` on request.
//!
//! Two best completions get nothing: either alone would have done.

use kyoka_core::{AdvantageError, AdvantageEstimator, Advantages, GroupRewards};

use super::outcome::{mean_std, outcome_advantages};

/// Best minus second.
#[derive(Debug, Clone, Copy)]
pub struct PassAtKBest {
    /// Whether the group's standard deviation divides. Default true, as in verl.
    pub normalise: bool,
    /// Added to the standard deviation. Default 1e-6.
    pub epsilon: f64,
}

impl Default for PassAtKBest {
    fn default() -> Self {
        Self { normalise: true, epsilon: 1e-6 }
    }
}

impl AdvantageEstimator for PassAtKBest {
    fn min_group_size(&self) -> usize {
        2
    }

    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
        outcome_advantages("pass_at_k_best", self.min_group_size(), groups, |outcomes| {
            let mut order: Vec<usize> = (0..outcomes.len()).collect();
            order.sort_by(|&a, &b| outcomes[b].total_cmp(&outcomes[a]));
            let lead = outcomes[order[0]] - outcomes[order[1]];
            let (_, std) = mean_std(outcomes);
            let mut advantages = vec![0.0; outcomes.len()];
            advantages[order[0]] = if self.normalise { lead / (std + self.epsilon) } else { lead };
            advantages
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::firsts, *};

    #[test]
    fn hand_case() {
        let plain = PassAtKBest { normalise: false, ..PassAtKBest::default() };
        assert_eq!(firsts(&plain, &[0.25, 1.0, 0.5]), [0.0, 0.5, 0.0]);
        assert_eq!(firsts(&plain, &[1.0, 1.0, 0.5]), [0.0, 0.0, 0.0]);
    }
}
