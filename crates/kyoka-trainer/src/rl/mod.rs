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
mod stats;
mod token_distribution;

use std::{sync::atomic::AtomicBool, time::Instant};

use kyoka_algorithms::{Algorithm, CriticKind, explained_variance, filter};
use kyoka_core::{Metrics, PolicyLossError, RewardFn, RolloutEngine, Sample, Task};
use kyoka_data::Shuffled;

pub use self::config::RlConfig;
use self::{
    batch::{Rows, Scoring},
    credit::StepState,
    credited::Credited,
    gather::Gatherer,
    groups::JudgedGroup,
    idle::idle_reason,
    loss::{Objective, critic_gradients},
    replay::{Replay, Replayed},
    stats::UpdateStats,
};
use crate::{
    AdamWConfig, EpisodeRules, LearningRate, PhaseSeconds, Progress, SampleRecord, SettingError, Stage,
    StageKind, StepReport, TrainError, TrainState, TrainableLm, averaged, state::ScalarHead,
};

/// What the stage is put together of.
pub struct RlParts<'a, M> {
    /// How completions become credit and credit becomes a loss: [`RlConfig::algorithm`] built, or an own one.
    pub algorithm: Algorithm,
    /// Rows to prompts.
    pub task: &'a dyn Task,
    /// Judges completions.
    pub reward: &'a dyn RewardFn,
    /// Draws them.
    pub engine: &'a dyn RolloutEngine<M>,
    /// What answers the policy between its turns; `None` where a completion is one turn.
    pub episodes: Option<EpisodeRules<'a>>,
    /// The rows.
    pub samples: &'a [Sample],
}

/// The stage: policy, rewards and algorithm meet here.
pub struct RlStage<'a, M> {
    config: &'a RlConfig,
    algorithm: Algorithm,
    replay: Option<Replay>,
    gatherer: Gatherer<'a, M>,
}

impl<'a, M: TrainableLm> RlStage<'a, M> {
    /// A stage called `name`, its rows in an order that `seed` decides.
    ///
    /// # Errors
    /// If the settings are out of range.
    pub fn new(
        name: &str,
        config: &'a RlConfig,
        parts: RlParts<'a, M>,
        seed: u64,
    ) -> Result<Self, TrainError> {
        config.check_ranges(name)?;
        let RlParts { algorithm, task, reward, engine, episodes, samples } = parts;
        if episodes.is_some() && algorithm.filters.replay.is_some() {
            let key = format!("{name}.algorithm.replay_share");
            let expected = "0 with an environment, whose answers are not kept";
            let got = algorithm.filters.replay.map_or(0.0, |replay| replay.share);
            return Err(SettingError::range(key, expected, got).into());
        }
        let order = Shuffled::new(samples.len(), seed);
        Ok(Self {
            config,
            replay: algorithm.filters.replay.map(Replay::new),
            algorithm,
            gatherer: Gatherer {
                stage: name.to_owned(),
                config,
                task,
                reward,
                engine,
                episodes,
                samples,
                order,
                ordinal: 0,
                interrupt: None,
            },
        })
    }

    /// The stage as one that follows `earlier` others of reinforcement learning: its rows come in another order and its
    /// completions are drawn apart. `seed` is that of [`new`](Self::new).
    pub fn behind(mut self, earlier: u64, seed: u64) -> Self {
        self.gatherer.ordinal = earlier;
        self.gatherer.order = Shuffled::new(self.gatherer.samples.len(), seed ^ earlier << 56);
        self
    }

    /// The stage as one that gives a step up before its next group is judged, once `stop` is set: judges may take long.
    pub fn interrupted_by(mut self, stop: &'a AtomicBool) -> Self {
        self.gatherer.interrupt = Some(stop);
        self
    }

    /// Steps that train a critic alone, before those of the policy.
    fn pretrain_steps(&self) -> usize {
        self.config.pretrain_steps()
    }
}

