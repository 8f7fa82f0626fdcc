//! From judged completions to what the loss needs of each token.

use burn::{module::Module, tensor::Tensor};
use kyoka_algorithms::{
    Algorithm, Kl, KlEstimator, KlInput, KlPlacement, MismatchMetrics, Rejection, advantage::Gae,
    correction::keep_mask, filter, full_kl,
};
use kyoka_core::{AdvantageError, AdvantageEstimator, GroupRewards, Metrics, Reward, StopReason};

use super::{
    batch::{MicroBatch, Rows},
    credited::Credited,
    groups::JudgedGroup,
    replay::{Replayed, magnitude},
    token_distribution::{entropies, log_distribution},
};
use crate::{Critic, TrainState, TrainableLm};

/// What a step knows before its first update.
pub(super) struct StepState<'a, 'b, M: TrainableLm> {
    pub algorithm: &'a Algorithm,
    pub state: &'a TrainState<M>,
    /// Groups of this step, without those that are replayed.
    pub fresh: &'a [JudgedGroup<'b>],
    /// Completions of earlier steps with the credit of then; the last rows.
    pub replayed: &'a [Replayed],
    /// All of them.
    pub rows: &'a Rows<'b>,
    pub max_new_tokens: usize,
    /// The policy's mean entropy where the completions were drawn.
    pub sampled_entropy: f64,
    /// The critic is still on its own: its targets are returns, and the policy stays.
    pub pretraining: bool,
}

impl<M: TrainableLm> StepState<'_, '_, M> {
    /// Credit of every token, filtered and weighted.
    pub fn credit(&self, metrics: &mut Metrics) -> Result<Credited, AdvantageError> {
        let (algorithm, rows) = (self.algorithm, self.rows);
        let model = self.state.model.valid();
        let coefs = self.state.progress.coefs;
        let kl_coef = coefs.kl.unwrap_or(algorithm.kl.map_or(0.0, |kl| kl.kl_coef));
        let entropy_coef = algorithm
            .entropy
            .map_or(0.0, |bonus| bonus.weight(coefs.entropy.unwrap_or(bonus.coef), self.sampled_entropy));
        let values = self.state.critic.as_ref().map(|state| {
            let critic: Critic<M> = state.critic.valid();
            rows.tokens(|batch| critic.evaluate(&model, &batch.packed))
        });
        let mut rewards: Vec<GroupRewards> = self.fresh.iter().map(JudgedGroup::group_rewards).collect();
        let kl = self.punish_divergence(&mut rewards, kl_coef);
        if let Some(values) = &values {
            let mut next = values.iter();
            for group in &mut rewards {
                group.values = next.by_ref().take(group.totals.len()).cloned().collect();
            }
        }
        let (estimator, estimated) = if self.pretraining {
            ("gae", Gae { lambda: 1.0, whiten: false, ..Gae::default() }.estimate(&rewards)?)
        } else {
            (algorithm.names.advantage.as_str(), algorithm.advantage.estimate(&rewards)?)
        };
        estimated.check(estimator, &rewards, values.is_some())?;
        let replayed = self.replayed.iter();
        let advantages =
            estimated.per_token.into_iter().chain(replayed.clone().map(|item| item.advantages.clone()));
        let right = self.fresh.iter().flat_map(|group| group.rewards.iter().map(Reward::is_right));
        let mut credited = Credited {
            advantages: advantages.collect(),
            value_targets: estimated.value_targets,
            values: values.unwrap_or_default(),
            right: right.chain(replayed.map(|item| item.right)).collect(),
            kl,
            kl_coef,
            entropy_coef,
            ..Credited::default()
        };
        self.correct_mismatch(&model, &mut credited, metrics);
        self.mask(&mut credited);
        self.keep_strongest(&mut credited);
        credited.lengths = (0..credited.mask.len()).map(|row| credited.counted(row)).collect();
        self.leave_out_certain_tokens(&model, &mut credited);
        credited.left_behind = vec![false; credited.lengths.len()];
        credited.weights = algorithm.reduction.weights(&credited.lengths, self.max_new_tokens);
        Ok(credited)
    }

