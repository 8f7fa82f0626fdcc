//! Reinforcement learning: sample groups, judge, credit, update.

mod batch;
mod groups;

use std::time::Instant;

use burn::module::Module;
use kyoka_algorithms::{Algorithm, AlgorithmOverrides};
use kyoka_core::{
    CausalLm, GroupRewards, Metrics, RewardContext, RewardFn, RolloutRequest, Sample, SamplingConfig,
};
use kyoka_data::Shuffled;
use serde::{Deserialize, Serialize};

pub(crate) use self::groups::record;
use self::{
    batch::TrainBatch,
    groups::{JudgedGroup, log_rewards},
};
use crate::{
    AdamWConfig, EngineFactory, LearningRate, Session, Stage, StepReport, Task, TrainError,
    evaluate::row_error, sft::default_budget,
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
    /// Most tokens a micro-batch. Default 8192.
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
        let warning = batch.items.is_empty().then(|| {
            "all completions of every prompt earned the same; nothing to learn from this step".to_owned()
        });
        let (step, total_steps) = (step + 1, self.config.steps);
        Ok(StepReport { stage: "rl", step, total_steps, metrics, samples, warning })
    }
}

fn add(metrics: &mut Metrics, name: &str, value: f64) {
    let before = metrics.get(name).unwrap_or(0.0);
    metrics.set(name, before + value);
}
