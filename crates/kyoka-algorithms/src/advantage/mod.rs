//! Credit assignment: rewards of groups to advantages of tokens.

mod dr_grpo;
mod grpo;
mod process_grpo;
mod rloo;

use kyoka_core::{AdvantageError, Advantages, GroupRewards};

pub use dr_grpo::DrGrpo;
pub use grpo::Grpo;
pub use process_grpo::ProcessGrpo;
pub use rloo::Rloo;

/// Mean and standard deviation (over `n - 1`, as TRL and verl have it; 0 for a single value).
fn mean_std(values: &[f32]) -> (f32, f32) {
    let count = values.len() as f64;
    let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
    let squares = values.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>();
    let std = if values.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 };
    (mean as f32, std as f32)
}

/// Checks rewards and group sizes, then gives every token of a completion the completion's advantage.
fn outcome_advantages(
    estimator: &'static str,
    min_group_size: usize,
    groups: &[GroupRewards],
    credit: impl Fn(&[f32]) -> Vec<f32>,
) -> Result<Advantages, AdvantageError> {
    let mut per_token = Vec::new();
    for (group_index, group) in groups.iter().enumerate() {
        let got = group.totals.len();
        if got < min_group_size {
            return Err(AdvantageError::GroupTooSmall {
                estimator,
                group: group_index,
                expected: min_group_size,
                got,
            });
        }
        if let Some(completion) = group.totals.iter().position(|total| !total.is_finite()) {
            let got = group.totals[completion];
            return Err(AdvantageError::NotFinite { group: group_index, completion, got });
        }
        let advantages = credit(&group.totals);
        per_token.extend(
            advantages.iter().zip(&group.lengths).map(|(&advantage, &length)| vec![advantage; length]),
        );
    }
    Ok(Advantages { per_token })
}

#[cfg(test)]
mod tests {
    use kyoka_core::AdvantageEstimator;

    use super::*;

    pub(super) fn group(totals: &[f32]) -> GroupRewards {
        GroupRewards {
            totals: totals.to_vec(),
            lengths: vec![1; totals.len()],
            steps: vec![vec![]; totals.len()],
        }
    }

    pub(super) fn firsts(estimator: &dyn AdvantageEstimator, totals: &[f32]) -> Vec<f32> {
        let advantages = estimator.estimate(&[group(totals)]).unwrap();
        advantages.per_token.iter().map(|tokens| tokens[0]).collect()
    }

    #[test]
    fn group_relative_advantages_sum_to_zero_and_ignore_a_shift() {
        let estimators: [&dyn AdvantageEstimator; 4] =
            [&Grpo::default(), &DrGrpo, &Rloo, &ProcessGrpo::default()];
        let totals = [0.3, 1.0, -2.0, 0.7, 0.0];
        for estimator in estimators {
            let advantages = firsts(estimator, &totals);
            assert!(advantages.iter().sum::<f32>().abs() < 1e-5);
            let shifted = firsts(estimator, &totals.map(|total| total + 5.0));
            for (a, b) in advantages.iter().zip(shifted) {
                assert!((a - b).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn equal_rewards_give_no_credit() {
        let estimators: [&dyn AdvantageEstimator; 4] =
            [&Grpo::default(), &DrGrpo, &Rloo, &ProcessGrpo::default()];
        for estimator in estimators {
            assert_eq!(firsts(estimator, &[0.4; 4]), [0.0; 4]);
        }
    }

    #[test]
    fn bad_rewards_and_groups_of_one_are_refused() {
        let nan = Grpo::default().estimate(&[group(&[1.0, 0.0]), group(&[0.0, f32::NAN])]).unwrap_err();
        assert_eq!(nan.to_string(), "group 1, completion 1: expected a finite reward, got NaN");
        let single = Rloo.estimate(&[group(&[1.0])]).unwrap_err();
        assert_eq!(single.to_string(), "group 0: rloo needs at least 2 completions a prompt, got 1");
    }
}