    /// Takes the divergence from each token's reward, where the algorithm wants it there, and returns its mean.
    fn punish_divergence(&self, rewards: &mut [GroupRewards], kl_coef: f64) -> Option<f64> {
        let kl = self.algorithm.kl.filter(|kl| kl.placement == KlPlacement::Reward)?;
        let reference = self.state.reference.as_ref()?;
        let model = self.state.model.valid();
        let mut divergence = self.rows.tokens(|batch| divergence(kl, (&model, reference), batch));
        divergence.truncate(rewards.iter().map(|group| group.totals.len()).sum());
        let tokens = divergence.iter().flatten().count().max(1) as f64;
        let mean = divergence.iter().flatten().map(|&value| f64::from(value)).sum::<f64>() / tokens;
        let mut next = divergence.into_iter();
        for group in rewards {
            let punished = |row: Vec<f32>| row.iter().map(|value| -kl_coef as f32 * value).collect();
            group.token_rewards = next.by_ref().take(group.totals.len()).map(punished).collect();
        }
        Some(mean)
    }

    /// Weights and rejections for what the sampler drew with other probabilities than the trainer would have.
    ///
    /// Replayed completions keep those of the step that sampled them: what the policy has moved since is the ratio's to
    /// say, and no mismatch.
    fn correct_mismatch(&self, model: &M, credited: &mut Credited, metrics: &mut Metrics) {
        let replayed = || self.replayed.iter();
        let of_then = replayed().map(|item| item.old_logprobs.clone());
        let sampled = self.fresh.iter().flat_map(|group| &group.rollouts).map(|rollout| &rollout.logprobs);
        let Algorithm { correction, rejection, .. } = self.algorithm;
        credited.factors = self.rows.iter().map(|rollout| vec![1.0; rollout.logprobs.len()]).collect();
        if correction.is_none() && rejection.is_none() {
            credited.old_logprobs = sampled.cloned().chain(of_then).collect();
            return;
        }
        let sampled: Vec<&Vec<f32>> = sampled.collect();
        let mut trained = self.rows.tokens(|batch| model.score(&batch.packed, &batch.distribution));
        trained.truncate(sampled.len());
        let difference = |(trained, sampled): (&Vec<f32>, &&Vec<f32>)| -> Vec<f64> {
            trained.iter().zip(*sampled).map(|(&a, &b)| f64::from(a) - f64::from(b)).collect()
        };
        let log_ratios: Vec<Vec<f64>> = trained.iter().zip(&sampled).map(difference).collect();
        let mismatch = MismatchMetrics::new(&log_ratios);
        metrics.set("mismatch/kl", mismatch.kl);
        metrics.set("mismatch/effective_sample_share", mismatch.effective_sample_share);
        metrics.set("mismatch/max_abs_log", mismatch.max_abs_log_ratio);
        if let Some(Rejection { rule, level }) = *rejection {
            let kept = keep_mask(rule, level, &log_ratios);
            let (all, left) =
                (kept.iter().flatten().count(), kept.iter().flatten().filter(|kept| **kept).count());
            metrics.set("mismatch/kept_share", left as f64 / all.max(1) as f64);
            let of_then = replayed().map(|item| or_all(&item.kept, item.advantages.len(), true));
            credited.kept = kept.into_iter().chain(of_then).collect();
        }
        let old = match correction {
            Some(correction) => {
                let weights = correction.weights(&log_ratios).into_iter();
                let of_then = replayed().map(|item| or_all(&item.corrections, item.advantages.len(), 1.0));
                credited.corrections = weights.chain(of_then).collect();
                credited.factors.clone_from(&credited.corrections);
                trained
            }
            None => sampled.into_iter().cloned().collect(),
        };
        credited.old_logprobs = old.into_iter().chain(of_then).collect();
    }

