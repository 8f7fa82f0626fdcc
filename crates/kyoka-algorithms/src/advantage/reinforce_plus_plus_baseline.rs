//! REINFORCE++-baseline: group mean, then whitening over the batch (arXiv 2501.03262, section 3.3).
//!
//! `A_i = (R_i - mean of the group)`, whitened over all tokens of the batch; no group standard deviation.

use kyoka_core::{AdvantageError, AdvantageEstimator, Advantages, GroupRewards};

use super::{
    Singleton, Whitening,
    outcome::{check, mean_std, outcomes, spread},
    whitening::whitened_outcomes,
};

/// Group-centred, batch-whitened outcome rewards.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReinforcePlusPlusBaseline {
    /// What a group of one gets, before whitening. Default an error.
    pub singleton: Singleton,
}

impl AdvantageEstimator for ReinforcePlusPlusBaseline {
    fn min_group_size(&self) -> usize {
        self.singleton.min_group_size()
    }

    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
        check("reinforce_plus_plus_baseline", self.min_group_size(), groups)?;
        let credit = |group: &GroupRewards| {
            self.singleton.or(&outcomes(group), |outcomes| {
                let (mean, _) = mean_std(outcomes);
                outcomes.iter().map(|outcome| outcome - mean).collect()
            })
        };
        let centred: Vec<f64> = groups.iter().flat_map(credit).collect();
        let lengths: Vec<usize> = groups.iter().flat_map(|group| group.lengths.iter().copied()).collect();
        Ok(spread(groups, whitened_outcomes(Whitening::Tokens, &centred, &lengths)))
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
        // Centred: 0.5, -0.5, 1, -1; variance 2.5 / 3.
        let groups = [group(&[1.0, 0.0]), group(&[2.0, 0.0])];
        let advantages = ReinforcePlusPlusBaseline::default().estimate(&groups).unwrap();
        let std = (2.5_f32 / 3.0).sqrt();
        assert_close(&advantages.per_token.concat(), &[0.5, -0.5, 1.0, -1.0].map(|centred| centred / std));
    }
}
