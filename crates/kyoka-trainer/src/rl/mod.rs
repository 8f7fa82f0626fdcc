//! Reinforcement learning: sample groups, judge, credit, update.

mod batch;
mod credit;
mod groups;

use std::time::Instant;

use kyoka_algorithms::{Algorithm, AlgorithmOverrides, Preset, explained_variance, filter};
use kyoka_core::{Metrics, RewardContext, RewardFn, Rollout, RolloutRequest, Sample, SamplingConfig};
use kyoka_data::Shuffled;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IntoDeserializer, MapAccess, Visitor, value::MapAccessDeserializer},
};

pub(crate) use self::groups::record;
use self::{
    batch::{Credited, Rows, critic_gradients, own_trunk, policy_gradients},
    credit::StepState,
    groups::{JudgedGroup, log_rewards},
};
use crate::{
    AdamWConfig, EngineFactory, LearningRate, Session, Stage, StepReport, Task, TrainError, TrainableLm,
    averaged, evaluate::row_error, sft::default_budget,
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
    /// A preset by name, or a table of a `preset` and single fields that differ from it.
    #[serde(default, deserialize_with = "named_or_table")]
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

/// `"vapo"`, or `{ preset = "vapo", clip_high = 0.3 }`.
fn named_or_table<'de, D: Deserializer<'de>>(deserializer: D) -> Result<AlgorithmOverrides, D::Error> {
    struct NameOrTable;
    impl<'de> Visitor<'de> for NameOrTable {
        type Value = AlgorithmOverrides;

        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("the name of a preset, or a table with `preset` and settings")
        }

        fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
            let preset = Some(Preset::deserialize(name.into_deserializer())?);
            Ok(AlgorithmOverrides { preset, ..AlgorithmOverrides::default() })
        }

        fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Self::Value, A::Error> {
            AlgorithmOverrides::deserialize(MapAccessDeserializer::new(table))
        }
    }
    deserializer.deserialize_any(NameOrTable)
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

