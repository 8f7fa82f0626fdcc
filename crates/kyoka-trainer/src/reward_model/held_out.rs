//! How well a reward model says what people have said.

use std::collections::BTreeMap;

use kyoka_core::{Metrics, Task};

use super::{
    Judgements, ModelReward, RewardModelConfig,
    judged::{Judged, Target, micro_batches},
    over_heads,
};
use crate::{Critic, TrainError, TrainableLm};

/// Judgements that are scored at once.
const CHUNK: usize = 64;

/// Bins of certainty.
const BINS: usize = 10;

/// Most tags that are told apart.
const MOST_TAGS: usize = 50;

/// What judgements and rewards add up to.
#[derive(Debug, Clone, Default)]
pub(super) struct HeldOut {
    /// Pairs and labels: their number, and those that the model says too.
    decided: usize,
    right: usize,
    /// By certainty: number, sum of certainties, those that are right.
    bins: [(usize, f64, usize); BINS],
    /// By tag: number, and those that are right.
    tags: BTreeMap<String, (usize, usize)>,
    /// Pairs: their number, and the sum of leads.
    pairs: usize,
    lead: f64,
    /// Scores: their number, and the sum of squared errors.
    scored: usize,
    error: f64,
}

fn sigmoid(value: f64) -> f64 {
    1.0 / (1.0 + (-value).exp())
}

impl HeldOut {
    pub fn of(batch: &[Judged], rewards: &[Vec<ModelReward>]) -> Self {
        let mut all = Self::default();
        batch.iter().zip(rewards).for_each(|(judged, rewards)| all.add(judged, rewards));
        all
    }

    fn add(&mut self, judged: &Judged, rewards: &[ModelReward]) {
        let mean = |place: usize| f64::from(rewards[place].mean);
        let (lead, wanted) = match judged.target {
            Target::Pair { tie, .. } => {
                self.pairs += 1;
                self.lead += mean(0) - mean(1);
                if tie {
                    return;
                }
                (mean(0) - mean(1), true)
            }
            Target::Label(label) => (mean(0), label),
            Target::Score(score) => {
                self.scored += 1;
                self.error += (mean(0) - f64::from(score)).powi(2);
                return;
            }
        };
        // A lead of 0 says neither.
        let right = if wanted { lead > 0.0 } else { lead < 0.0 };
        let certainty = sigmoid(lead.abs());
        let bin = (((certainty - 0.5) * 2.0 * BINS as f64) as usize).min(BINS - 1);
        self.decided += 1;
        self.right += usize::from(right);
        let (count, sum, good) = &mut self.bins[bin];
        (*count, *sum, *good) = (*count + 1, *sum + certainty, *good + usize::from(right));
        let Some(tag) = &judged.tag else { return };
        if self.tags.len() < MOST_TAGS || self.tags.contains_key(tag) {
            let (count, good) = self.tags.entry(tag.clone()).or_default();
            (*count, *good) = (*count + 1, *good + usize::from(right));
        }
    }

    fn accuracy(&self) -> Option<f64> {
        (self.decided > 0).then(|| self.right as f64 / self.decided as f64)
    }

    /// Expected calibration error: how far certainty and accuracy are apart, the mean over all judgements by bin.
    fn calibration_error(&self) -> f64 {
        let apart = self.bins.iter().map(|&(_, sum, good)| (sum - good as f64).abs());
        apart.sum::<f64>() / self.decided.max(1) as f64
    }

    /// What a step logs of its own batch.
    pub fn report(&self, metrics: &mut Metrics) {
        if let Some(accuracy) = self.accuracy() {
            metrics.set("preference/accuracy", accuracy);
        }
        if self.pairs > 0 {
            metrics.set("preference/margin", self.lead / self.pairs as f64);
        }
    }

