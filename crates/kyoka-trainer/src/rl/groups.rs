//! Completions of a prompt with what was thought of them.

use kyoka_algorithms::{Algorithm, filter};
use kyoka_core::{Completion, CreditedStep, GroupRewards, Prompt, Reward, Rollout, Sample};

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

    /// Whether no completion gets credit under the algorithm's estimator.
    pub fn is_useless(&self, algorithm: &Algorithm) -> bool {
        // An error is for the step to report, with its place.
        !filter::gives_credit(algorithm.advantage.as_ref(), &self.group_rewards()).unwrap_or(true)
    }

    pub fn group_rewards(&self) -> GroupRewards {
        let credited = |reward: &Reward| {
            let steps = reward.steps.iter();
            steps
                .map(|v| CreditedStep { step: (v.rule, v.step), tokens: v.tokens.clone(), value: v.value })
                .collect()
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
