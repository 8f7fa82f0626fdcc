//! Numbers of a step: those that steer have fields, the log gets them all at the end.

use kyoka_core::{Metrics, Reward, Rollout};

use super::groups::JudgedGroup;
use crate::{PhaseSeconds, part_means::PartMeans};

/// What sampling and judging a step measured.
#[derive(Default)]
pub(super) struct GatherStats {
    pub seconds: PhaseSeconds,
    pub generated_tokens: usize,
    /// Completions that were judged.
    pub judged: usize,
    /// Those of them that were left out because nothing could be said of them.
    pub ungraded: usize,
    /// Those that a judge failed at, and what the first of these failures was.
    pub faults: usize,
    pub fault: Option<String>,
    /// What the reward has counted so far.
    pub counters: Vec<(String, f64)>,
    /// Rounds of further prompts; none without dynamic sampling.
    pub refills: Option<usize>,
    pub entropy: SampledEntropy,
    /// Means over everything sampled in the first round, before any filter.
    means: Vec<(String, f64)>,
    /// Share of the first round's groups whose completions all earned the same.
    zero_variance_share: f64,
}

/// The mean entropy of the policy where the tokens were drawn.
#[derive(Debug, Clone, Copy)]
pub(super) enum SampledEntropy {
    /// As the engine says.
    Measured(f64),
    /// From an engine that cannot tell: the mean of `-log p` of what was drawn.
    Estimated(f64),
}

impl Default for SampledEntropy {
    fn default() -> Self {
        Self::Measured(0.0)
    }
}

impl SampledEntropy {
    pub fn value(self) -> f64 {
        match self {
            Self::Measured(entropy) | Self::Estimated(entropy) => entropy,
        }
    }
}

impl GatherStats {
    /// Takes the means of the first round.
    pub fn count(&mut self, groups: &[JudgedGroup<'_>]) {
        let rollouts: Vec<(&Rollout, &Reward)> =
            groups.iter().flat_map(|group| group.rollouts.iter().zip(&group.rewards)).collect();
        let mut means = PartMeans::default();
        for (rollout, reward) in &rollouts {
            means.add("reward/total", f64::from(reward.total.expect("ungraded completions were left out")));
            reward
                .parts
                .iter()
                .for_each(|(name, value)| means.add(&format!("reward/{name}"), f64::from(*value)));
            means.add("completion_length", rollout.token_ids.len() as f64);
            means.add("truncated_share", f64::from(u8::from(rollout.is_truncated())));
            if !rollout.turns.is_empty() {
                means.add("turns", rollout.turns.len() as f64);
            }
        }
        self.means = means.finish();
        let told = rollouts.iter().all(|(rollout, _)| rollout.entropies.len() == rollout.token_ids.len());
        self.entropy = match told {
            true => {
                SampledEntropy::Measured(mean(rollouts.iter().flat_map(|(rollout, _)| &rollout.entropies)))
            }
            false => {
                SampledEntropy::Estimated(-mean(rollouts.iter().flat_map(|(rollout, _)| &rollout.logprobs)))
            }
        };
        let flat = groups.iter().filter(|group| group.is_flat()).count();
        self.zero_variance_share = flat as f64 / groups.len().max(1) as f64;
    }

    /// Counts a completion that was judged.
    pub fn judge(&mut self, reward: &Reward) {
        self.judged += 1;
        self.ungraded += usize::from(reward.total.is_none());
        self.faults += usize::from(reward.fault.is_some());
        if self.fault.is_none() {
            self.fault.clone_from(&reward.fault);
        }
    }

    /// What the user should know of judges that failed.
    pub fn warning(&self) -> Option<String> {
        let fault = self.fault.as_ref()?;
        let Self { faults, judged, .. } = self;
        Some(format!("judging failed for {faults} of {judged} completions, the first time with: {fault}"))
    }

    /// Writes the numbers into the log's.
    pub fn report(&self, metrics: &mut Metrics) {
        self.means.iter().for_each(|(name, value)| metrics.set(name.clone(), *value));
        self.counters.iter().for_each(|(name, count)| metrics.set(name.clone(), *count));
        metrics.set("generated_tokens", self.generated_tokens as f64);
        if self.ungraded > 0 {
            metrics.set("ungraded", self.ungraded as f64);
        }
        if let Some(refills) = self.refills {
            metrics.set("refills", refills as f64);
        }
        match self.entropy {
            SampledEntropy::Measured(entropy) => metrics.set("entropy", entropy),
            SampledEntropy::Estimated(entropy) => metrics.set("entropy_estimate", entropy),
        }
        metrics.set("zero_variance_share", self.zero_variance_share);
    }
}

fn mean<'a>(values: impl Iterator<Item = &'a f32>) -> f64 {
    let (count, sum) = values.fold((0, 0.0), |(count, sum), &value| (count + 1, sum + f64::from(value)));
    sum / f64::max(f64::from(count), 1.0)
}

