//! The completions of a step: packed into micro-batches, scored, differentiated.

use burn::{
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{Bool, Device, Tensor, TensorData},
};
use kyoka_algorithms::{Algorithm, CriticKind, KlInput, KlPlacement, ValueLossInput, entropy, value_loss};
use kyoka_core::{CausalLm, Metrics, PackedGroup, PolicyLossInput, Rollout};

use super::groups::JudgedGroup;
use crate::{Critic, PackItem, Pass, PassKind, TrainableLm, plan_micro_batches};

/// All completions of a step, numbered group by group.
pub(super) struct Rows<'a> {
    groups: &'a [JudgedGroup<'a>],
    first_row: Vec<usize>,
    token_budget: usize,
    /// Whether layers are computed again on the way back.
    recompute: bool,
}

/// A completion of a micro-batch.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub rollout: &'a Rollout,
    /// Its number in the step.
    pub number: usize,
}

/// Completions that go through the model together.
pub(super) struct MicroBatch<'a> {
    pub rows: Vec<Row<'a>>,
    pub packed: Vec<PackedGroup<'a>>,
}

impl<'a> Rows<'a> {
    pub fn new(groups: &'a [JudgedGroup<'a>], token_budget: usize, recompute: bool) -> Self {
        let first = groups.iter().scan(0, |next, group| {
            *next += group.rollouts.len();
            Some(*next - group.rollouts.len())
        });
        Self { groups, first_row: first.collect(), token_budget, recompute }
    }

    pub fn iter(&self) -> impl Iterator<Item = &'a Rollout> {
        self.groups.iter().flat_map(|group| &group.rollouts)
    }

    /// The completions for which `taken` holds, as micro-batches.
    pub fn micro_batches(&self, taken: impl Fn(usize) -> bool) -> Vec<MicroBatch<'a>> {
        let places = |group: usize| -> Vec<usize> {
            let all = 0..self.groups[group].rollouts.len();
            all.filter(|place| taken(self.first_row[group] + place)).collect()
        };
        let items: Vec<(usize, Vec<usize>)> = (0..self.groups.len())
            .map(|group| (group, places(group)))
            .filter(|(_, places)| !places.is_empty())
            .collect();
        let rollout = |group: usize, place: usize| &self.groups[group].rollouts[place];
        let pack_items: Vec<PackItem> = items
            .iter()
            .map(|(group, places)| PackItem {
                prompt_len: self.groups[*group].prompt.len(),
                completion_lens: places.iter().map(|&place| rollout(*group, place).token_ids.len()).collect(),
            })
            .collect();
        let micro_batch = |parts: Vec<(usize, Vec<usize>)>| {
            let mut batch = MicroBatch { rows: Vec::new(), packed: Vec::new() };
            for (item, chosen) in parts {
                let (group, places) = &items[item];
                let rows = chosen.iter().map(|&at| Row {
                    rollout: rollout(*group, places[at]),
                    number: self.first_row[*group] + places[at],
                });
                let rows: Vec<Row<'a>> = rows.collect();
                let completions = rows.iter().map(|row| row.rollout.token_ids.as_slice()).collect();
                batch.packed.push(PackedGroup { prompt: &self.groups[*group].prompt, completions });
                batch.rows.extend(rows);
            }
            batch
        };
        plan_micro_batches(&pack_items, self.token_budget).into_iter().map(micro_batch).collect()
    }

    /// A number for every token of every completion, without gradient: `evaluate` gives `[R, T]` for a micro-batch.
    pub fn tokens(&self, evaluate: impl Fn(&MicroBatch<'a>) -> Tensor<2>) -> Vec<Vec<f32>> {
        let mut numbers: Vec<Vec<f32>> = vec![Vec::new(); self.iter().count()];
        for batch in self.micro_batches(|_| true) {
            let table = evaluate(&batch);
            let [_, t] = table.dims();
            let values: Vec<f32> = table.into_data().try_into_vec_as().expect("numbers of a float tensor");
            for (row, values) in batch.rows.iter().zip(values.chunks_exact(t.max(1))) {
                numbers[row.number] = values[..row.rollout.token_ids.len()].to_vec();
            }
        }
        numbers
    }
}

