//! The completions that carry a gradient: packed, scored, and differentiated.

use burn::{
    module::Module,
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{Device, Tensor, TensorData},
};
use kyoka_algorithms::{Algorithm, KlInput};
use kyoka_core::{CausalLm, Metrics, PackedGroup, PolicyLossInput, Rollout};

use super::groups::JudgedGroup;
use crate::{PackItem, plan_micro_batches};

/// The completions that carry a gradient, with everything the loss needs.
pub(super) struct TrainBatch<'a> {
    algorithm: &'a Algorithm,
    groups: &'a [JudgedGroup<'a>],
    /// Groups with at least one completion to train: place in `groups` and places of the completions.
    pub items: Vec<(usize, Vec<usize>)>,
    /// Advantages by flat row.
    advantages: Vec<Vec<f32>>,
    /// Loss weight by flat row.
    weights: Vec<f32>,
    first_row: Vec<usize>,
}

impl<'a> TrainBatch<'a> {
    /// Rows without any advantage are left out where no divergence is penalised: their gradient is 0. They still count
    /// in the loss's denominator.
    pub fn new(
        groups: &'a [JudgedGroup<'a>],
        advantages: Vec<Vec<f32>>,
        algorithm: &'a Algorithm,
        max_new_tokens: usize,
    ) -> Self {
        let lengths: Vec<usize> = advantages.iter().map(Vec::len).collect();
        let weights = algorithm.reduction.weights(&lengths, max_new_tokens);
        let mut first_row = Vec::with_capacity(groups.len());
        let mut items = Vec::new();
        let mut row = 0;
        for (index, group) in groups.iter().enumerate() {
            first_row.push(row);
            let credited = |place: &usize| {
                algorithm.kl.is_some() || advantages[row + place].iter().any(|&advantage| advantage != 0.0)
            };
            let places: Vec<usize> = (0..group.rollouts.len()).filter(credited).collect();
            if !places.is_empty() {
                items.push((index, places));
            }
            row += group.rollouts.len();
        }
        Self { algorithm, groups, items, advantages, weights, first_row }
    }

    fn rollout(&self, item: usize, place: usize) -> (&Rollout, usize) {
        let (group, places) = &self.items[item];
        (&self.groups[*group].rollouts[places[place]], self.first_row[*group] + places[place])
    }

    pub fn num_tokens(&self) -> usize {
        let tokens = |(group, places): &(usize, Vec<usize>)| -> usize {
            places.iter().map(|&place| self.groups[*group].rollouts[place].token_ids.len()).sum()
        };
        self.items.iter().map(tokens).sum()
    }

    /// The loss over the whole batch and its gradients, micro-batch by micro-batch.
    pub fn gradients<M: CausalLm + Module>(
        &self,
        model: &M,
        reference: Option<&M>,
        token_budget: usize,
        metrics: &mut Metrics,
    ) -> (f64, GradientsParams) {
        let pack_items: Vec<PackItem> = self
            .items
            .iter()
            .map(|(group, places)| PackItem {
                prompt_len: self.groups[*group].prompt.len(),
                completion_lens: places
                    .iter()
                    .map(|&p| self.groups[*group].rollouts[p].token_ids.len())
                    .collect(),
            })
            .collect();
        let mut accumulator = GradientsAccumulator::new();
        let mut sums = [0.0; 5];
        for micro_batch in plan_micro_batches(&pack_items, token_budget) {
            let rows: Vec<(&Rollout, usize)> = micro_batch
                .iter()
                .flat_map(|(item, places)| places.iter().map(|&place| self.rollout(*item, place)))
                .collect();
            let packed: Vec<PackedGroup<'_>> = micro_batch
                .iter()
                .map(|(item, places)| PackedGroup {
                    prompt: &self.groups[self.items[*item].0].prompt,
                    completions: places
                        .iter()
                        .map(|&p| self.rollout(*item, p).0.token_ids.as_slice())
                        .collect(),
                })
                .collect();
            let policy_logprobs = model.score(&packed);
            let [_, t] = policy_logprobs.dims();
            let device = policy_logprobs.device().without_autodiff();
            let table = |value: &dyn Fn(&Rollout, usize, usize) -> f32| fill(&rows, t, &device, value);
            let old_logprobs = table(&|rollout, _, token| rollout.logprobs[token]);
            let loss_mask = table(&|_, _, _| 1.0).greater_scalar(0.5);
            let weights = table(&|_, row, _| self.weights[row]);
            let output = self.algorithm.loss.evaluate(PolicyLossInput {
                policy_logprobs: policy_logprobs.clone(),
                old_logprobs: old_logprobs.clone(),
                advantages: table(&|_, row, token| self.advantages[row][token]),
                loss_mask: loss_mask.clone(),
            });
            let mut per_token = output.per_token;
            if let (Some(kl), Some(reference)) = (self.algorithm.kl, reference) {
                let divergence = kl.estimator.evaluate(KlInput {
                    policy_logprobs: policy_logprobs.clone(),
                    reference_logprobs: reference.score(&packed),
                    old_logprobs: old_logprobs.clone(),
                    loss_mask: loss_mask.clone(),
                });
                sums[4] += sum(divergence.clone());
                per_token = per_token + divergence * kl.kl_coef;
            }
            let loss = (per_token * weights).sum();
            let drift = (policy_logprobs.inner() - old_logprobs).mask_fill(loss_mask.clone().bool_not(), 0.0);
            sums[0] += f64::from(loss.clone().into_scalar::<f32>());
            sums[1] += sum(drift.clone().exp() * loss_mask.clone().float());
            sums[2] += sum(output.clipped.float());
            sums[3] = f64::max(sums[3], f64::from(drift.abs().max().into_scalar::<f32>()));
            accumulator.accumulate(model, GradientsParams::from_grads(loss.backward(), model));
        }
        let tokens = self.num_tokens().max(1) as f64;
        metrics.set("ratio/mean", sums[1] / tokens);
        metrics.set("ratio/max_abs_log", sums[3]);
        metrics.set("clip_share", sums[2] / tokens);
        if self.algorithm.kl.is_some() {
            metrics.set("kl", sums[4] / tokens);
        }
        (sums[0], accumulator.grads())
    }
}

fn sum(tensor: Tensor<2>) -> f64 {
    f64::from(tensor.sum().into_scalar::<f32>())
}

/// A `[R, T]` tensor from values of real tokens; padding holds 0.
fn fill(
    rows: &[(&Rollout, usize)],
    t: usize,
    device: &Device,
    value: &dyn Fn(&Rollout, usize, usize) -> f32,
) -> Tensor<2> {
    let mut values = vec![0.0; rows.len() * t];
    for (place, (rollout, row)) in rows.iter().enumerate() {
        for token in 0..rollout.token_ids.len() {
            values[place * t + token] = value(rollout, *row, token);
        }
    }
    Tensor::from_data(TensorData::new(values, [rows.len(), t]), device)
}
