//! The losses of policy and critic over the micro-batches of a step, and their gradients.

use burn::{
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{Bool, Tensor, TensorData},
};
use kyoka_algorithms::{
    Algorithm, CriticSettings, Kl, KlEstimator, KlInput, KlPlacement, ValueLossInput, full_kl, positive_nll,
    value_loss,
};
use kyoka_core::{PolicyLossError, PolicyLossInput};

use super::{
    batch::{MicroBatch, Row, Rows},
    credited::Credited,
    stats::UpdateStats,
    token_distribution::{entropies, log_distribution},
};
use crate::{Critic, Pass, PassKind, TrainableLm};

/// Sums over the tokens of a step.
#[derive(Default)]
struct Sums {
    loss: f64,
    ratio: f64,
    clipped: f64,
    drift: f64,
    kl: f64,
    entropy: f64,
    value_loss: f64,
    tokens: f64,
}

/// Loss and gradients of the policy; of a critic's head too, where it sits on the policy's trunk.
pub(super) struct PolicyGradients {
    pub loss: f64,
    pub policy: GradientsParams,
    pub head: Option<GradientsParams>,
}

/// What the policy minimises in an update.
pub(super) struct Objective<'a, M: TrainableLm> {
    pub model: &'a M,
    pub reference: Option<&'a M>,
    /// A critic's head on the policy's trunk, trained along.
    pub shared: Option<(&'a Critic<M>, CriticSettings)>,
    pub credited: &'a Credited,
    pub algorithm: &'a Algorithm,
}

/// A micro-batch scored by the policy; all tensors have shape `[R, T]`.
struct Scored<'a, 'b> {
    batch: &'b MicroBatch<'a>,
    policy_logprobs: Tensor<2>,
    /// Rows that the logits come from, `[R, T, D]`, where something reads them.
    hidden: Option<Tensor<3>>,
    old_logprobs: Tensor<2>,
    loss_mask: Tensor<2, Bool>,
    /// 0 outside the mask.
    weights: Tensor<2>,
}

