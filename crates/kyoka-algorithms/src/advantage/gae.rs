//! Generalised advantage estimation with a critic (arXiv 1506.02438, equation 16).
//!
//! `d_t = r_t + gamma V_{t+1} - V_t`, `A_t = d_t + gamma lambda A_{t+1}`, value targets `A_t + V_t`
//!
//! The value after the last token is 0. Tokens that the policy did not write (a tool's answer) are left out before:
//! that carries both `V` and `A` through unchanged.
//! Deviation 1: advantages are whitened over the batch on request, as every PPO implementation does.

use kyoka_core::{AdvantageError, AdvantageEstimator, Advantages, GroupRewards};
use rayon::prelude::*;

use super::{outcome::check, whitening::Moments};

/// PPO's credit.
#[derive(Debug, Clone, Copy)]
pub struct Gae {
    /// Discount of the future, in [0, 1]. Default 1.
    pub gamma: f64,
    /// Trade of bias (0) against variance (1). Default 0.95.
    pub lambda: f64,
    /// Whether advantages are whitened over the batch. Default true.
    pub whiten: bool,
}

impl Default for Gae {
    fn default() -> Self {
        Self { gamma: 1.0, lambda: 0.95, whiten: true }
    }
}

impl AdvantageEstimator for Gae {
    fn min_group_size(&self) -> usize {
        1
    }

    fn needs_values(&self) -> bool {
        true
    }

    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
        let rows = Rows::new("gae", groups)?;
        Ok(rows.estimate((self.gamma, self.whiten), |_| (self.lambda, self.lambda)))
    }
}

/// The completions of a batch, one after the other, each with its critic's values.
pub(super) struct Rows<'a>(Vec<(&'a GroupRewards, usize)>);

impl<'a> Rows<'a> {
    /// Checks rewards and values.
    pub fn new(estimator: &'static str, groups: &'a [GroupRewards]) -> Result<Self, AdvantageError> {
        check(estimator, 1, groups)?;
        let of_group = |(group_index, group): (usize, &GroupRewards)| {
            (0..group.lengths.len())
                .try_for_each(|completion| check_values(estimator, (group_index, group), completion))
        };
        let error = groups.par_iter().enumerate().find_map_first(|group| of_group(group).err());
        error.map_or(Ok(()), Err)?;
        let of_group = |group: &'a GroupRewards| (0..group.lengths.len()).map(move |index| (group, index));
        Ok(Self(groups.iter().flat_map(of_group).collect()))
    }

    /// Advantages with the actor's lambda and value targets with the critic's; `lambdas` gives both for a length.
    pub fn estimate(
        &self,
        (gamma, whiten): (f64, bool),
        lambdas: impl Fn(usize) -> (f64, f64) + Sync,
    ) -> Advantages {
        let credit = |&(group, completion): &(&GroupRewards, usize)| {
            accumulate(group, completion, gamma, lambdas(group.lengths[completion]))
        };
        // A row's moments are taken while it is in the cache.
        let with_moments = |row: &_| {
            let (advantages, targets) = credit(row);
            let moments = if whiten { Moments::of(&advantages) } else { Moments::default() };
            ((advantages, targets), moments)
        };
        let rows: Vec<_> = self.0.par_iter().map(with_moments).collect();
        let ((mut per_token, value_targets), moments): ((Vec<_>, Vec<_>), Vec<Moments>) =
            rows.into_iter().unzip();
        if whiten {
            let whiten = moments.iter().fold(Moments::default(), Moments::merge).whiten();
            let in_place = |row: &mut Vec<f32>| row.iter_mut().for_each(|a| *a = whiten(f64::from(*a)));
            per_token.par_iter_mut().for_each(in_place);
        }
        Advantages { per_token, value_targets }
    }
}

