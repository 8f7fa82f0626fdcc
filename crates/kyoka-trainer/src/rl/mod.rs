//! Reinforcement learning: sample groups, judge, credit, update.

mod batch;
mod config;
mod credit;
mod gather;
mod groups;
mod loss;
mod replay;

use std::time::Instant;

use kyoka_algorithms::{Algorithm, explained_variance, filter};
use kyoka_core::{Metrics, RewardFn, Sample};
use kyoka_data::Shuffled;

pub use self::config::RlConfig;
pub(crate) use self::groups::record;
use self::{
    batch::{Credited, Rows, Scoring},
    credit::StepState,
    gather::Gathered,
    groups::{JudgedGroup, sampled_entropy},
    loss::{Objective, critic_gradients, own_trunk},
    replay::{Replay, Replayed},
};
use crate::{
    AdamWConfig, EngineFactory, LearningRate, Progress, Session, Stage, StepReport, Task, TrainError,
    TrainableLm, averaged,
};

/// The stage: policy, rewards and algorithm meet here.
pub struct RlStage<'a, M> {
    config: &'a RlConfig,
    algorithm: Algorithm,
    replay: Option<Replay>,
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
        config.check_sampling()?;
        let algorithm = config.algorithm.resolve().build(config.group_size);
        let algorithm =
            algorithm.map_err(|e| bad("rl.algorithm", "a combination that works", e.to_string()))?;
        Ok(Self {
            config,
            replay: algorithm.filters.replay.map(Replay::new),
            algorithm,
            task,
            reward,
            engine,
            samples,
            order: Shuffled::new(samples.len(), seed),
        })
    }
}

impl<M: TrainableLm> Stage<M> for RlStage<'_, M> {
    fn name(&self) -> &'static str {
        "rl"
    }

    fn total_steps(&self) -> usize {
        self.config.steps
    }

    fn is_done(&self, progress: &Progress) -> bool {
        let limit = self.config.max_generated_tokens;
        progress.step >= self.config.steps || (limit > 0 && progress.generated_tokens >= limit)
    }

    fn eval_every(&self) -> usize {
        self.config.eval_every
    }

    fn optimization(&self) -> (LearningRate, AdamWConfig) {
        (self.config.learning_rate, self.config.optimizer)
    }

    fn has_dropout(&self) -> bool {
        false
    }

    fn state(&self) -> Option<Vec<u8>> {
        self.replay.as_ref().map(Replay::state)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), String> {
        self.replay.as_mut().map_or(Ok(()), |replay| replay.restore(state, self.samples.len()))
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
        let Gathered { mut groups, banned } = self.gather(session, &mut metrics)?;
        let started = Instant::now();
        let num_fresh = groups.len();
        let replayed = self.draw_replayed(session, &groups);
        for item in &replayed {
            groups.push(item.group(&self.samples[item.row], self.prompt(item.row, &item.place)?));
        }
        let scoring = Scoring {
            token_budget: self.config.tokens_per_micro_batch,
            recompute: session.gradient_checkpointing,
            distribution: self.config.sampling.distribution(&banned),
        };
        let rows = Rows::new(&groups, scoring);
        let fresh = &groups[..num_fresh];
        let pretraining = self.algorithm.critic.is_some_and(|critic| step < critic.pretrain_steps);
        let state = StepState {
            algorithm: &self.algorithm,
            session,
            fresh,
            replayed: &replayed,
            rows: &rows,
            max_new_tokens: self.config.sampling.max_new_tokens,
            pretraining,
        };
        let credited = state.credit(&mut metrics);
        let mut credited = credited.map_err(|source| TrainError::Advantage { step: step + 1, source })?;
        if let Some(replay) = &mut self.replay {
            replay.keep(fresh, &credited);
            metrics.set("replayed", replayed.len() as f64);
        }
        let trained_tokens = if pretraining { 0 } else { credited.trained_tokens(&self.algorithm) };
        metrics.set("trained_tokens", trained_tokens as f64);
        session.progress.trained_tokens += trained_tokens as u64;
        let names = || groups.iter().map(|group| group.sample.id.as_str()).collect::<Vec<_>>().join(" ");
        let plan = Plan { pretraining, trains: trained_tokens > 0, names: &names };
        self.updates(session, (&rows, &mut credited), &plan, &mut metrics)?;
        self.adapt(session, rows.iter().count(), &mut metrics);
        metrics.set("time/train_s", started.elapsed().as_secs_f64());
        let samples = fresh.iter().take(2).map(|g| record(g.sample, &g.completions[0], &g.rewards[0]));
        let idle = trained_tokens == 0 && !pretraining;
        let warning = idle.then(|| {
            "all completions of every prompt earned the same; nothing to learn from this step".to_owned()
        });
        let (samples, total_steps) = (samples.collect(), self.config.steps);
        Ok(StepReport { stage: "rl", step: step + 1, total_steps, metrics, samples, warning })
    }
}