impl<M: TrainableLm> Objective<'_, M> {
    /// The loss over the whole step and its gradients, micro-batch by micro-batch.
    ///
    /// # Errors
    /// If what the policy loss gives has another shape than what it saw.
    pub fn gradients(
        &self,
        rows: &Rows<'_>,
        stats: &mut UpdateStats,
    ) -> Result<PolicyGradients, PolicyLossError> {
        let mut policy = GradientsAccumulator::new();
        let mut head = GradientsAccumulator::new();
        let mut sums = Sums::default();
        let values = |row: usize| self.shared.is_some() && self.credited.weights[row] > 0.0;
        let trains = |row: usize| values(row) || self.credited.trains(row, self.algorithm);
        for batch in rows.micro_batches(trains) {
            let (with_hidden, recompute) = (self.reads_hidden(), rows.recompute());
            let kind = PassKind { distribution: batch.distribution, with_hidden, recompute };
            let mut pass = Pass::new(self.model, &batch.packed, kind);
            let scored = self.score(&batch, (pass.logprobs.clone(), pass.hidden.take()));
            let loss = self.loss(&scored, &mut sums)?;
            sums.loss += scalar(&loss);
            let mut gradients = loss.backward();
            drop(scored);
            if let Some((critic, _)) = self.shared {
                head.accumulate(critic, GradientsParams::from_module(&mut gradients, critic));
            }
            pass.accumulate(gradients, (self.model, &mut policy));
        }
        self.report(&sums, stats);
        let head = self.shared.is_some().then(|| head.grads());
        Ok(PolicyGradients { loss: sums.loss, policy: policy.grads(), head })
    }

    /// Whether the loss reads the rows that the logits come from.
    fn reads_hidden(&self) -> bool {
        self.shared.is_some() || self.algorithm.entropy.is_some() || self.full_divergence()
    }

    fn score<'a, 'b>(
        &self,
        batch: &'b MicroBatch<'a>,
        (policy_logprobs, hidden): (Tensor<2>, Option<Tensor<3>>),
    ) -> Scored<'a, 'b> {
        let device = policy_logprobs.device().without_autodiff();
        let credited = self.credited;
        let loss_mask = batch.mask(&device, &|row, t| credited.mask[row.number][t]);
        let weights = batch.table(&device, &|row, _| credited.weights[row.number]);
        Scored {
            batch,
            policy_logprobs,
            hidden,
            old_logprobs: batch.table(&device, &|row, t| credited.old_logprobs[row.number][t]),
            weights: weights.mask_fill(loss_mask.clone().bool_not(), 0.0),
            loss_mask,
        }
    }

    /// The micro-batch's part of the loss.
    fn loss(&self, scored: &Scored<'_, '_>, sums: &mut Sums) -> Result<Tensor<1>, PolicyLossError> {
        let mut per_token = self.surrogate(scored, sums)?;
        if let Some(kl) = self.algorithm.kl.filter(|kl| kl.placement == KlPlacement::Loss)
            && let Some(reference) = self.reference
        {
            let divergence = self.divergence(kl, reference, scored);
            sums.kl += sum(divergence.clone());
            per_token = per_token + divergence * self.credited.kl_coef;
        }
        if let (Some(_), Some(hidden)) = (self.algorithm.entropy, &scored.hidden) {
            let policy = (self.model, &scored.batch.distribution);
            let entropies = entropies(policy, hidden.clone(), scored.loss_mask.clone());
            sums.entropy += sum(entropies.clone());
            per_token = per_token - entropies * self.credited.entropy_coef;
        }
        let mut loss = (per_token * scored.weights.clone()).sum();
        if let (Some((critic, settings)), Some(hidden)) = (self.shared, &scored.hidden) {
            let values = critic.values(hidden.clone());
            let value_loss = value_losses(values, scored.batch, self.credited, settings.value_clip);
            let value_loss = (value_loss * scored.weights.clone()).sum();
            sums.value_loss += scalar(&value_loss);
            loss = loss + value_loss * settings.value_coef;
        }
        Ok(match self.imitation(scored) {
            Some(nll) => loss + nll,
            None => loss,
        })
    }

    /// The surrogate of every token, times its factor.
    fn surrogate(&self, scored: &Scored<'_, '_>, sums: &mut Sums) -> Result<Tensor<2>, PolicyLossError> {
        let Scored { batch, policy_logprobs, old_logprobs, loss_mask, .. } = scored;
        let (credited, device) = (self.credited, old_logprobs.device());
        let output = self.algorithm.loss.evaluate(PolicyLossInput {
            policy_logprobs: policy_logprobs.clone(),
            old_logprobs: old_logprobs.clone(),
            advantages: batch.table(&device, &|row, t| credited.advantages[row.number][t]),
            loss_mask: loss_mask.clone(),
        });
        output.check(policy_logprobs.dims())?;
        let drift = policy_logprobs.clone().inner() - old_logprobs.clone();
        let drift = drift.mask_fill(loss_mask.clone().bool_not(), 0.0);
        sums.ratio += sum(drift.clone().exp() * loss_mask.clone().float());
        sums.clipped += sum(output.clipped.float());
        sums.drift = f64::max(sums.drift, f64::from(drift.abs().max().into_scalar::<f32>()));
        sums.tokens += batch.rows.iter().map(|row| credited.counted(row.number)).sum::<usize>() as f64;
        Ok(output.per_token * batch.table(&device, &|row, t| credited.factors[row.number][t] as f32))
    }

    fn full_divergence(&self) -> bool {
        let kl = self.algorithm.kl.filter(|kl| kl.placement == KlPlacement::Loss);
        kl.is_some_and(|kl| kl.estimator == KlEstimator::Full)
    }

    fn divergence(&self, kl: Kl, reference: &M, scored: &Scored<'_, '_>) -> Tensor<2> {
        let MicroBatch { packed, distribution, .. } = scored.batch;
        match (&scored.hidden, kl.estimator) {
            (Some(hidden), KlEstimator::Full) => {
                let policy = log_distribution((self.model, distribution), hidden.clone());
                let (_, hidden) = reference.score_with_hidden(packed, distribution);
                let reference = log_distribution((reference, distribution), hidden);
                full_kl(policy, reference, scored.loss_mask.clone())
            }
            _ => kl.estimator.evaluate(KlInput {
                policy_logprobs: scored.policy_logprobs.clone(),
                reference_logprobs: reference.score(packed, distribution),
                old_logprobs: scored.old_logprobs.clone(),
                loss_mask: scored.loss_mask.clone(),
            }),
        }
    }

    /// VAPO's likelihood of right completions: a mean over their tokens in the whole batch or mini-batch.
    fn imitation(&self, scored: &Scored<'_, '_>) -> Option<Tensor<1>> {
        let Credited { right, weights, .. } = self.credited;
        let imitated = |row: usize| right[row] && weights[row] > 0.0;
        let tokens: usize =
            (0..right.len()).filter(|&row| imitated(row)).map(|row| self.credited.counted(row)).sum();
        if self.algorithm.nll_coef == 0.0 || tokens == 0 {
            return None;
        }
        let device = scored.old_logprobs.device();
        let positive: Vec<bool> = scored.batch.rows.iter().map(|row| imitated(row.number)).collect();
        let count = positive.len();
        let positive = Tensor::<1, Bool>::from_data(TensorData::new(positive, [count]), &device);
        let nll = positive_nll(scored.policy_logprobs.clone(), scored.loss_mask.clone(), positive);
        Some(nll.sum() * (self.algorithm.nll_coef / tokens as f64))
    }

    fn report(&self, sums: &Sums, stats: &mut UpdateStats) {
        let tokens = sums.tokens.max(1.0);
        let in_loss = self.algorithm.kl.is_some_and(|kl| kl.placement == KlPlacement::Loss);
        stats.ratio = Some(sums.ratio / tokens);
        stats.max_abs_log_ratio = Some(sums.drift);
        stats.clip_share = Some(sums.clipped / tokens);
        stats.kl = in_loss.then(|| sums.kl / tokens);
        stats.entropy = self.algorithm.entropy.map(|_| sums.entropy / tokens);
        if self.shared.is_some() {
            stats.value_loss = Some(sums.value_loss);
        }
    }
}