impl<'a, M: TrainableLm> RlStage<'a, M> {
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
        if algorithm.filters.replay_share > 0.0 {
            return Err(bad(
                "rl.algorithm.replay_share",
                "0: the trainer keeps no replay buffer yet",
                "more".into(),
            ));
        }
        if algorithm.advantage.needs_parts() {
            let got = "gdpo".to_owned();
            return Err(bad(
                "rl.algorithm.advantage",
                "a credit that takes the total: parts are not weighted apart yet",
                got,
            ));
        }
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
        let generate = |group_size, sampling: &SamplingConfig| {
            let request = RolloutRequest {
                prompts: &prompts,
                group_size,
                sampling,
                seed: session.seed ^ ((step as u64) << 8 | round as u64) << 16,
                policy_version: step as u64,
            };
            let failed = |source| TrainError::Rollout { stage: "rl", step: step + 1, source };
            engine.generate(request).map_err(failed)
        };
        let groups = generate(self.config.group_size, &self.config.sampling)?;
        let likeliest = match self.algorithm.advantage.needs_greedy_rollout() {
            true => generate(1, &SamplingConfig { temperature: 0.0, ..self.config.sampling.clone() })?,
            false => Vec::new(),
        };
        add(metrics, "time/rollout_s", started.elapsed().as_secs_f64());
        let started = Instant::now();
        let judge = |sample, rollout: &Rollout| {
            let completion = self.task.read(rollout, self.config.sampling.max_new_tokens);
            let reward = self.reward.score(&RewardContext { sample }, &completion)?;
            Ok::<_, TrainError>((completion, reward))
        };
        let judged = samples.into_iter().zip(groups).enumerate().map(|(slot, (sample, group))| {
            let greedy = likeliest.get(slot).map(|group| judge(sample, &group.rollouts[0])).transpose()?;
            let mut judged = JudgedGroup {
                sample,
                prompt: group.prompt,
                rollouts: Vec::new(),
                completions: Vec::new(),
                rewards: Vec::new(),
                greedy_total: greedy.and_then(|(_, reward)| reward.total),
            };
            for rollout in group.rollouts {
                let (completion, reward) = judge(sample, &rollout)?;
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
        let greedy = self.algorithm.advantage.needs_greedy_rollout();
        let usable = |group: &JudgedGroup<'_>| {
            group.rollouts.len() >= fewest && (!greedy || group.greedy_total.is_some())
        };
        Ok(judged.into_iter().filter(usable).collect())
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

impl<M: TrainableLm> Stage<M> for RlStage<'_, M> {
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

    fn critic(&self) -> Option<bool> {
        own_trunk(&self.algorithm)
    }

    fn step(&mut self, session: &mut Session<M>) -> Result<StepReport, TrainError> {
        let step = session.progress.step;
        let mut metrics = Metrics::default();
        let groups = self.gather(session, &mut metrics)?;
        let started = Instant::now();
        let budget = self.config.tokens_per_micro_batch;
        let rows = Rows::new(&groups, budget, session.gradient_checkpointing);
        let pretraining = self.algorithm.critic.is_some_and(|critic| step < critic.pretrain_steps);
        let state = StepState {
            algorithm: &self.algorithm,
            session,
            groups: &groups,
            rows: &rows,
            max_new_tokens: self.config.sampling.max_new_tokens,
            pretraining,
        };
        let credited = state.credit(&mut metrics);
        let mut credited = credited.map_err(|source| TrainError::Advantage { step: step + 1, source })?;
        if !credited.values.is_empty() {
            let (values, targets) = (credited.values.concat(), credited.value_targets.concat());
            metrics.set("explained_variance", explained_variance(&values, &targets));
        }
        let learning_rate = self.config.learning_rate.at(step, self.config.steps);
        metrics.set("learning_rate", learning_rate);
        let shared = self.algorithm.critic.is_some() && own_trunk(&self.algorithm) == Some(false);
        let trained = |credited: &Credited| -> usize {
            let rows = (0..credited.weights.len()).filter(|&row| credited.trains(row, &self.algorithm));
            rows.map(|row| credited.advantages[row].len()).sum()
        };
        let trained_tokens = if pretraining { 0 } else { trained(&credited) };
        metrics.set("trained_tokens", trained_tokens as f64);
        let names = || groups.iter().map(|group| group.sample.id.as_str()).collect::<Vec<_>>().join(" ");
        for number in 0..self.algorithm.updates_per_batch {
            if number > 0 {
                self.drop_left_behind(session, &rows, &mut credited);
            }
            let update = Update { rows: &rows, credited: &credited, learning_rate, names: &names };
            if self.algorithm.critic.is_some() && (pretraining || !shared) {
                self.update_critic(session, &update, &mut metrics)?;
            }
            if !pretraining && (trained_tokens > 0 || shared) {
                self.update_policy(session, &update, &mut metrics)?;
            }
        }
        self.adapt(session, rows.iter().count(), &mut metrics);
        metrics.set("time/train_s", started.elapsed().as_secs_f64());
        let samples =
            groups.iter().take(2).map(|g| record(g.sample, &g.completions[0], &g.rewards[0])).collect();
        let idle = trained_tokens == 0 && !pretraining;
        let warning = idle.then(|| {
            "all completions of every prompt earned the same; nothing to learn from this step".to_owned()
        });
        let (step, total_steps) = (step + 1, self.config.steps);
        Ok(StepReport { stage: "rl", step, total_steps, metrics, samples, warning })
    }
}

/// One of the updates of a step.
struct Update<'a> {
    rows: &'a Rows<'a>,
    credited: &'a Credited,
    learning_rate: f64,
    /// Rows of the step, for messages.
    names: &'a dyn Fn() -> String,
}

impl<M: TrainableLm> RlStage<'_, M> {
    fn update_policy(
        &self,
        session: &mut Session<M>,
        update: &Update<'_>,
        metrics: &mut Metrics,
    ) -> Result<(), TrainError> {
        let Update { rows, credited, learning_rate, names } = *update;
        let critic = session.critic.as_ref().map(|state| &state.critic);
        let models = (&session.model, session.reference.as_ref(), critic);
        let gradients = policy_gradients(models, (rows, credited), &self.algorithm, metrics);
        if !gradients.loss.is_finite() {
            return Err(session.not_finite("rl", "loss", names()));
        }
        metrics.set("loss", gradients.loss);
        let norm = session.update("rl", learning_rate, gradients.policy, names)?;
        metrics.set("grad_norm", norm);
        match gradients.head {
            Some(head) => session.update_critic(self.critic_rate(learning_rate), head, names),
            None => Ok(()),
        }
    }