impl<M: TrainableLm> Stage<M> for RlStage<'_, M> {
    fn name(&self) -> &str {
        &self.gatherer.stage
    }

    fn kind(&self) -> StageKind {
        StageKind::Rl
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

    fn critic(&self) -> CriticKind {
        self.algorithm.critic.map_or(CriticKind::None, |critic| critic.kind)
    }

    fn step(&mut self, state: &mut TrainState<M>) -> Result<StepReport, TrainError> {
        let step = state.progress.step;
        let mut metrics = Metrics::default();
        let (mut groups, gathered) = self.gatherer.gather(&self.algorithm, state)?;
        gathered.report(&mut metrics);
        let started = Instant::now();
        let num_fresh = groups.len();
        let replayed = self.draw_replayed(state, &groups);
        for item in &replayed {
            let prompt = self.gatherer.prompt(item.row, &item.place)?;
            groups.push(item.group(&self.gatherer.samples[item.row], prompt));
        }
        let scoring = Scoring {
            token_budget: self.config.tokens_per_micro_batch,
            recompute: state.gradient_checkpointing,
            distribution: self.config.sampling.distribution(self.gatherer.engine.banned_ids()),
        };
        let rows = Rows::new(&groups, scoring);
        let fresh = &groups[..num_fresh];
        let pretraining = step < self.pretrain_steps();
        let credit = StepState {
            algorithm: &self.algorithm,
            state,
            fresh,
            replayed: &replayed,
            rows: &rows,
            max_new_tokens: self.config.sampling.max_new_tokens,
            sampled_entropy: gathered.entropy.value(),
            pretraining,
        };
        let credited = credit.credit(&mut metrics);
        let stage = || self.gatherer.stage.clone();
        let failed = |source| TrainError::Advantage { stage: stage(), step: step + 1, source };
        let mut credited = credited.map_err(failed)?;
        if let Some(replay) = &mut self.replay {
            replay.keep(fresh, &credited);
            metrics.set("replayed", replayed.len() as f64);
        }
        let trained_tokens = if pretraining { 0 } else { credited.trained_tokens(&self.algorithm) };
        metrics.set("trained_tokens", trained_tokens as f64);
        state.progress.trained_tokens += trained_tokens as u64;
        if !credited.values.is_empty() {
            let (values, targets) = (credited.values.concat(), credited.value_targets.concat());
            metrics.set("explained_variance", explained_variance(&values, &targets));
        }
        let names = || groups.iter().map(|group| group.sample.id.as_str()).collect::<Vec<_>>().join(" ");
        let num_rows = rows.iter().count();
        let parts =
            mini_batches::split(num_rows - replayed.len(), replayed.len(), self.algorithm.mini_batches);
        let plan = Plan { pretraining, parts: &parts, names: &names };
        let updates = self.updates(state, (&rows, &mut credited), &plan)?;
        updates.report(&mut metrics);
        if let Some(kl) = credited.kl {
            metrics.set("kl", kl);
        }
        let measured = Measured {
            kl: updates.kl.or(credited.kl),
            entropy: updates.entropy.unwrap_or(gathered.entropy.value()),
        };
        self.adapt(state, (num_rows, measured), &mut metrics);
        let train = started.elapsed().as_secs_f64();
        let samples = fresh
            .iter()
            .take(2)
            .map(|group| SampleRecord::new(group.sample, &group.completions[0], &group.rewards[0]));
        let idle = trained_tokens == 0 && !pretraining;
        let idle = idle.then(|| idle_reason(fresh, &credited, &self.algorithm));
        let warnings = [gathered.warning(), idle.or_else(|| self.schedule_warning(step))];
        let warnings: Vec<String> = warnings.into_iter().flatten().collect();
        Ok(StepReport {
            stage: stage(),
            step: step + 1,
            total_steps: self.config.total_steps(),
            metrics,
            seconds: PhaseSeconds { train, ..gathered.seconds },
            samples: samples.collect(),
            warning: (!warnings.is_empty()).then(|| warnings.join("; ")),
        })
    }
}

/// What coefficients are moved by.
#[derive(Clone, Copy)]
struct Measured {
    /// Divergence from the reference; none where no update was made.
    kl: Option<f64>,
    entropy: f64,
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
        state: &mut TrainState<M>,
        (rows, credited): (&Rows<'_>, &mut Credited),
        plan: &Plan<'_>,
    ) -> Result<UpdateStats, TrainError> {
        let critic = self.algorithm.critic.map_or(CriticKind::None, |critic| critic.kind);
        // The policy that sampled is the policy of the first update, but not that of replayed completions.
        let drifted = |number| number > 0 || self.replay.is_some();
        let parts = (0..self.algorithm.updates_per_batch).flat_map(|_| plan.parts);
        let mut all = Vec::new();
        for (number, part) in parts.enumerate() {
            credited.restrict(part, self.algorithm.reduction, self.config.sampling.max_new_tokens);
            if drifted(number) {
                self.drop_left_behind(state, rows, credited);
            }
            let (learning_rate, critic_rate) = self.rates(state.progress.step, number);
            let mut stats = UpdateStats {
                learning_rate: Some(learning_rate),
                critic_learning_rate: (critic != CriticKind::None).then_some(critic_rate),
                ..UpdateStats::default()
            };
            let update = Update { rows, credited, learning_rate, critic_rate, names: plan.names };
            let is_shared = critic == CriticKind::Shared;
            if critic == CriticKind::Separate || (is_shared && plan.pretraining) {
                self.update_critic(state, &update, &mut stats)?;
            }
            let trains = credited.trained_tokens(&self.algorithm) > 0;
            if !plan.pretraining && (trains || is_shared) {
                self.update_policy(state, &update, &mut stats)?;
            }
            all.push(stats);
        }
        if all.is_empty() {
            let learning_rate = Some(self.rates(state.progress.step, 0).0);
            all.push(UpdateStats { learning_rate, ..UpdateStats::default() });
        }
        Ok(UpdateStats::of_step(all))
    }

