//! Learning from comparisons: DPO and its kin.

mod config;
mod pair;
mod reference;

use std::{collections::BTreeSet, time::Instant};

use burn::{
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{Device, Tensor},
};
use kyoka_algorithms::preference::{Pairs, PreferenceConfig, PreferenceLoss, reward_metrics};
use kyoka_core::{Metrics, Task};
use kyoka_data::{PreferenceRow, Shuffled};

pub use self::config::PreferenceStageConfig;
pub(crate) use self::pair::{Comparison, micro_batches, numbers, pair_groups, sides, vector};
use self::{
    pair::score_mismatched,
    reference::{ReferenceLogprobs, ReferenceTable, reference_logprobs},
};
use crate::{
    AdamWConfig, LearningRate, Pass, PassKind, PhaseSeconds, SettingError, Stage, StageKind, StepReport,
    TrainError, TrainState, TrainableLm, averaged,
};

/// Trains the policy on pairs of a preferred and a rejected completion.
pub struct PreferenceStage<'a> {
    name: String,
    config: &'a PreferenceStageConfig,
    algorithm: PreferenceConfig,
    loss: PreferenceLoss,
    task: &'a dyn Task,
    rows: &'a [PreferenceRow],
    order: Shuffled,
    /// What the reference thinks, where it stays as it is.
    table: ReferenceTable,
}

impl<'a> PreferenceStage<'a> {
    /// A stage called `name` over `rows`, in an order that `seed` decides.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub fn new(
        name: &str,
        config: &'a PreferenceStageConfig,
        task: &'a dyn Task,
        rows: &'a [PreferenceRow],
        seed: u64,
    ) -> Result<Self, TrainError> {
        config.check(name)?;
        let algorithm = config.algorithm.resolve();
        let loss = config.algorithm.build().map_err(SettingError::algorithm(name))?;
        let order = Shuffled::new(rows.len(), seed);
        let (name, table) = (name.to_owned(), ReferenceTable::default());
        Ok(Self { name, config, algorithm, loss, task, rows, order, table })
    }

    fn comparison(&self, row: usize) -> Result<Comparison, TrainError> {
        Comparison::new(self.task, self.rows, row, self.loss.needs_mismatched())
    }

    /// Whether the reference's log-probabilities are computed once.
    fn is_frozen(&self) -> bool {
        self.algorithm.needs_reference() && self.config.reference_every == 0
    }

    /// Fills the table before the first step: the policy still is the reference.
    fn remember_reference<M: TrainableLm>(&mut self, state: &TrainState<M>) -> Result<(), TrainError> {
        if !self.is_frozen() || !self.table.is_empty() {
            return Ok(());
        }
        if state.progress.step > 0 {
            let reason = "expected stage.json with the reference's log-probabilities, got none".to_owned();
            return Err(TrainError::Checkpoint { path: self.name.clone().into(), reason });
        }
        let visits = (self.config.steps * self.config.batch_size).min(self.rows.len()) as u64;
        // A first epoch visits every row once, so the first rows of the order are all that are ever visited.
        let visited: BTreeSet<usize> = (0..visits).map(|position| self.order.row(position)).collect();
        let rows: Vec<usize> = visited.into_iter().collect();
        let budget = self.config.tokens_per_micro_batch;
        let model = state.model.valid();
        self.table = ReferenceTable::compute(&model, &rows, budget, |row| self.comparison(row))?;
        Ok(())
    }

    /// The reference's log-probabilities of a batch.
    ///
    /// # Errors
    /// If the loss reads them and the table of a resumed run does not hold a row: it was made of other rows.
    fn reference<M: TrainableLm>(
        &self,
        state: &TrainState<M>,
        rows: &[usize],
        batch: &[Comparison],
    ) -> Result<Vec<ReferenceLogprobs>, TrainError> {
        if let Some(reference) = &state.reference {
            return Ok(reference_logprobs(reference, batch, self.config.tokens_per_micro_batch));
        }
        if !self.algorithm.needs_reference() {
            let unread = ReferenceLogprobs { chosen: 0.0, rejected: 0.0, mismatched: None };
            return Ok(vec![unread; rows.len()]);
        }
        let known = |&row: &usize| {
            self.table.get(row).ok_or_else(|| {
                let reason = "expected the reference's log-probabilities of this pair, got none: the run was begun with fewer steps, and the policy that it began from is gone";
                TrainError::row(&self.rows[row].sample)(reason.into())
            })
        };
        rows.iter().map(known).collect()
    }

    /// The loss with the state of the run in it.
    fn loss_now<M: TrainableLm>(&self, state: &TrainState<M>) -> PreferenceLoss {
        let mut loss = self.loss;
        if let (PreferenceLoss::Mpo(mpo), Some(shift)) = (&mut loss, state.progress.coefs.reward_shift) {
            mpo.reward_shift = shift;
        }
        loss
    }
}

