//! Reinforcement learning: sample groups, judge, credit, update.

use std::time::Instant;

use burn::{
    module::Module,
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{Device, Tensor, TensorData},
};
use kyoka_algorithms::{Algorithm, AlgorithmOverrides};
use kyoka_core::{
    CausalLm, Completion, CreditedStep, GroupRewards, Metrics, Modality, PackedGroup, PolicyLossInput,
    Prompt, Reward, RewardContext, RewardFn, Rollout, RolloutRequest, Sample, SamplingConfig,
};
use kyoka_data::Shuffled;
use serde::{Deserialize, Serialize};

use crate::{
    AdamWConfig, EngineFactory, LearningRate, PackItem, SampleRecord, Session, Stage, StepReport, Task,
    TrainError,
    evaluate::{PartMeans, row_error},
    plan_micro_batches,
    sft::default_budget,
};

/// Settings of the stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RlConfig {
    /// Name of the split whose answers are rewards.
    pub data: String,
    /// Steps.
    pub steps: usize,
    /// Prompts a step.
    pub prompts_per_step: usize,
    /// Completions a prompt.
    pub group_size: usize,
    /// A preset and single fields of it.
    #[serde(default)]
    pub algorithm: AlgorithmOverrides,
    /// How completions are drawn.
    #[serde(default)]
    pub sampling: SamplingConfig,
    /// Learning rate.
    pub learning_rate: LearningRate,
    /// Optimizer.
    #[serde(default)]
    pub optimizer: AdamWConfig,
    /// Random changes of pictures and sounds, the same for all completions of a prompt. Default true.
    #[serde(default = "yes")]
    pub augment: bool,
    /// Rounds of further prompts that dynamic sampling may draw. Default 3.
    #[serde(default = "three")]
    pub max_refills: usize,
    /// Padded tokens a micro-batch. Default 8192.
    #[serde(default = "default_budget")]
    pub tokens_per_micro_batch: usize,
    /// Steps between evaluations; 0 evaluates at the end only.
    #[serde(default)]
    pub eval_every: usize,
}

fn yes() -> bool {
    true
}

fn three() -> usize {
    3
}

/// The stage: policy, rewards and algorithm meet here.
pub struct RlStage<'a, M> {
    config: &'a RlConfig,
    algorithm: Algorithm,
    task: &'a dyn Task,
    reward: &'a dyn RewardFn,
    engine: EngineFactory<'a, M>,
    samples: &'a [Sample],
    order: Shuffled,
}

/// A prompt with its judged completions.
struct JudgedGroup<'a> {
    sample: &'a Sample,
    prompt: Prompt,
    rollouts: Vec<Rollout>,
    completions: Vec<Completion>,
    rewards: Vec<Reward>,
}

impl JudgedGroup<'_> {
    fn totals(&self) -> Vec<f32> {
        self.rewards.iter().map(|reward| reward.total.expect("ungraded completions were left out")).collect()
    }

    /// Whether all completions earned the same.
    fn is_flat(&self) -> bool {
        let totals = self.totals();
        totals.windows(2).all(|pair| pair[0] == pair[1])
    }

    /// Whether nothing tells the completions apart: neither the totals nor, for a credit that looks at them, the steps.
    fn is_useless(&self, algorithm: &Algorithm) -> bool {
        match algorithm.advantage.estimate(&[self.group_rewards()]) {
            Ok(advantages) => advantages.per_token.iter().flatten().all(|&advantage| advantage == 0.0),
            // An error is for the step to report, with its place.
            Err(_) => false,
        }
    }

    fn group_rewards(&self) -> GroupRewards {
        let credited = |reward: &Reward| {
            let steps = reward.steps.iter();
            steps.map(|v| CreditedStep { step: v.step, token: v.token, value: v.value }).collect()
        };
        GroupRewards {
            totals: self.totals(),
            lengths: self.rollouts.iter().map(|rollout| rollout.token_ids.len()).collect(),
            steps: self.rewards.iter().map(credited).collect(),
        }
    }
}

impl<'a, M: CausalLm + Module> RlStage<'a, M> {
    /// A stage over `samples`, in an order that `seed` decides.
    ///
    /// # Errors
    /// If the settings are out of range or the algorithm makes no sense with this group size.
    pub fn new(
        config: &'a RlConfig,
        task: &'a dyn Task,
        (reward, engine): (&'a dyn RewardFn, EngineFactory<'a, M>),
        samples: &'a [Sample],
        seed: u64,
    ) -> Result<Self, TrainError> {
        let bad = |field, expected, got: String| TrainError::Config { field, expected, got };
        if config.prompts_per_step == 0 {
            return Err(bad("rl.prompts_per_step", "at least 1", "0".into()));
        }
        config.sampling.validate().map_err(|e| bad("rl.sampling", "a valid setting", e.to_string()))?;
        let algorithm = config.algorithm.resolve().build(config.group_size);
        let algorithm =
            algorithm.map_err(|e| bad("rl.algorithm", "a combination that works", e.to_string()))?;
        Ok(Self {
            config,
            algorithm,
            task,
            reward,
            engine,
            samples,
            order: Shuffled::new(samples.len(), seed),
        })
    }