    fn update_critic(
        &self,
        session: &mut Session<M>,
        update: &Update<'_>,
        metrics: &mut Metrics,
    ) -> Result<(), TrainError> {
        let Update { rows, credited, learning_rate, names } = *update;
        let state = session.critic.as_ref().expect("the stage asked for a critic");
        let (loss, gradients) =
            critic_gradients((&state.critic, &session.model), (rows, credited), &self.algorithm);
        if !loss.is_finite() {
            return Err(session.not_finite("rl", "value loss", names()));
        }
        metrics.set("value_loss", loss);
        session.update_critic(self.critic_rate(learning_rate), gradients, names)
    }

    /// The critic's rate: its own peak on the policy's schedule.
    fn critic_rate(&self, learning_rate: f64) -> f64 {
        let own = self.algorithm.critic.and_then(|critic| critic.learning_rate);
        own.map_or(learning_rate, |peak| peak * learning_rate / self.config.learning_rate.peak)
    }

    /// Drops bad completions that the policy has moved away from in the updates before.
    fn drop_left_behind(&self, session: &Session<M>, rows: &Rows<'_>, credited: &mut Credited) {
        let Some(threshold) = self.algorithm.filters.off_policy_threshold else { return };
        let model = session.model.valid();
        let now = rows.tokens(|batch| model.score(&batch.packed));
        for (row, now) in now.iter().enumerate() {
            let ratios: Vec<f32> = now.iter().zip(&credited.old_logprobs[row]).map(|(a, b)| a - b).collect();
            let advantage = credited.advantages[row].iter().sum::<f32>();
            if !filter::keeps_on_policy(advantage, &ratios, threshold) {
                credited.weights[row] = 0.0;
            }
        }
    }

    /// Moves coefficients towards their targets, and the reference towards the policy.
    fn adapt(&self, session: &mut Session<M>, num_completions: usize, metrics: &mut Metrics) {
        if let Some((kl, controller)) = self.algorithm.kl.and_then(|kl| Some((kl, kl.adaptive?))) {
            let coef = session.progress.coefs.entry("kl".to_owned()).or_insert(kl.kl_coef);
            *coef = controller.next(*coef, metrics.get("kl").unwrap_or(f64::NAN), num_completions);
            metrics.set("kl_coef", *coef);
        }
        if let Some(bonus) = self.algorithm.entropy.filter(|bonus| bonus.target.is_some()) {
            let entropy = metrics.get("entropy/policy").or(metrics.get("entropy")).unwrap_or(0.0);
            let coef = session.progress.coefs.entry("entropy".to_owned()).or_insert(bonus.coef);
            *coef = bonus.next_coef(*coef, entropy);
            metrics.set("entropy_coef", bonus.weight(*coef, entropy));
        }
        let Some(refresh) = self.algorithm.reference_refresh else { return };
        if (session.progress.step + 1).is_multiple_of(refresh.every)
            && let Some(reference) = session.reference.take()
        {
            session.reference = Some(averaged(reference, &session.model.valid(), refresh.decay));
        }
    }
}

fn add(metrics: &mut Metrics, name: &str, value: f64) {
    let before = metrics.get(name).unwrap_or(0.0);
    metrics.set(name, before + value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_algorithm_is_a_name_or_a_table() {
        #[derive(Debug, Deserialize)]
        struct Recipe {
            #[serde(deserialize_with = "named_or_table")]
            algorithm: AlgorithmOverrides,
        }
        let read = |text: &str| serde_json::from_str::<Recipe>(text);
        let named = read(r#"{"algorithm": "vapo"}"#).unwrap().algorithm;
        assert_eq!(named.preset, Some(Preset::Vapo));
        let table = read(r#"{"algorithm": {"preset": "vapo", "clip_high": 0.3}}"#).unwrap().algorithm;
        assert_eq!(table, AlgorithmOverrides { clip_high: Some(0.3), ..named });
        let unknown = read(r#"{"algorithm": {"clip_hihg": 0.3}}"#).unwrap_err().to_string();
        assert!(unknown.contains("clip_hihg"), "{unknown}");
        let nobody = read(r#"{"algorithm": "vappo"}"#).unwrap_err().to_string();
        assert!(nobody.contains("vappo"), "{nobody}");
    }
}