impl MicroBatch<'_> {
    /// A `[R, T]` tensor from a number a token; padding holds 0.
    pub fn table(&self, device: &Device, value: &dyn Fn(Row<'_>, usize) -> f32) -> Tensor<2> {
        let t = self.rows.iter().map(|row| row.rollout.token_ids.len()).max().unwrap_or(0);
        let mut values = vec![0.0; self.rows.len() * t];
        for (place, row) in self.rows.iter().enumerate() {
            for token in 0..row.rollout.token_ids.len() {
                values[place * t + token] = value(*row, token);
            }
        }
        Tensor::from_data(TensorData::new(values, [self.rows.len(), t]), device)
    }

    /// True on the tokens for which `counts` holds.
    pub fn mask(&self, device: &Device, counts: &dyn Fn(Row<'_>, usize) -> bool) -> Tensor<2, Bool> {
        self.table(device, &|row, token| f32::from(counts(row, token))).greater_scalar(0.5)
    }
}

/// Everything the loss needs, a list a completion.
#[derive(Default)]
pub(super) struct Credited {
    pub advantages: Vec<Vec<f32>>,
    /// Loss weight of each token of a completion; 0 leaves it out.
    pub weights: Vec<f32>,
    /// Which tokens count.
    pub mask: Vec<Vec<bool>>,
    /// Log-probabilities that the ratio is taken against.
    pub old_logprobs: Vec<Vec<f32>>,
    /// Factors of the loss, where sampler and trainer disagree; empty without a correction.
    pub corrections: Vec<Vec<f64>>,
    /// Values at the start of the batch, and what they should have been; empty without a critic.
    pub values: Vec<Vec<f32>>,
    pub value_targets: Vec<Vec<f32>>,
    /// Which completions are right; their likelihood is raised besides, where the algorithm says so.
    pub right: Vec<bool>,
    /// Coefficients of divergence and entropy in this step.
    pub kl_coef: f64,
    pub entropy_coef: f64,
}

impl Credited {
    /// Whether a completion moves the policy.
    pub fn trains(&self, row: usize, algorithm: &Algorithm) -> bool {
        let penalised = algorithm.kl.is_some() || algorithm.entropy.is_some();
        let imitated = algorithm.nll_coef > 0.0 && self.right[row];
        self.weights[row] > 0.0
            && (penalised || imitated || self.advantages[row].iter().any(|&advantage| advantage != 0.0))
    }

    fn counted(&self, row: usize) -> usize {
        self.mask[row].iter().filter(|&&counts| counts).count()
    }
}

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

/// The loss over the whole step and its gradients, micro-batch by micro-batch.
pub(super) fn policy_gradients<M: TrainableLm>(
    (model, reference, critic): (&M, Option<&M>, Option<&Critic<M>>),
    (rows, credited): (&Rows<'_>, &Credited),
    algorithm: &Algorithm,
    metrics: &mut Metrics,
) -> PolicyGradients {
    let shared = critic.filter(|critic| critic.trunk.is_none()).zip(algorithm.critic);
    let trains = |row: usize| shared.is_some() || credited.trains(row, algorithm);
    let right_tokens: usize =
        (0..credited.right.len()).filter(|&row| credited.right[row]).map(|row| credited.counted(row)).sum();
    let mut policy = GradientsAccumulator::new();
    let mut head = GradientsAccumulator::new();
    let mut sums = Sums::default();
    for batch in rows.micro_batches(trains) {
        let with_hidden = shared.is_some() || algorithm.entropy.is_some();
        let mut pass = Pass::new(model, &batch.packed, PassKind { with_hidden, recompute: rows.recompute });
        let (policy_logprobs, hidden) = (pass.logprobs.clone(), pass.hidden.take());
        let device = policy_logprobs.device().without_autodiff();
        let table = |value: &dyn Fn(Row<'_>, usize) -> f32| batch.table(&device, value);
        let old_logprobs = table(&|row, t| credited.old_logprobs[row.number][t]);
        let loss_mask = batch.mask(&device, &|row, t| credited.mask[row.number][t]);
        let outside = loss_mask.clone().bool_not();
        let weights = table(&|row, _| credited.weights[row.number]).mask_fill(outside.clone(), 0.0);
        let output = algorithm.loss.evaluate(PolicyLossInput {
            policy_logprobs: policy_logprobs.clone(),
            old_logprobs: old_logprobs.clone(),
            advantages: table(&|row, t| credited.advantages[row.number][t]),
            loss_mask: loss_mask.clone(),
        });
        let mut per_token = output.per_token;
        if !credited.corrections.is_empty() {
            per_token = per_token * table(&|row, t| credited.corrections[row.number][t] as f32);
        }
        if let (Some(kl), Some(reference)) = (algorithm.kl, reference)
            && kl.placement == KlPlacement::Loss
        {
            let divergence = kl.estimator.evaluate(KlInput {
                policy_logprobs: policy_logprobs.clone(),
                reference_logprobs: reference.score(&batch.packed),
                old_logprobs: old_logprobs.clone(),
                loss_mask: loss_mask.clone(),
            });
            sums.kl += sum(divergence.clone());
            per_token = per_token + divergence * credited.kl_coef;
        }
        if let (Some(_), Some(hidden)) = (algorithm.entropy, &hidden) {
            let entropies = entropies(model, hidden.clone(), loss_mask.clone());
            sums.entropy += sum(entropies.clone());
            per_token = per_token - entropies * credited.entropy_coef;
        }
        let mut loss = (per_token * weights.clone()).sum();
        if let (Some((critic, settings)), Some(hidden)) = (shared, hidden) {
            let value_loss = value_losses(critic.values(hidden), &batch, credited, settings.value_clip);
            let value_loss = (value_loss * weights).sum();
            sums.value_loss += scalar(&value_loss);
            loss = loss + value_loss * settings.value_coef;
        }
        if algorithm.nll_coef > 0.0 && right_tokens > 0 {
            let share = algorithm.nll_coef / right_tokens as f64;
            let imitated =
                batch.mask(&device, &|row, t| credited.right[row.number] && credited.mask[row.number][t]);
            loss = loss - policy_logprobs.clone().mask_fill(imitated.bool_not(), 0.0).sum() * share;
        }
        let drift = (policy_logprobs.inner() - old_logprobs).mask_fill(outside, 0.0);
        sums.loss += scalar(&loss);
        sums.ratio += sum(drift.clone().exp() * loss_mask.float());
        sums.clipped += sum(output.clipped.float());
        sums.drift = f64::max(sums.drift, f64::from(drift.abs().max().into_scalar::<f32>()));
        sums.tokens += batch.rows.iter().map(|row| credited.counted(row.number)).sum::<usize>() as f64;
        let mut gradients = loss.backward();
        if let Some((critic, _)) = shared {
            head.accumulate(critic, GradientsParams::from_module(&mut gradients, critic));
        }
        pass.accumulate(gradients, (model, &mut policy));
    }
    let tokens = sums.tokens.max(1.0);
    metrics.set("ratio/mean", sums.ratio / tokens);
    metrics.set("ratio/max_abs_log", sums.drift);
    metrics.set("clip_share", sums.clipped / tokens);
    if algorithm.kl.is_some_and(|kl| kl.placement == KlPlacement::Loss) {
        metrics.set("kl", sums.kl / tokens);
    }
    if algorithm.entropy.is_some() {
        metrics.set("entropy/policy", sums.entropy / tokens);
    }
    if shared.is_some() {
        metrics.set("value_loss", sums.value_loss);
    }
    PolicyGradients { loss: sums.loss, policy: policy.grads(), head: shared.is_some().then(|| head.grads()) }
}

/// The value loss of a critic and its gradients, over the whole step. A critic without a trunk of its own gets those of
/// its head alone: the policy's trunk stays as it is.
pub(super) fn critic_gradients<M: TrainableLm>(
    (critic, model): (&Critic<M>, &M),
    (rows, credited): (&Rows<'_>, &Credited),
    algorithm: &Algorithm,
) -> (f64, GradientsParams) {
    let settings = algorithm.critic.expect("a critic is trained only where the algorithm has one");
    let mut accumulator = GradientsAccumulator::new();
    let mut total = 0.0;
    for batch in rows.micro_batches(|row| credited.weights[row] > 0.0) {
        let kind = PassKind { with_hidden: true, recompute: rows.recompute };
        let mut pass = critic.trunk.as_ref().map(|trunk| Pass::new(trunk, &batch.packed, kind));
        let own = pass.as_mut().and_then(|pass| pass.hidden.take());
        let values = match own {
            Some(hidden) => critic.values(hidden),
            None => critic.values(model.score_with_hidden(&batch.packed).1.detach()),
        };
        let device = values.device().without_autodiff();
        let losses = value_losses(values, &batch, credited, settings.value_clip);
        let weights = batch.table(&device, &|row, t| {
            if credited.mask[row.number][t] { credited.weights[row.number] } else { 0.0 }
        });
        let loss = (losses * weights).sum();
        total += scalar(&loss);
        let gradients = (loss * settings.value_coef).backward();
        match pass {
            Some(pass) => pass.accumulate(gradients, (critic, &mut accumulator)),
            None => accumulator.accumulate(critic, GradientsParams::from_grads(gradients, critic)),
        }
    }
    (total, accumulator.grads())
}

/// Whether the algorithm's critic has a trunk of its own.
pub(super) fn own_trunk(algorithm: &Algorithm) -> Option<bool> {
    algorithm.critic.map(|critic| critic.kind == CriticKind::Separate)
}

/// Entropies of the policy at every token, `[R, T]`.
pub(super) fn entropies<M: CausalLm>(model: &M, hidden: Tensor<3>, mask: Tensor<2, Bool>) -> Tensor<2> {
    let [r, t, d] = hidden.dims();
    let logits = model.logits(hidden.reshape([r * t, d]));
    let [_, vocab] = logits.dims();
    entropy(logits.reshape([r, t, vocab]), mask, 1.0)
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

fn sum(tensor: Tensor<2>) -> f64 {
    f64::from(tensor.sum().into_scalar::<f32>())
}