/// What a batch gave.
struct Scores {
    loss: f64,
    gradients: GradientsParams,
    chosen_logprobs: Vec<f32>,
    rejected_logprobs: Vec<f32>,
    /// Implicit rewards of both sides, as the loss compares them.
    chosen_rewards: Vec<f64>,
    rejected_rewards: Vec<f64>,
    /// KTO's reference point.
    reference_point: Option<f64>,
}

/// A batch with what the reference thinks of it.
struct Batch<'a> {
    pairs: &'a [Comparison],
    reference: &'a [ReferenceLogprobs],
    token_budget: usize,
    /// Whether layers are recomputed in the backward pass.
    recompute: bool,
}

impl Batch<'_> {
    /// `log p / p_ref` of the mismatched completions, without gradient.
    fn mismatched_log_ratios<M: TrainableLm>(&self, model: &M) -> Vec<f32> {
        let mut ratios = Vec::new();
        for places in micro_batches(self.pairs, self.token_budget) {
            let reference = places.iter().filter_map(|&place| self.reference[place].mismatched);
            let policy = score_mismatched(model, self.pairs, &places);
            ratios.extend(policy.into_iter().zip(reference).map(|(policy, reference)| policy - reference));
        }
        ratios
    }

    fn pairs(&self, device: &Device, places: &[usize], logprobs: [Tensor<1>; 2]) -> Pairs {
        let [chosen_logprobs, rejected_logprobs] = logprobs;
        let of = |value: &dyn Fn(usize) -> f32| vector(device, places, value);
        Pairs {
            chosen_logprobs,
            rejected_logprobs,
            reference_chosen: of(&|place| self.reference[place].chosen),
            reference_rejected: of(&|place| self.reference[place].rejected),
            chosen_lengths: of(&|place| self.pairs[place].chosen.len() as f32),
            rejected_lengths: of(&|place| self.pairs[place].rejected.len() as f32),
        }
    }

    /// The mean loss over the batch, its gradients, and what there is to log.
    fn evaluate<M: TrainableLm>(&self, model: &M, loss: PreferenceLoss) -> Scores {
        let mut accumulator = GradientsAccumulator::new();
        let mut scores = Scores {
            loss: 0.0,
            gradients: GradientsParams::new(),
            chosen_logprobs: Vec::new(),
            rejected_logprobs: Vec::new(),
            chosen_rewards: Vec::new(),
            rejected_rewards: Vec::new(),
            reference_point: None,
        };
        let device = model.device().without_autodiff();
        let mismatched = match loss.needs_mismatched() {
            true => self.mismatched_log_ratios(&model.valid()),
            false => Vec::new(),
        };
        let all: Vec<usize> = (0..mismatched.len()).collect();
        let mismatched = vector(&device, &all, |place| mismatched[place]);
        if let PreferenceLoss::Kto(kto) = loss {
            let point = kto.reference_point(mismatched.clone());
            scores.reference_point = Some(f64::from(point.into_scalar::<f32>()));
        }
        for places in micro_batches(self.pairs, self.token_budget) {
            let groups = pair_groups(self.pairs, &places);
            let pass =
                Pass::new(model, &groups, PassKind { recompute: self.recompute, ..PassKind::default() });
            let (chosen, rejected) = sides(pass.logprobs.clone().sum_dim(1));
            scores.chosen_logprobs.extend(numbers(chosen.clone()));
            scores.rejected_logprobs.extend(numbers(rejected.clone()));
            let pairs = self.pairs(&device, &places, [chosen, rejected]);
            let (chosen, rejected) = loss.rewards(&pairs);
            scores.chosen_rewards.extend(numbers(chosen).into_iter().map(f64::from));
            scores.rejected_rewards.extend(numbers(rejected).into_iter().map(f64::from));
            let total = loss.evaluate(pairs, mismatched.clone()).sum() * (1.0 / self.pairs.len() as f64);
            scores.loss += f64::from(total.clone().into_scalar::<f32>());
            pass.accumulate(total.backward(), (model, &mut accumulator));
        }
        scores.gradients = accumulator.grads();
        scores
    }
}

