//! GPG: centred rewards, scaled up where many completions of the batch earn nothing (arXiv 2504.02546, section 3.3).
//!
//! `A_i = alpha (R_i - mean(R)) / F_norm`, `alpha = B / (completions of the batch with R != 0)`
//!
//! Deviation 1: the paper counts groups with a gradient; the public code of verl counts rewards other than 0, and so
//! does this. A batch without any such reward has `alpha = B`.

use kyoka_core::{AdvantageError, AdvantageEstimator, Advantages, GroupRewards};

use super::{
    Singleton,
    outcome::{check, mean_std, outcomes, spread},
};

/// Group policy gradient.
#[derive(Debug, Clone, Copy)]
pub struct Gpg {
    /// Divides the advantages; above 0. Default 1.
    pub f_norm: f64,
    /// What a group of one gets, before scaling. Default an error.
    pub singleton: Singleton,
}

impl Default for Gpg {
    fn default() -> Self {
        Self { f_norm: 1.0, singleton: Singleton::Refuse }
    }
}

impl AdvantageEstimator for Gpg {
    fn min_group_size(&self) -> usize {
        self.singleton.min_group_size()
    }

    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
        check("gpg", self.min_group_size(), groups)?;
        let outcomes: Vec<Vec<f64>> = groups.iter().map(outcomes).collect();
        let all = outcomes.iter().flatten();
        let earning = all.clone().filter(|&&outcome| outcome != 0.0).count().max(1);
        let scale = all.count() as f64 / earning as f64 / self.f_norm;
        let credit = |outcomes: &Vec<f64>| {
            let centred = self.singleton.or(outcomes, |outcomes| {
                let (mean, _) = mean_std(outcomes);
                outcomes.iter().map(|outcome| outcome - mean).collect()
            });
            centred.into_iter().map(|advantage| advantage * scale).collect::<Vec<f64>>()
        };
        Ok(spread(groups, outcomes.iter().flat_map(credit)))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::firsts, *};

    #[test]
    fn hand_case() {
        // Mean 0.25, alpha = 4 / 1.
        assert_eq!(firsts(&Gpg::default(), &[1.0, 0.0, 0.0, 0.0]), [3.0, -1.0, -1.0, -1.0]);
    }

    #[test]
    fn a_batch_that_earns_nothing_gets_nothing() {
        assert_eq!(firsts(&Gpg::default(), &[0.0; 3]), [0.0; 3]);
    }
}
