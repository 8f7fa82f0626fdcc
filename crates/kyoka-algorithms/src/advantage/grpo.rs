//! GRPO: group mean and group standard deviation (arXiv 2402.03300, section 4.1.2).
//!
//! `A_i = (R_i - mean(R)) / (std(R) + eps)`
//!
//! Deviation 1: the paper has no `eps`; 1e-6 is verl's, TRL has 1e-4. With equal rewards every advantage is 0.

use kyoka_core::{AdvantageError, AdvantageEstimator, Advantages, GroupRewards, OwnSettings, SettingsFault};
use serde::Deserialize;

use super::{
    Singleton,
    outcome::{mean_std, outcome_advantages},
};

/// Group-normalised outcome rewards.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grpo {
    /// Added to the standard deviation; a finite number of at least 0. Default 1e-6.
    pub epsilon: f64,
    /// What a group of one gets. Default an error.
    pub singleton: Singleton,
}

impl OwnSettings for Grpo {
    fn check(&self) -> Result<(), SettingsFault> {
        let holds = self.epsilon >= 0.0 && self.epsilon.is_finite();
        SettingsFault::unless(holds, "epsilon", "a finite number of at least 0", self.epsilon)
    }
}

impl Default for Grpo {
    fn default() -> Self {
        Self { epsilon: 1e-6, singleton: Singleton::Refuse }
    }
}

impl AdvantageEstimator for Grpo {
    fn min_group_size(&self) -> usize {
        self.singleton.min_group_size()
    }

    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
        outcome_advantages("grpo", self.min_group_size(), groups, |outcomes| {
            // verl takes a mean of 0 and a standard deviation of 1 for a group of one.
            if let (Singleton::Raw, &[outcome]) = (self.singleton, outcomes) {
                return vec![outcome / (1.0 + self.epsilon)];
            }
            self.singleton.or(outcomes, |outcomes| {
                let (mean, std) = mean_std(outcomes);
                outcomes.iter().map(|outcome| (outcome - mean) / (std + self.epsilon)).collect()
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{assert_close, firsts},
        *,
    };

    #[test]
    fn hand_case() {
        // Mean 0.5, standard deviation sqrt(1 / 3).
        let expected = 0.5 / (1.0_f32 / 3.0).sqrt();
        let signed = [1.0, -1.0, -1.0, 1.0].map(|sign| sign * expected);
        assert_close(&firsts(&Grpo::default(), &[1.0, 0.0, 0.0, 1.0]), &signed);
    }

    #[test]
    fn a_group_of_one_gets_what_was_chosen() {
        for (singleton, expected) in [(Singleton::Zero, 0.0), (Singleton::Raw, 3.0)] {
            assert_close(&firsts(&Grpo { singleton, ..Grpo::default() }, &[3.0]), &[expected]);
        }
    }
}