impl Scores {
    fn report(&self, metrics: &mut Metrics) {
        let mean = |values: &[f32]| {
            values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len().max(1) as f64
        };
        let (accuracy, margin) = reward_metrics(&self.chosen_rewards, &self.rejected_rewards);
        metrics.set("loss", self.loss);
        metrics.set("preference/accuracy", accuracy);
        metrics.set("preference/margin", margin);
        metrics.set("logprob/chosen", mean(&self.chosen_logprobs));
        metrics.set("logprob/rejected", mean(&self.rejected_logprobs));
        if let Some(point) = self.reference_point {
            metrics.set("preference/reference_point", point);
        }
    }
}

impl<M: TrainableLm> Stage<M> for PreferenceStage<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> StageKind {
        StageKind::Preference
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
        self.config.reference_every > 0
    }

    fn state(&self) -> Option<Vec<u8>> {
        (!self.table.is_empty()).then(|| self.table.state())
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), String> {
        self.table = ReferenceTable::from_state(state)?;
        Ok(())
    }

    fn step(&mut self, state: &mut TrainState<M>) -> Result<StepReport, TrainError> {
        let started = Instant::now();
        let (step, position) = (state.progress.step, state.progress.position);
        self.remember_reference(state)?;
        let rows: Vec<usize> =
            (0..self.config.batch_size as u64).map(|slot| self.order.row(position + slot)).collect();
        let pairs = rows.iter().map(|&row| self.comparison(row)).collect::<Result<Vec<_>, _>>()?;
        let reference = self.reference(state, &rows, &pairs)?;
        let names =
            || rows.iter().map(|&row| self.rows[row].sample.id.as_str()).collect::<Vec<_>>().join(" ");
        let token_budget = self.config.tokens_per_micro_batch;
        let recompute = state.gradient_checkpointing;
        let batch = Batch { pairs: &pairs, reference: &reference, token_budget, recompute };
        let loss = self.loss_now(state);
        let scores = batch.evaluate(&state.model, loss);
        if !scores.loss.is_finite() {
            return Err(state.not_finite(&self.name, "loss", names()));
        }
        let mut metrics = Metrics::default();
        scores.report(&mut metrics);
        if let PreferenceLoss::Mpo(mpo) = loss {
            let rewards = scores.chosen_rewards.iter().chain(&scores.rejected_rewards);
            let ratios: Vec<f64> = rewards.map(|reward| reward / mpo.beta).collect();
            state.progress.coefs.reward_shift = Some(mpo.next_reward_shift(&ratios));
        }
        let learning_rate = self.config.learning_rate.at(step, self.config.steps);
        let norm = state.update(&self.name, learning_rate, scores.gradients, &names)?;
        state.progress.position += rows.len() as u64;
        if self.config.reference_every > 0
            && (step + 1).is_multiple_of(self.config.reference_every)
            && let Some(reference) = state.reference.take()
        {
            let moved = averaged(reference, &state.model.valid(), self.config.reference_decay);
            state.reference = Some(moved);
        }
        metrics.set("grad_norm", norm);
        metrics.set("learning_rate", learning_rate);
        metrics.set("tokens", pairs.iter().map(Comparison::num_tokens).sum::<usize>() as f64);
        let seconds = PhaseSeconds { train: started.elapsed().as_secs_f64(), ..PhaseSeconds::default() };
        let total_steps = self.config.steps;
        let warning = if step == 0 { self.config.learning_rate.warning(total_steps) } else { None };
        let (stage, step) = (self.name.clone(), step + 1);
        Ok(StepReport { stage, step, total_steps, metrics, seconds, samples: Vec::new(), warning })
    }
}