/// What an update, or all updates of a step, measured; absent is what was not.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct UpdateStats {
    pub learning_rate: Option<f64>,
    pub critic_learning_rate: Option<f64>,
    pub loss: Option<f64>,
    pub value_loss: Option<f64>,
    pub grad_norm: Option<f64>,
    /// Mean ratio of the policy to the old one, and the greatest distance of its logarithm from 0.
    pub ratio: Option<f64>,
    pub max_abs_log_ratio: Option<f64>,
    pub clip_share: Option<f64>,
    /// Divergence from the reference, a token.
    pub kl: Option<f64>,
    /// Entropy of the policy at the tokens that count, where a bonus asks for it.
    pub entropy: Option<f64>,
}

/// What the log calls a number, and where it is.
type Field = (&'static str, fn(&mut UpdateStats) -> &mut Option<f64>);

/// All but the greatest log-ratio, which is no mean.
const MEANS: [Field; 9] = [
    ("learning_rate", |stats| &mut stats.learning_rate),
    ("critic_learning_rate", |stats| &mut stats.critic_learning_rate),
    ("loss", |stats| &mut stats.loss),
    ("value_loss", |stats| &mut stats.value_loss),
    ("grad_norm", |stats| &mut stats.grad_norm),
    ("ratio/mean", |stats| &mut stats.ratio),
    ("clip_share", |stats| &mut stats.clip_share),
    ("kl", |stats| &mut stats.kl),
    ("entropy/policy", |stats| &mut stats.entropy),
];

impl UpdateStats {
    /// The updates of a step as one: each number is the mean over the updates that measured it, of the log-ratio the
    /// greatest counts.
    pub fn of_step(mut updates: Vec<Self>) -> Self {
        let mut step = Self::default();
        for (_, field) in MEANS {
            let values: Vec<f64> = updates.iter_mut().filter_map(|update| *field(update)).collect();
            let sum = values.iter().sum::<f64>();
            *field(&mut step) = (!values.is_empty()).then(|| sum / values.len() as f64);
        }
        step.max_abs_log_ratio =
            updates.iter().filter_map(|update| update.max_abs_log_ratio).reduce(f64::max);
        step
    }

    /// Writes the numbers into the log's.
    pub fn report(mut self, metrics: &mut Metrics) {
        for (name, field) in MEANS {
            if let Some(value) = *field(&mut self) {
                metrics.set(name, value);
            }
        }
        if let Some(value) = self.max_abs_log_ratio {
            metrics.set("ratio/max_abs_log", value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steps_numbers_are_means_over_the_updates_that_measured_them() {
        let update = |loss, max_abs_log_ratio| UpdateStats {
            loss: Some(loss),
            max_abs_log_ratio: Some(max_abs_log_ratio),
            ..UpdateStats::default()
        };
        let learned = UpdateStats { kl: Some(0.25), ..update(2.0, 0.1) };
        let step = UpdateStats::of_step(vec![update(1.0, 0.5), learned]);
        assert_eq!(step, UpdateStats { kl: Some(0.25), ..update(1.5, 0.5) });
        let mut metrics = Metrics::default();
        step.report(&mut metrics);
        let names: Vec<&String> = metrics.0.keys().collect();
        assert_eq!(names, ["kl", "loss", "ratio/max_abs_log"]);
        assert_eq!(UpdateStats::of_step(Vec::new()), UpdateStats::default());
    }
}