    /// What is logged of judgements that were not learned from.
    pub fn report_held_out(&self, metrics: &mut Metrics) {
        if let Some(accuracy) = self.accuracy() {
            metrics.set("held_out/accuracy", accuracy);
            metrics.set("held_out/ece", self.calibration_error());
        }
        if self.scored > 0 {
            metrics.set("held_out/mean_squared_error", self.error / self.scored as f64);
        }
        for (tag, (count, right)) in &self.tags {
            metrics.set(format!("held_out/accuracy/{tag}"), *right as f64 / *count as f64);
        }
    }
}

impl Judgements<'_> {
    /// What a model makes of all of them.
    pub(super) fn measured<M: TrainableLm>(
        &self,
        task: &dyn Task,
        config: &RewardModelConfig,
        model: &Critic<M>,
    ) -> Result<HeldOut, TrainError> {
        let mut all = HeldOut::default();
        let rows: Vec<usize> = (0..self.len()).collect();
        for chunk in rows.chunks(CHUNK) {
            let judged = chunk.iter().map(|&row| self.judged(task, row, config.rows));
            let batch = judged.collect::<Result<Vec<Judged>, _>>()?;
            for places in micro_batches(&batch, config.tokens_per_micro_batch) {
                let groups: Vec<_> = places.iter().map(|&place| batch[place].group()).collect();
                let mut rewards = over_heads(model.last_values(&groups)).into_iter();
                for place in places {
                    let own: Vec<ModelReward> =
                        rewards.by_ref().take(batch[place].completions.len()).collect();
                    all.add(&batch[place], &own);
                }
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use kyoka_core::Prompt;

    use super::*;

    fn judged(target: Target, tag: &str) -> Judged {
        Judged { prompt: Prompt::default(), completions: Vec::new(), target, tag: Some(tag.to_owned()) }
    }

    fn rewards(means: &[f32]) -> Vec<ModelReward> {
        means.iter().map(|&mean| ModelReward { mean, deviation: 0.0 }).collect()
    }

    #[test]
    fn accuracy_and_calibration_by_hand() {
        let pair = Target::Pair { margin: None, tie: false };
        let tie = Target::Pair { margin: None, tie: true };
        let batch =
            [judged(pair, "a"), judged(pair, "b"), judged(tie, "b"), judged(Target::Label(false), "a")];
        let given = [rewards(&[1.0, 0.0]), rewards(&[0.0, 1.0]), rewards(&[0.0, 4.0]), rewards(&[-1.0])];
        let all = HeldOut::of(&batch, &given);
        let mut metrics = Metrics::default();
        all.report(&mut metrics);
        all.report_held_out(&mut metrics);
        // Two of three decided ones are right, all with the certainty of sigmoid(1).
        let ece = (3.0 * sigmoid(1.0) - 2.0) / 3.0;
        for (name, expected) in [
            ("preference/accuracy", 2.0 / 3.0),
            ("preference/margin", (1.0 - 1.0 - 4.0) / 3.0),
            ("held_out/accuracy", 2.0 / 3.0),
            ("held_out/ece", ece),
            ("held_out/accuracy/a", 1.0),
            ("held_out/accuracy/b", 0.0),
        ] {
            assert!((metrics.0[name] - expected).abs() < 1e-9, "{name}: {}", metrics.0[name]);
        }
        let scored = HeldOut::of(&[judged(Target::Score(2.0), "a")], &[rewards(&[0.5])]);
        let mut metrics = Metrics::default();
        scored.report_held_out(&mut metrics);
        assert_eq!(
            metrics.0.into_iter().collect::<Vec<_>>(),
            [("held_out/mean_squared_error".to_owned(), 2.25)]
        );
    }

    #[test]
    fn a_model_that_says_nothing_is_not_right() {
        let pair = Target::Pair { margin: None, tie: false };
        let all = HeldOut::of(&[judged(pair, "a")], &[rewards(&[0.5, 0.5])]);
        assert_eq!((all.accuracy(), all.calibration_error()), (Some(0.0), 0.5));
    }
}