    /// Which tokens count: not those of completions cut off, nor what the rejection drops, as the algorithm says.
    fn mask(&self, credited: &mut Credited) {
        let mask_overlong = self.algorithm.filters.mask_overlong;
        let lengths: Vec<usize> = credited.advantages.iter().map(Vec::len).collect();
        let finished = |stop: StopReason| !mask_overlong || !stop.is_truncation();
        let finished: Vec<bool> = self.rows.iter().map(|rollout| finished(rollout.stop_reason)).collect();
        let counted = filter::without_overlong(&lengths, &finished);
        credited.mask = lengths.iter().zip(&counted).map(|(&len, &count)| vec![count > 0; len]).collect();
        for (mask, kept) in credited.mask.iter_mut().zip(&credited.kept) {
            mask.iter_mut().zip(kept).for_each(|(counts, kept)| *counts &= kept);
        }
    }

    /// Takes all but the most uncertain tokens of the step out of the surrogate. They still count: denominators,
    /// divergence and entropy bonus are those of all tokens.
    fn leave_out_certain_tokens(&self, model: &M, credited: &mut Credited) {
        let share = self.algorithm.filters.top_entropy_share;
        if share >= 1.0 {
            return;
        }
        let entropies = self.rows.tokens(|batch| {
            let (logprobs, hidden) = model.score_with_hidden(&batch.packed, &batch.distribution);
            let mask = batch.mask(&logprobs.device(), &|_, _| true);
            entropies((model, &batch.distribution), hidden, mask)
        });
        let of_counted = |(row, mask): (&Vec<f32>, &Vec<bool>)| -> Vec<f32> {
            row.iter().zip(mask).filter(|(_, counts)| **counts).map(|(&entropy, _)| entropy).collect()
        };
        let counted: Vec<Vec<f32>> = entropies.iter().zip(&credited.mask).map(of_counted).collect();
        let uncertain = filter::top_entropy_mask(&counted, share);
        for ((factors, mask), uncertain) in credited.factors.iter_mut().zip(&credited.mask).zip(uncertain) {
            let counted = factors.iter_mut().zip(mask).filter(|(_, counts)| **counts);
            for ((factor, _), uncertain) in counted.zip(uncertain) {
                if !uncertain {
                    *factor = 0.0;
                }
            }
        }
    }

    /// Takes from the mask all but the completions of each group with the largest advantages.
    fn keep_strongest(&self, credited: &mut Credited) {
        let share = self.algorithm.filters.keep_share;
        if share >= 1.0 {
            return;
        }
        let mut first = 0;
        for group in self.fresh {
            let rows = first..first + group.rollouts.len();
            first = rows.end;
            let sizes: Vec<f32> =
                credited.advantages[rows.clone()].iter().map(|row| magnitude(row)).collect();
            let candidates: Vec<bool> = rows.clone().map(|row| credited.counted(row) > 0).collect();
            let kept = filter::strongest(&sizes, &candidates, share);
            let dropped = (0..sizes.len()).filter(|place| !kept.contains(place));
            dropped.for_each(|place| credited.mask[rows.start + place].fill(false));
        }
    }
}

/// What was kept of a completion, or the same for each of its tokens.
fn or_all<T: Clone>(kept: &[T], length: usize, otherwise: T) -> Vec<T> {
    if kept.is_empty() { vec![otherwise; length] } else { kept.to_vec() }
}

/// The divergence of the policy that sampled from the reference, at every token.
fn divergence<M: TrainableLm>(kl: Kl, (model, reference): (&M, &M), batch: &MicroBatch<'_>) -> Tensor<2> {
    let device = model.device();
    let loss_mask = batch.mask(&device, &|_, _| true);
    if kl.estimator == KlEstimator::Full {
        let distribution = |model: &M| {
            let (_, hidden) = model.score_with_hidden(&batch.packed, &batch.distribution);
            log_distribution((model, &batch.distribution), hidden)
        };
        return full_kl(distribution(model), distribution(reference), loss_mask);
    }
    let reference_logprobs = reference.score(&batch.packed, &batch.distribution);
    let policy_logprobs = batch.table(&device, &|row, t| row.rollout.logprobs[t]);
    let old_logprobs = policy_logprobs.clone();
    kl.estimator.evaluate(KlInput { policy_logprobs, reference_logprobs, old_logprobs, loss_mask })
}