    /// Samples and judges one round of prompts; moves the data position.
    fn round(
        &self,
        session: &mut Session<M>,
        (round, count): (usize, usize),
        metrics: &mut Metrics,
    ) -> Result<Vec<JudgedGroup<'a>>, TrainError> {
        let started = Instant::now();
        let step = session.progress.step;
        let position = session.progress.position;
        let samples: Vec<&Sample> =
            (0..count as u64).map(|slot| &self.samples[self.order.row(position + slot)]).collect();
        session.progress.position += count as u64;
        let mut prompts = Vec::with_capacity(count);
        for (slot, sample) in samples.iter().enumerate() {
            let place = [1, session.progress.stage as u64, position, slot as u64];
            let prompt = self.task.prompt(sample, self.config.augment.then_some(&place));
            prompts.push(prompt.map_err(|source| row_error(sample, source))?);
        }
        let engine = (self.engine)(session.model.valid());
        let request = RolloutRequest {
            prompts: &prompts,
            group_size: self.config.group_size,
            sampling: &self.config.sampling,
            seed: session.seed ^ ((step as u64) << 8 | round as u64) << 16,
            policy_version: step as u64,
        };
        let groups = engine.generate(request).map_err(|source| TrainError::Rollout {
            stage: "rl",
            step: step + 1,
            source,
        })?;
        add(metrics, "time/rollout_s", started.elapsed().as_secs_f64());
        let started = Instant::now();
        let judged = samples.into_iter().zip(groups).map(|(sample, group)| {
            let mut judged = JudgedGroup {
                sample,
                prompt: group.prompt,
                rollouts: Vec::new(),
                completions: Vec::new(),
                rewards: Vec::new(),
            };
            for rollout in group.rollouts {
                let completion = self.task.read(&rollout, self.config.sampling.max_new_tokens);
                let reward = self.reward.score(&RewardContext { sample }, &completion)?;
                if reward.total.is_some() {
                    judged.rollouts.push(rollout);
                    judged.completions.push(completion);
                    judged.rewards.push(reward);
                } else {
                    add(metrics, "ungraded", 1.0);
                }
            }
            Ok(judged)
        });
        let judged: Vec<JudgedGroup<'a>> = judged.collect::<Result<_, TrainError>>()?;
        add(metrics, "time/reward_s", started.elapsed().as_secs_f64());
        // What is left of a group after ungraded completions must still be comparable.
        let fewest = self.algorithm.advantage.min_group_size();
        Ok(judged.into_iter().filter(|group| group.rollouts.len() >= fewest).collect())
    }

    /// The groups of one step. With dynamic sampling, groups without spread are replaced, for some rounds.
    fn gather(
        &self,
        session: &mut Session<M>,
        metrics: &mut Metrics,
    ) -> Result<Vec<JudgedGroup<'a>>, TrainError> {
        let wanted = self.config.prompts_per_step;
        let mut groups = self.round(session, (0, wanted), metrics)?;
        log_rewards(&groups, metrics);
        if self.algorithm.dynamic_sampling {
            groups.retain(|group| !group.is_useless(&self.algorithm));
            let mut refills = 0;
            while groups.len() < wanted && refills < self.config.max_refills {
                refills += 1;
                let fresh = self.round(session, (refills, wanted), metrics)?;
                groups.extend(fresh.into_iter().filter(|group| !group.is_useless(&self.algorithm)));
            }
            groups.truncate(wanted);
            metrics.set("refills", refills as f64);
        }
        Ok(groups)
    }
}

