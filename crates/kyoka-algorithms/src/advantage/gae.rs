//! Generalised advantage estimation with a critic (arXiv 1506.02438, equation 16).
//!
//! `d_t = r_t + gamma V_{t+1} - V_t`, `A_t = d_t + gamma lambda A_{t+1}`, value targets `A_t + V_t`
//!
//! The value after the last token is 0. Tokens that the policy did not write (a tool's answer) are left out before:
//! that carries both `V` and `A` through unchanged.
//! Deviation 1: advantages are whitened over the batch on request, as every PPO implementation does.

use kyoka_core::{AdvantageError, AdvantageEstimator, Advantages, GroupRewards};

use super::{outcome::check, whitening::whitened_tokens};

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
        let mut rows = Vec::new();
        for (group_index, group) in groups.iter().enumerate() {
            for (completion, &expected) in group.lengths.iter().enumerate() {
                let values = group.values.get(completion).map_or(&[][..], Vec::as_slice);
                let (group_place, got) = (group_index, values.len());
                if got != expected {
                    return Err(AdvantageError::MissingValues {
                        estimator,
                        group: group_place,
                        completion,
                        expected,
                        got,
                    });
                }
                if let Some(&bad) = values.iter().find(|value| !value.is_finite()) {
                    return Err(AdvantageError::NotFinite { group: group_place, completion, got: bad });
                }
                rows.push((group, completion));
            }
        }
        Ok(Self(rows))
    }

    /// Advantages with the actor's lambda and value targets with the critic's; `lambdas` gives both for a length.
    pub fn estimate(
        &self,
        (gamma, whiten): (f64, bool),
        lambdas: impl Fn(usize) -> (f64, f64),
    ) -> Advantages {
        let actor = |row: usize, out: &mut Vec<f64>| {
            let (group, completion) = self.0[row];
            accumulate(group, completion, (gamma, lambdas(group.lengths[completion]).0), out);
        };
        let mut buffer = Vec::new();
        let per_token = if whiten {
            whitened_tokens(self.0.len(), actor)
        } else {
            let mut plain = |row| {
                actor(row, &mut buffer);
                buffer.iter().map(|&advantage| advantage as f32).collect()
            };
            (0..self.0.len()).map(&mut plain).collect()
        };
        let target = |&(group, completion): &(&GroupRewards, usize)| {
            accumulate(group, completion, (gamma, lambdas(group.lengths[completion]).1), &mut buffer);
            let values = &group.values[completion];
            buffer.iter().zip(values).map(|(a, &value)| (a + f64::from(value)) as f32).collect()
        };
        Advantages { per_token, value_targets: self.0.iter().map(target).collect() }
    }
}

/// The recursion, from the last token to the first.
fn accumulate(group: &GroupRewards, completion: usize, (gamma, lambda): (f64, f64), out: &mut Vec<f64>) {
    let values = &group.values[completion];
    let rewards = group.token_rewards.get(completion);
    out.clear();
    out.resize(values.len(), 0.0);
    let (mut next_value, mut next_advantage) = (0.0, 0.0);
    let mut final_reward = f64::from(group.totals[completion]);
    for t in (0..values.len()).rev() {
        let value = f64::from(values[t]);
        let reward = rewards.map_or(0.0, |rewards| f64::from(rewards[t])) + std::mem::take(&mut final_reward);
        next_advantage = reward + gamma * next_value - value + gamma * lambda * next_advantage;
        next_value = value;
        out[t] = next_advantage;
    }
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
    }
}