    /// Completions of earlier steps to train along.
    fn draw_replayed(&self, state: &TrainState<M>, fresh: &[JudgedGroup<'_>]) -> Vec<Replayed> {
        let Some(replay) = &self.replay else { return Vec::new() };
        let place = [state.progress.stage as u64, state.progress.step as u64];
        replay.draw(fresh.iter().map(|group| group.rollouts.len()).sum(), state.seed, &place)
    }

    fn update_policy(
        &self,
        state: &mut TrainState<M>,
        update: &Update<'_>,
        stats: &mut UpdateStats,
    ) -> Result<(), TrainError> {
        let Update { rows, credited, learning_rate, critic_rate, names } = *update;
        let critic = state.critic.as_ref().map(|head| &head.critic);
        let objective = Objective {
            model: &state.model,
            reference: state.reference.as_ref(),
            shared: critic.filter(|critic| critic.trunk.is_none()).zip(self.algorithm.critic),
            credited,
            algorithm: &self.algorithm,
        };
        let gradients = objective
            .gradients(rows, stats)
            .map_err(|source| self.loss_failed(state.progress.step, source))?;
        if !gradients.loss.is_finite() {
            return Err(state.not_finite(&self.gatherer.stage, "loss", names()));
        }
        stats.loss = Some(gradients.loss);
        let norm = state.update(&self.gatherer.stage, learning_rate, gradients.policy, names)?;
        stats.grad_norm = Some(norm);
        match gradients.head {
            Some(head) => {
                state.update_head(ScalarHead::Critic, (&self.gatherer.stage, critic_rate), head, names)
            }
            None => Ok(()),
        }
    }

    fn loss_failed(&self, step: usize, source: PolicyLossError) -> TrainError {
        let (stage, loss) = (self.gatherer.stage.clone(), self.algorithm.names.loss.clone());
        TrainError::PolicyLoss { stage, step: step + 1, loss, source }
    }

    fn update_critic(
        &self,
        state: &mut TrainState<M>,
        update: &Update<'_>,
        stats: &mut UpdateStats,
    ) -> Result<(), TrainError> {
        let Update { rows, credited, critic_rate, names, .. } = *update;
        let head = state.critic.as_ref().expect("the stage asked for a critic");
        let settings = self.algorithm.critic.expect("the stage asked for a critic");
        let models = (&head.critic, &state.model);
        let (loss, gradients) = critic_gradients(models, (rows, credited), settings);
        if !loss.is_finite() {
            return Err(state.not_finite(&self.gatherer.stage, "value loss", names()));
        }
        stats.value_loss = Some(loss);
        state.update_head(ScalarHead::Critic, (&self.gatherer.stage, critic_rate), gradients, names)
    }

    /// Drops bad completions of the mini-batch that the policy has moved away from in the updates before.
    fn drop_left_behind(&self, state: &TrainState<M>, rows: &Rows<'_>, credited: &mut Credited) {
        let Some(threshold) = self.algorithm.filters.off_policy_threshold else { return };
        let model = state.model.valid();
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
    fn adapt(
        &self,
        state: &mut TrainState<M>,
        (num_completions, measured): (usize, Measured),
        metrics: &mut Metrics,
    ) {
        let coefs = &mut state.progress.coefs;
        if let Some((kl, controller)) = self.algorithm.kl.and_then(|kl| Some((kl, kl.adaptive?))) {
            let now = coefs.kl.unwrap_or(kl.kl_coef);
            let coef = controller.next(now, measured.kl.unwrap_or(f64::NAN), num_completions);
            coefs.kl = Some(coef);
            metrics.set("kl_coef", coef);
        }
        if let Some(bonus) = self.algorithm.entropy.filter(|bonus| bonus.target.is_some()) {
            let coef = bonus.next_coef(coefs.entropy.unwrap_or(bonus.coef), measured.entropy);
            coefs.entropy = Some(coef);
            metrics.set("entropy_coef", bonus.weight(coef, measured.entropy));
        }
        let Some(refresh) = self.algorithm.reference_refresh else { return };
        if (state.progress.step + 1).is_multiple_of(refresh.every)
            && let Some(reference) = state.reference.take()
        {
            state.reference = Some(averaged(reference, &state.model.valid(), refresh.decay));
        }
    }
}
