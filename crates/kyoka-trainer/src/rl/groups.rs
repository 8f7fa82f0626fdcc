//! Completions of a prompt with what was thought of them.

use kyoka_algorithms::{Algorithm, filter};
use kyoka_core::{Completion, CreditedStep, GroupRewards, Metrics, Prompt, Reward, Rollout, Sample};

use crate::part_means::PartMeans;

/// Where a row is used: it decides the row's random changes.
pub(super) type Place = [u64; 4];

/// A prompt with its judged completions.
pub(super) struct JudgedGroup<'a> {
    pub sample: &'a Sample,
    /// The sample's row of the split, and where it is used.
    pub row: usize,
    pub place: Place,
    pub prompt: Prompt,
    pub rollouts: Vec<Rollout>,
    pub completions: Vec<Completion>,
    pub rewards: Vec<Reward>,
    /// Reward of the likeliest completion, where the credit wants it.
    pub greedy_total: Option<f32>,
}

impl JudgedGroup<'_> {
    fn totals(&self) -> Vec<f32> {
        self.rewards.iter().map(|reward| reward.total.expect("ungraded completions were left out")).collect()
    }

    /// Whether all completions earned the same.
    pub fn is_flat(&self) -> bool {
        !filter::is_informative(&self.totals())
    }

    /// Whether a completion is right: by its accuracy, else by earning something.
    pub fn is_right(reward: &Reward) -> bool {
        let accuracy = reward.parts.iter().find(|(name, _)| name == "accuracy").map(|(_, value)| *value);
        accuracy.map_or(reward.total.unwrap_or(0.0) > 0.0, |accuracy| accuracy >= 1.0)
    }

    /// Whether no completion gets credit under the algorithm's estimator.
    pub fn is_useless(&self, algorithm: &Algorithm) -> bool {
        // An error is for the step to report, with its place.
        !filter::gives_credit(algorithm.advantage.as_ref(), &self.group_rewards()).unwrap_or(true)
    }

    pub fn group_rewards(&self) -> GroupRewards {
        let credited = |reward: &Reward| {
            let steps = reward.steps.iter();
            steps.map(|v| CreditedStep { step: v.step, tokens: v.tokens.clone(), value: v.value }).collect()
        };
        let terms = |reward: &Reward| match reward.terms.is_empty() {
            true => vec![(1.0, reward.total.expect("ungraded completions were left out"))],
            false => reward.terms.clone(),
        };
        let terms: Vec<Vec<(f32, f32)>> = self.rewards.iter().map(terms).collect();
        GroupRewards {
            totals: self.totals(),
            lengths: self.rollouts.iter().map(|rollout| rollout.token_ids.len()).collect(),
            steps: self.rewards.iter().map(credited).collect(),
            parts: terms.iter().map(|terms| terms.iter().map(|&(_, value)| value).collect()).collect(),
            part_weights: terms.first().into_iter().flatten().map(|&(weight, _)| weight).collect(),
            greedy_total: self.greedy_total,
            ..GroupRewards::default()
        }
    }
}

/// Means over everything sampled in the first round, before any filter.
pub(super) fn log_rewards(groups: &[JudgedGroup<'_>], metrics: &mut Metrics) {
    let rollouts: Vec<(&Rollout, &Reward)> =
        groups.iter().flat_map(|group| group.rollouts.iter().zip(&group.rewards)).collect();
    let mut means = PartMeans::default();
    for (rollout, reward) in &rollouts {
        means.add("reward/total", f64::from(reward.total.expect("ungraded completions were left out")));
        reward.parts.iter().for_each(|(name, value)| means.add(&format!("reward/{name}"), f64::from(*value)));
        means.add("completion_length", rollout.token_ids.len() as f64);
        means.add("truncated_share", f64::from(u8::from(rollout.is_truncated())));
    }
    means.finish().into_iter().for_each(|(name, value)| metrics.set(name, value));
    let told = rollouts.iter().all(|(rollout, _)| rollout.entropies.len() == rollout.token_ids.len());
    if told {
        let entropies = rollouts.iter().flat_map(|(rollout, _)| &rollout.entropies);
        metrics.set("entropy", mean(entropies));
    } else {
        let logprobs = rollouts.iter().flat_map(|(rollout, _)| &rollout.logprobs);
        metrics.set("entropy_estimate", -mean(logprobs));
    }
    let flat = groups.iter().filter(|group| group.is_flat()).count();
    metrics.set("zero_variance_share", flat as f64 / groups.len().max(1) as f64);
}

/// The mean entropy of the policy where the tokens were drawn; from an engine that cannot tell, the mean of `-log p` of
/// what was drawn, which estimates it.
pub(super) fn sampled_entropy(metrics: &Metrics) -> f64 {
    metrics.get("entropy").or(metrics.get("entropy_estimate")).unwrap_or(0.0)
}

fn mean<'a>(values: impl Iterator<Item = &'a f32>) -> f64 {
    let (count, sum) = values.fold((0, 0.0), |(count, sum), &value| (count + 1, sum + f64::from(value)));
    sum / f64::max(f64::from(count), 1.0)
}
