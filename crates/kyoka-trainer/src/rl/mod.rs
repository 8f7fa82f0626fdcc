//! Reinforcement learning: sample groups, judge, credit, update.

mod batch;
mod config;
mod credit;
mod credited;
mod gather;
mod groups;
mod idle;
mod loss;
mod mini_batches;
mod replay;
mod token_distribution;

use std::time::Instant;

use kyoka_algorithms::{Algorithm, explained_variance, filter};
use kyoka_core::{Metrics, RewardFn, Sample};
use kyoka_data::Shuffled;

pub use self::config::RlConfig;
use self::{
    batch::{Rows, Scoring},
    credit::StepState,
    credited::Credited,
    gather::{Gathered, Gatherer},
    groups::{JudgedGroup, sampled_entropy},
    idle::idle_reason,
    loss::{Objective, critic_gradients, own_trunk},
    mini_batches::UpdateMetrics,
    replay::{Replay, Replayed},
};
use crate::{
    AdamWConfig, EngineFactory, LearningRate, Progress, SampleRecord, Session, SettingError, Stage,
    StepReport, Task, TrainError, TrainableLm, averaged,
};

/// The stage: policy, rewards and algorithm meet here.
pub struct RlStage<'a, M> {
    config: &'a RlConfig,
    algorithm: Algorithm,
    replay: Option<Replay>,
    gatherer: Gatherer<'a, M>,
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
        config.check("rl")?;
        let algorithm = config.algorithm.build(config.group_size).map_err(SettingError::algorithm("rl"))?;
        Ok(Self {
            config,
            replay: algorithm.filters.replay.map(Replay::new),
            algorithm,
            gatherer: Gatherer {
                config,
                task,
                reward,
                engine,
                samples,
                order: Shuffled::new(samples.len(), seed),
            },
        })
    }
}

impl<M: TrainableLm> Stage<M> for RlStage<'_, M> {
    fn name(&self) -> &'static str {
        "rl"
    }

    fn total_steps(&self) -> usize {
        self.config.total_steps()
    }

    fn is_done(&self, progress: &Progress) -> bool {
        let limit = self.config.max_generated_tokens;
        progress.step >= self.config.total_steps() || (limit > 0 && progress.generated_tokens >= limit)
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
        self.replay.as_mut().map_or(Ok(()), |replay| replay.restore(state, self.gatherer.samples.len()))
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
        let Gathered { mut groups, banned } = self.gatherer.gather(&self.algorithm, session, &mut metrics)?;
        let started = Instant::now();
        let num_fresh = groups.len();
        let replayed = self.draw_replayed(session, &groups);
        for item in &replayed {
            let prompt = self.gatherer.prompt(item.row, &item.place)?;
            groups.push(item.group(&self.gatherer.samples[item.row], prompt));
        }
        let scoring = Scoring {
            token_budget: self.config.tokens_per_micro_batch,
            recompute: session.gradient_checkpointing,
            distribution: self.config.sampling.distribution(&banned),
        };
        let rows = Rows::new(&groups, scoring);
        let fresh = &groups[..num_fresh];
        let pretraining = step < self.config.pretrain_steps();
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
        let num_rows = rows.iter().count();
        let parts =
            mini_batches::split(num_rows - replayed.len(), replayed.len(), self.algorithm.mini_batches);
        let plan = Plan { pretraining, parts: &parts, names: &names };
        self.updates(session, (&rows, &mut credited), &plan, &mut metrics)?;
        self.adapt(session, num_rows, &mut metrics);
        metrics.set("time/train_s", started.elapsed().as_secs_f64());
        let samples = fresh
            .iter()
            .take(2)
            .map(|group| SampleRecord::new(group.sample, &group.completions[0], &group.rewards[0]));
        let idle = trained_tokens == 0 && !pretraining;
        let warning = idle.then(|| idle_reason(fresh, &credited, &self.algorithm));
        let warning = warning.or_else(|| self.schedule_warning(step));
        let (samples, total_steps) = (samples.collect(), self.config.total_steps());
        Ok(StepReport { stage: "rl", step: step + 1, total_steps, metrics, samples, warning })
    }
}

/// What the updates of a step do.
struct Plan<'a> {
    /// The critic learns alone.
    pretraining: bool,
    /// Rows of the mini-batches.
    parts: &'a [Vec<usize>],
    /// Rows of the step, for messages.
    names: &'a dyn Fn() -> String,
}

/// One of the updates of a step.
struct Update<'a> {
    rows: &'a Rows<'a>,
    credited: &'a Credited,
    learning_rate: f64,
    critic_rate: f64,
    /// Rows of the step, for messages.
    names: &'a dyn Fn() -> String,
}