/// The value loss of a critic and its gradients, over the whole step. A critic without a trunk of its own gets those of
/// its head alone: the policy's trunk stays as it is.
pub(super) fn critic_gradients<M: TrainableLm>(
    (critic, model): (&Critic<M>, &M),
    (rows, credited): (&Rows<'_>, &Credited),
    settings: CriticSettings,
) -> (f64, GradientsParams) {
    let mut accumulator = GradientsAccumulator::new();
    let mut total = 0.0;
    for batch in rows.micro_batches(|row| credited.weights[row] > 0.0) {
        let kind =
            PassKind { distribution: batch.distribution, with_hidden: true, recompute: rows.recompute() };
        let mut pass = critic.trunk.as_ref().map(|trunk| Pass::new(trunk, &batch.packed, kind));
        let own = pass.as_mut().and_then(|pass| pass.hidden.take());
        let values = match own {
            Some(hidden) => critic.values(hidden),
            None => {
                let (_, hidden) = model.score_with_hidden(&batch.packed, &batch.distribution);
                critic.values(hidden.detach())
            }
        };
        let device = values.device().without_autodiff();
        let losses = value_losses(values, &batch, credited, settings.value_clip);
        let weight = |row: Row<'_>, t: usize| match credited.mask[row.number][t] {
            true => credited.weights[row.number],
            false => 0.0,
        };
        let loss = (losses * batch.table(&device, &weight)).sum();
        total += scalar(&loss);
        let gradients = (loss * settings.value_coef).backward();
        match pass {
            Some(pass) => pass.accumulate(gradients, (critic, &mut accumulator)),
            None => accumulator.accumulate(critic, GradientsParams::from_grads(gradients, critic)),
        }
    }
    (total, accumulator.grads())
}

fn value_losses(
    values: Tensor<2>,
    batch: &MicroBatch<'_>,
    credited: &Credited,
    clip: Option<f64>,
) -> Tensor<2> {
    let device = values.device().without_autodiff();
    let input = ValueLossInput {
        values,
        old_values: batch.table(&device, &|row, t| credited.values[row.number][t]),
        targets: batch.table(&device, &|row, t| credited.value_targets[row.number][t]),
        loss_mask: batch.mask(&device, &|row, t| credited.mask[row.number][t]),
    };
    value_loss(input, clip)
}

fn scalar(loss: &Tensor<1>) -> f64 {
    f64::from(loss.clone().into_scalar::<f32>())
}

fn sum(values: Tensor<2>) -> f64 {
    scalar(&values.sum())
}
