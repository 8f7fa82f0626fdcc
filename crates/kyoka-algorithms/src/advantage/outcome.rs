//! What outcome estimators share: checked rewards in, one advantage a completion out.

use kyoka_core::{AdvantageError, Advantages, GroupRewards};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// What a group of one completion gets from an estimator that compares completions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Singleton {
    /// An error: there is nothing to compare with. The default.
    #[default]
    Refuse,
    /// No credit, as in TRL.
    Zero,
    /// Its reward, as in verl.
    Raw,
}

impl Singleton {
    /// Fewest completions a group must have.
    pub(super) fn min_group_size(self) -> usize {
        if self == Self::Refuse { 2 } else { 1 }
    }

    /// `credit` of a group, or what a group of one gets.
    pub(super) fn or(self, outcomes: &[f64], credit: impl FnOnce(&[f64]) -> Vec<f64>) -> Vec<f64> {
        match (self, outcomes) {
            (Self::Raw, &[outcome]) => vec![outcome],
            (_, &[_]) => vec![0.0],
            _ => credit(outcomes),
        }
    }
}

/// Mean and standard deviation (over `n - 1`, as TRL and verl have it; 0 for fewer than two values).
pub(super) fn mean_std(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count.max(1.0);
    let squares = values.iter().map(|&value| (value - mean).powi(2)).sum::<f64>();
    let std = if values.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 };
    // Equal values can differ from their rounded mean; they have no spread.
    let flat = values.windows(2).all(|pair| pair[0] == pair[1]);
    if flat { (values.first().copied().unwrap_or(0.0), 0.0) } else { (mean, std) }
}

/// Checks group sizes, shapes and that every reward is a number.
///
/// # Panics
/// If the lists of a group disagree in length.
pub(super) fn check(
    estimator: &'static str,
    min_group_size: usize,
    groups: &[GroupRewards],
) -> Result<(), AdvantageError> {
    for (group_index, group) in groups.iter().enumerate() {
        let got = group.totals.len();
        assert_eq!(
            group.lengths.len(),
            got,
            "lengths: expected {got} (one a reward), got {}",
            group.lengths.len()
        );
        if got < min_group_size {
            return Err(AdvantageError::GroupTooSmall {
                estimator,
                group: group_index,
                expected: min_group_size,
                got,
            });
        }
        check_rewards(group_index, group)?;
    }
    Ok(())
}

fn check_rewards(group_index: usize, group: &GroupRewards) -> Result<(), AdvantageError> {
    let not_finite =
        |completion, got: f32| Err(AdvantageError::NotFinite { group: group_index, completion, got });
    if let Some(completion) = group.totals.iter().position(|total| !total.is_finite()) {
        return not_finite(completion, group.totals[completion]);
    }
    if group.token_rewards.is_empty() {
        return Ok(());
    }
    let (expected, got) = (group.totals.len(), group.token_rewards.len());
    assert_eq!(got, expected, "token_rewards: expected {expected} completions, got {got}");
    for (completion, (rewards, &length)) in group.token_rewards.iter().zip(&group.lengths).enumerate() {
        let got = rewards.len();
        assert_eq!(got, length, "token_rewards of completion {completion}: expected {length}, got {got}");
        if let Some(&bad) = rewards.iter().find(|reward| !reward.is_finite()) {
            return not_finite(completion, bad);
        }
    }
    Ok(())
}

/// `R_i`: the total and the token rewards of each completion.
pub(super) fn outcomes(group: &GroupRewards) -> Vec<f64> {
    let mut outcomes: Vec<f64> = group.totals.iter().map(|&total| f64::from(total)).collect();
    for (outcome, rewards) in outcomes.iter_mut().zip(&group.token_rewards) {
        *outcome += rewards.iter().map(|&reward| f64::from(reward)).sum::<f64>();
    }
    outcomes
}

/// The return from each token on: `G_t = r_t + gamma * G_{t+1}`, the total being earned at the last token.
///
/// `returns` is cleared and filled with one value a token.
pub fn returns_to_go(group: &GroupRewards, completion: usize, gamma: f64, returns: &mut Vec<f64>) {
    let length = group.lengths[completion];
    let total = f64::from(group.totals[completion]);
    let rewards = group.token_rewards.get(completion);
    returns.clear();
    if rewards.is_none() && gamma == 1.0 {
        returns.resize(length, total);
        return;
    }
    returns.resize(length, 0.0);
    let mut next = 0.0;
    for t in (0..length).rev() {
        let earned = rewards.map_or(0.0, |rewards| f64::from(rewards[t]));
        next = earned + if t + 1 == length { total } else { gamma * next };
        returns[t] = next;
    }
}

/// Gives every token of a completion the completion's advantage.
pub(super) fn spread(groups: &[GroupRewards], advantages: impl IntoIterator<Item = f64>) -> Advantages {
    let lengths = groups.iter().flat_map(|group| &group.lengths);
    let rows: Vec<(f64, usize)> = advantages.into_iter().zip(lengths.copied()).collect();
    let per_token = rows.par_iter().map(|&(a, length)| vec![a as f32; length]).collect();
    Advantages { per_token, value_targets: Vec::new() }
}

/// The common path: check, credit each group by its outcomes, spread over the tokens.
pub(super) fn outcome_advantages(
    estimator: &'static str,
    min_group_size: usize,
    groups: &[GroupRewards],
    credit: impl Fn(&[f64]) -> Vec<f64>,
) -> Result<Advantages, AdvantageError> {
    check(estimator, min_group_size, groups)?;
    Ok(spread(groups, groups.iter().flat_map(|group| credit(&outcomes(group)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_rewards_add_to_the_outcome_and_discount_backwards() {
        let group = GroupRewards {
            totals: vec![1.0],
            lengths: vec![3],
            token_rewards: vec![vec![0.5, -0.25, 0.0]],
            ..Default::default()
        };
        assert_eq!(outcomes(&group), [1.25]);
        let mut returns = Vec::new();
        returns_to_go(&group, 0, 0.5, &mut returns);
        // 1; -0.25 + 0.5 * 1; 0.5 + 0.5 * 0.25
        assert_eq!(returns, [0.625, 0.25, 1.0]);
    }

    #[test]
    fn equal_values_have_no_spread_whatever_the_rounding() {
        assert_eq!(mean_std(&[0.1; 3]), (0.1, 0.0));
        assert_eq!(mean_std(&[]), (0.0, 0.0));
        assert_eq!(mean_std(&[4.0]), (4.0, 0.0));
    }
}
