//! GRPO: group mean and group standard deviation (arXiv 2402.03300, section 4.1.2).
//!
//! `A_i = (R_i - mean(R)) / (std(R) + eps)`
//!
//! Deviation 1: the paper has no `eps`; 1e-6 is verl's, TRL has 1e-4. With equal rewards every advantage is 0.

use kyoka_core::{AdvantageError, AdvantageEstimator, Advantages, GroupRewards};

use super::{mean_std, outcome_advantages};

/// Group-normalised outcome rewards.
#[derive(Debug, Clone, Copy)]
pub struct Grpo {
    /// Added to the standard deviation. Default 1e-6.
    pub epsilon: f32,
}

impl Default for Grpo {
    fn default() -> Self {
        Self { epsilon: 1e-6 }
    }
}

impl AdvantageEstimator for Grpo {
    fn min_group_size(&self) -> usize {
        2
    }

    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
        outcome_advantages("grpo", self.min_group_size(), groups, |totals| {
            let (mean, std) = mean_std(totals);
            totals.iter().map(|total| (total - mean) / (std + self.epsilon)).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::firsts, *};

    #[test]
    fn hand_case() {
        // Mean 0.5, standard deviation sqrt(1 / 3).
        let advantages = firsts(&Grpo::default(), &[1.0, 0.0, 0.0, 1.0]);
        let expected = 0.5 / (1.0_f32 / 3.0).sqrt();
        for (got, sign) in advantages.iter().zip([1.0, -1.0, -1.0, 1.0]) {
            assert!((got - sign * expected).abs() < 1e-5);
        }
    }
}