/// What the updates of a step do.
struct Plan<'a> {
    /// The critic learns alone.
    pretraining: bool,
    /// Whether any completion moves the policy.
    trains: bool,
    /// Rows of the step, for messages.
    names: &'a dyn Fn() -> String,
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
    /// All updates on the step's completions.
    fn updates(
        &self,
        session: &mut Session<M>,
        (rows, credited): (&Rows<'_>, &mut Credited),
        plan: &Plan<'_>,
        metrics: &mut Metrics,
    ) -> Result<(), TrainError> {
        if !credited.values.is_empty() {
            let (values, targets) = (credited.values.concat(), credited.value_targets.concat());
            metrics.set("explained_variance", explained_variance(&values, &targets));
        }
        let learning_rate = self.config.learning_rate.at(session.progress.step, self.config.steps);
        metrics.set("learning_rate", learning_rate);
        let own_trunk = own_trunk(&self.algorithm);
        // The policy that sampled is the policy of the first update, but not that of replayed completions.
        let drifted = |number| number > 0 || self.replay.is_some();
        for number in 0..self.algorithm.updates_per_batch {
            if drifted(number) {
                self.drop_left_behind(session, rows, credited);
            }
            let update = Update { rows, credited, learning_rate, names: plan.names };
            if own_trunk.is_some_and(|own| own || plan.pretraining) {
                self.update_critic(session, &update, metrics)?;
            }
            if !plan.pretraining && (plan.trains || own_trunk == Some(false)) {
                self.update_policy(session, &update, metrics)?;
            }
        }
        Ok(())
    }

    /// Completions of earlier steps to train along.
    fn draw_replayed(&self, session: &Session<M>, fresh: &[JudgedGroup<'_>]) -> Vec<Replayed> {
        let Some(replay) = &self.replay else { return Vec::new() };
        let place = [session.progress.stage as u64, session.progress.step as u64];
        replay.draw(fresh.iter().map(|group| group.rollouts.len()).sum(), session.seed, &place)
    }

    fn update_policy(
        &self,
        session: &mut Session<M>,
        update: &Update<'_>,
        metrics: &mut Metrics,
    ) -> Result<(), TrainError> {
        let Update { rows, credited, learning_rate, names } = *update;
        let critic = session.critic.as_ref().map(|state| &state.critic);
        let objective = Objective {
            model: &session.model,
            reference: session.reference.as_ref(),
            shared: critic.filter(|critic| critic.trunk.is_none()).zip(self.algorithm.critic),
            credited,
            algorithm: &self.algorithm,
        };
        let gradients = objective.gradients(rows, metrics);
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
        let settings = self.algorithm.critic.expect("the stage asked for a critic");
        let models = (&state.critic, &session.model);
        let (loss, gradients) = critic_gradients(models, (rows, credited), settings);
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
        let now = rows.tokens(|batch| model.score(&batch.packed, &batch.distribution));
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
            let entropy = metrics.get("entropy/policy").unwrap_or_else(|| sampled_entropy(metrics));
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
