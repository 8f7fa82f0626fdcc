//! OPO: the variance-minimal baseline of exact on-policy training (arXiv 2505.23585, section 3.2).
//!
//! `A_i = R_i - sum(l_j R_j) / sum(l_j)` with `l_j` the length of completion `j`
//!
//! A group without a token uses the plain mean.

use kyoka_core::{AdvantageError, AdvantageEstimator, Advantages, GroupRewards};

use super::{
    Singleton,
    outcome::{check, mean_std, outcomes, spread},
};

/// Length-weighted baseline.
#[derive(Debug, Clone, Copy, Default)]
pub struct Opo {
    /// What a group of one gets. Default an error.
    pub singleton: Singleton,
}

impl AdvantageEstimator for Opo {
    fn min_group_size(&self) -> usize {
        self.singleton.min_group_size()
    }

    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
        check("opo", self.min_group_size(), groups)?;
        let credit = |group: &GroupRewards| {
            self.singleton.or(&outcomes(group), |outcomes| {
                let tokens: f64 = group.lengths.iter().map(|&length| length as f64).sum();
                let (mean, std) = mean_std(outcomes);
                let weighted = outcomes.iter().zip(&group.lengths).map(|(r, &length)| r * length as f64);
                let baseline = if tokens > 0.0 && std > 0.0 { weighted.sum::<f64>() / tokens } else { mean };
                outcomes.iter().map(|outcome| outcome - baseline).collect()
            })
        };
        Ok(spread(groups, groups.iter().flat_map(credit)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_case() {
        // (3 * 1 + 1 * 0) / 4 = 0.75
        let group = GroupRewards { totals: vec![1.0, 0.0], lengths: vec![3, 1], ..Default::default() };
        let advantages = Opo::default().estimate(&[group]).unwrap().per_token;
        assert_eq!(advantages, [vec![0.25; 3], vec![-0.75]]);
    }
}