/// As many finite values as the completion has tokens.
fn check_values(
    estimator: &'static str,
    (group_index, group): (usize, &GroupRewards),
    completion: usize,
) -> Result<(), AdvantageError> {
    let values = group.values.get(completion).map_or(&[][..], Vec::as_slice);
    let (expected, got) = (group.lengths[completion], values.len());
    if got != expected {
        let group = group_index;
        return Err(AdvantageError::MissingValues { estimator, group, completion, expected, got });
    }
    // The largest magnitude as bits: infinities and NaN come after every number. It vectorises.
    let largest = values.iter().fold(0, |most: u32, value| most.max(value.abs().to_bits()));
    match largest < f32::INFINITY.to_bits() {
        true => Ok(()),
        false => {
            let got = f32::from_bits(largest);
            Err(AdvantageError::NotFinite { group: group_index, completion, got })
        }
    }
}

/// The recursions of actor and critic side by side, from the last token to the first: advantages and value targets.
fn accumulate(
    group: &GroupRewards,
    completion: usize,
    gamma: f64,
    (lambda_actor, lambda_critic): (f64, f64),
) -> (Vec<f32>, Vec<f32>) {
    let values = &group.values[completion];
    let rewards = group.token_rewards.get(completion);
    let (decay_actor, decay_critic) = (gamma * lambda_actor, gamma * lambda_critic);
    let (mut advantages, mut targets) = (vec![0.0; values.len()], vec![0.0; values.len()]);
    let (mut next_value, mut actor, mut critic) = (0.0, 0.0, 0.0);
    let mut final_reward = f64::from(group.totals[completion]);
    let slots = advantages.iter_mut().zip(&mut targets).zip(values).enumerate().rev();
    for (t, ((advantage, target), &value)) in slots {
        let reward = rewards.map_or(0.0, |rewards| f64::from(rewards[t])) + std::mem::take(&mut final_reward);
        let value = f64::from(value);
        let delta = reward + gamma * next_value - value;
        actor = delta + decay_actor * actor;
        critic = delta + decay_critic * critic;
        next_value = value;
        *advantage = actor as f32;
        *target = (critic + value) as f32;
    }
    (advantages, targets)
}

#[cfg(test)]
mod tests {
    use super::{super::tests::assert_close, *};

    fn valued() -> GroupRewards {
        GroupRewards {
            totals: vec![1.0],
            lengths: vec![3],
            values: vec![vec![0.5, 0.25, 0.75]],
            ..Default::default()
        }
    }

    #[test]
    fn hand_case() {
        // d = -0.25, 0.5, 0.25; lambda 0.5: A_3 = 0.25, A_2 = 0.625, A_1 = 0.0625.
        let gae = Gae { gamma: 1.0, lambda: 0.5, whiten: false };
        let got = gae.estimate(&[valued()]).unwrap();
        assert_close(&got.per_token[0], &[0.0625, 0.625, 0.25]);
        assert_close(&got.value_targets[0], &[0.5625, 0.875, 1.0]);
    }

    #[test]
    fn with_lambda_one_the_target_is_the_return_and_with_zero_the_next_value() {
        let at = |lambda| Gae { gamma: 1.0, lambda, whiten: false }.estimate(&[valued()]).unwrap();
        assert_close(&at(1.0).value_targets[0], &[1.0, 1.0, 1.0]);
        assert_close(&at(0.0).value_targets[0], &[0.25, 0.75, 1.0]);
    }

    #[test]
    fn missing_values_are_named() {
        let bare = GroupRewards { values: vec![], ..valued() };
        let error = Gae::default().estimate(&[bare]).unwrap_err();
        assert_eq!(error.to_string(), "group 0, completion 0: gae needs 3 values of a critic, got 0");
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let broken = GroupRewards { values: vec![vec![0.5, bad, -3e38]], ..valued() };
            let error = Gae::default().estimate(&[broken]).unwrap_err();
            assert!(matches!(error, AdvantageError::NotFinite { group: 0, completion: 0, .. }), "{error}");
        }
    }
}