impl<M: TrainableLm> RlStage<'_, M> {
    /// Optimizer updates of a step.
    fn updates_per_step(&self) -> usize {
        self.algorithm.updates_per_batch * self.algorithm.mini_batches
    }

    /// Rates of policy and critic in update `number` of a step: each counts its own updates.
    fn rates(&self, step: usize, number: usize) -> (f64, f64) {
        let (per_step, pretrain) = (self.updates_per_step(), self.config.pretrain_steps());
        let policy = self.config.learning_rate;
        let own = self.algorithm.critic.and_then(|critic| critic.learning_rate);
        let critic = LearningRate { peak: own.unwrap_or(policy.peak), ..policy };
        let critic = critic.at(step * per_step + number, self.config.total_steps() * per_step);
        match step.checked_sub(pretrain) {
            Some(step) => (policy.at(step * per_step + number, self.config.steps * per_step), critic),
            None => (0.0, critic),
        }
    }

    /// What there is to say of the schedule, once, at the first step of the policy.
    fn schedule_warning(&self, step: usize) -> Option<String> {
        let total = self.config.steps * self.updates_per_step();
        if step == self.config.pretrain_steps() { self.config.learning_rate.warning(total) } else { None }
    }

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
        metrics.set("learning_rate", self.rates(session.progress.step, 0).0);
        let own_trunk = own_trunk(&self.algorithm);
        // The policy that sampled is the policy of the first update, but not that of replayed completions.
        let drifted = |number| number > 0 || self.replay.is_some();
        let parts = (0..self.algorithm.updates_per_batch).flat_map(|_| plan.parts);
        let mut all = UpdateMetrics::default();
        for (number, part) in parts.enumerate() {
            credited.restrict(part, self.algorithm.reduction, self.config.sampling.max_new_tokens);
            if drifted(number) {
                self.drop_left_behind(session, rows, credited);
            }
            let mut said = Metrics::default();
            let (learning_rate, critic_rate) = self.rates(session.progress.step, number);
            said.set("learning_rate", learning_rate);
            let update = Update { rows, credited, learning_rate, critic_rate, names: plan.names };
            if own_trunk.is_some() {
                said.set("critic_learning_rate", critic_rate);
            }
            if own_trunk.is_some_and(|own| own || plan.pretraining) {
                self.update_critic(session, &update, &mut said)?;
            }
            let trains = credited.trained_tokens(&self.algorithm) > 0;
            if !plan.pretraining && (trains || own_trunk == Some(false)) {
                self.update_policy(session, &update, &mut said)?;
            }
            all.push(said);
        }
        all.finish(metrics);
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
        let Update { rows, credited, learning_rate, critic_rate, names } = *update;
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
            Some(head) => session.update_critic(critic_rate, head, names),
            None => Ok(()),
        }
    }

    fn update_critic(
        &self,
        session: &mut Session<M>,
        update: &Update<'_>,
        metrics: &mut Metrics,
    ) -> Result<(), TrainError> {
        let Update { rows, credited, critic_rate, names, .. } = *update;
        let state = session.critic.as_ref().expect("the stage asked for a critic");
        let settings = self.algorithm.critic.expect("the stage asked for a critic");
        let models = (&state.critic, &session.model);
        let (loss, gradients) = critic_gradients(models, (rows, credited), settings);
        if !loss.is_finite() {
            return Err(session.not_finite("rl", "value loss", names()));
        }
        metrics.set("value_loss", loss);
        session.update_critic(critic_rate, gradients, names)
    }

    /// Drops bad completions of the mini-batch that the policy has moved away from in the updates before.
    fn drop_left_behind(&self, session: &Session<M>, rows: &Rows<'_>, credited: &mut Credited) {
        let Some(threshold) = self.algorithm.filters.off_policy_threshold else { return };
        let model = session.model.valid();
        let micro_batches = rows.micro_batches(|row| credited.weights[row] > 0.0);
        for batch in micro_batches {
            let logprobs = model.score(&batch.packed, &batch.distribution);
            let [_, t] = logprobs.dims();
            let now: Vec<f32> = logprobs.into_data().try_into_vec_as().expect("numbers of a float tensor");
            for (row, now) in batch.rows.iter().map(|row| row.number).zip(now.chunks_exact(t.max(1))) {
                let counted = credited.mask[row].iter().enumerate().filter(|(_, counts)| **counts);
                let ratios = counted.map(|(token, _)| now[token] - credited.old_logprobs[row][token]);
                let ratios: Vec<f32> = ratios.collect();
                let advantages = credited.advantages[row].iter().zip(&credited.mask[row]);
                let advantage = advantages.filter(|(_, counts)| **counts).map(|(a, _)| a).sum::<f32>();
                if !filter::keeps_on_policy(advantage, &ratios, threshold) {
                    credited.left_behind[row] = true;
                    credited.weights[row] = 0.0;
                }
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