impl<M: CausalLm + Module> Stage<M> for RlStage<'_, M> {
    fn name(&self) -> &'static str {
        "rl"
    }

    fn total_steps(&self) -> usize {
        self.config.steps
    }

    fn eval_every(&self) -> usize {
        self.config.eval_every
    }

    fn optimization(&self) -> (LearningRate, AdamWConfig) {
        (self.config.learning_rate, self.config.optimizer)
    }

    fn wants_reference(&self) -> bool {
        self.algorithm.kl.is_some()
    }

    fn step(&mut self, session: &mut Session<M>) -> Result<StepReport, TrainError> {
        let step = session.progress.step;
        let mut metrics = Metrics::default();
        let groups = self.gather(session, &mut metrics)?;
        let started = Instant::now();
        let rewards: Vec<GroupRewards> = groups.iter().map(JudgedGroup::group_rewards).collect();
        let advantages = self.algorithm.advantage.estimate(&rewards);
        let advantages =
            advantages.map_err(|source| TrainError::Advantage { step: step + 1, source })?.per_token;
        let batch =
            TrainBatch::new(&groups, advantages, &self.algorithm, self.config.sampling.max_new_tokens);
        let row_names = || groups.iter().map(|group| group.sample.id.as_str()).collect::<Vec<_>>().join(" ");
        let learning_rate = self.config.learning_rate.at(step, self.config.steps);
        metrics.set("learning_rate", learning_rate);
        metrics.set("trained_tokens", batch.num_tokens() as f64);
        for _ in 0..self.algorithm.updates_per_batch {
            if batch.items.is_empty() {
                break;
            }
            let reference = session.reference.as_ref();
            let (loss, gradients) =
                batch.gradients(&session.model, reference, self.config.tokens_per_micro_batch, &mut metrics);
            if !loss.is_finite() {
                return Err(session.not_finite("rl", "loss", row_names()));
            }
            metrics.set("loss", loss);
            let norm = session.update("rl", learning_rate, gradients, &row_names)?;
            metrics.set("grad_norm", norm);
        }
        metrics.set("time/train_s", started.elapsed().as_secs_f64());
        let samples =
            groups.iter().take(2).map(|g| record(g.sample, &g.completions[0], &g.rewards[0])).collect();
        Ok(StepReport { stage: "rl", step: step + 1, total_steps: self.config.steps, metrics, samples })
    }
}

/// The completions that carry a gradient, with everything the loss needs.
struct TrainBatch<'a> {
    algorithm: &'a Algorithm,
    groups: &'a [JudgedGroup<'a>],
    /// Groups with at least one completion to train: place in `groups` and places of the completions.
    items: Vec<(usize, Vec<usize>)>,
    /// Advantages by flat row.
    advantages: Vec<Vec<f32>>,
    /// Loss weight by flat row.
    weights: Vec<f32>,
    first_row: Vec<usize>,
}

impl<'a> TrainBatch<'a> {
    /// Rows without any advantage are left out where no divergence is penalised: their gradient is 0. They still count
    /// in the loss's denominator.
    fn new(
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

    fn num_tokens(&self) -> usize {
        let tokens = |(group, places): &(usize, Vec<usize>)| -> usize {
            places.iter().map(|&place| self.groups[*group].rollouts[place].token_ids.len()).sum()
        };
        self.items.iter().map(tokens).sum()
    }

    /// The loss over the whole batch and its gradients, micro-batch by micro-batch.
    fn gradients<M: CausalLm + Module>(
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
                let divergence = kl.estimator.evaluate(policy_logprobs.clone(), reference.score(&packed));
                let divergence = divergence.mask_fill(loss_mask.clone().bool_not(), 0.0);
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

fn add(metrics: &mut Metrics, name: &str, value: f64) {
    let before = metrics.get(name).unwrap_or(0.0);
    metrics.set(name, before + value);
}

/// Means over everything sampled in the first round, before any filter.
fn log_rewards(groups: &[JudgedGroup<'_>], metrics: &mut Metrics) {
    let rollouts: Vec<(&Rollout, &Reward)> =
        groups.iter().flat_map(|group| group.rollouts.iter().zip(&group.rewards)).collect();
    let mut means = PartMeans::default();
    for (rollout, reward) in &rollouts {
        means.add("reward/total", f64::from(reward.total.expect("ungraded completions were left out")));
        reward.parts.iter().for_each(|(name, value)| means.add(&format!("reward/{name}"), f64::from(*value)));
        means.add("completion_length", rollout.token_ids.len() as f64);
    }
    means.finish().into_iter().for_each(|(name, value)| metrics.set(name, value));
    let tokens: usize = rollouts.iter().map(|(rollout, _)| rollout.logprobs.len()).sum();
    let logprobs = rollouts.iter().flat_map(|(rollout, _)| &rollout.logprobs).map(|&value| f64::from(value));
    // The mean of -log p over tokens drawn at temperature 1 estimates the entropy.
    metrics.set("entropy", -logprobs.sum::<f64>() / tokens.max(1) as f64);
    let flat = groups.iter().filter(|group| group.is_flat()).count();
    metrics.set("zero_variance_share", flat as f64 / groups.len().max(1) as f64);
    metrics.set("generated_tokens", tokens as f64);
}

/// A completion for the log.
pub(crate) fn record(sample: &Sample, completion: &Completion, reward: &Reward) -> SampleRecord {
    let files = |modality| sample.media(modality).map(|media| media.path.clone()).collect();
    SampleRecord {
        id: sample.id.clone(),
        prompt: sample.prompt_text(),
        images: files(Modality::Image),
        audios: files(Modality::Audio),
        answer: sample.answer.clone(),
        completion: completion.text.clone(),
        reward: reward.total,
        parts: reward.parts.clone(),
    }
}
