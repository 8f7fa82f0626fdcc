//! Supervised fine-tuning on worked completions.

use std::time::Instant;

use burn::optim::{GradientsAccumulator, GradientsParams};
use kyoka_core::{Metrics, PackedGroup, Prompt, Sample, Task};
use kyoka_data::Shuffled;
use serde::{Deserialize, Serialize};

use crate::{
    AdamWConfig, LearningRate, PackItem, Pass, PassKind, PhaseSeconds, SettingError, Stage, StageKind,
    StepReport, TrainError, TrainState, TrainableLm, plan_micro_batches, range::at_least_1,
};

/// Settings of the stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SftConfig {
    /// Name of the split with worked completions.
    pub data: String,
    /// Optimizer steps.
    pub steps: usize,
    /// Rows a step; at least 1.
    pub batch_size: usize,
    /// Learning rate.
    pub learning_rate: LearningRate,
    /// Optimizer.
    #[serde(default)]
    pub optimizer: AdamWConfig,
    /// Random changes of pictures and sounds. Default true.
    #[serde(default = "yes")]
    pub augment: bool,
    /// Most tokens a micro-batch; at least 1. Default 8192.
    #[serde(default = "default_budget")]
    pub tokens_per_micro_batch: usize,
    /// Steps between evaluations; 0 evaluates at the end only.
    #[serde(default)]
    pub eval_every: usize,
}

fn yes() -> bool {
    true
}

pub(crate) fn default_budget() -> usize {
    8192
}

impl SftConfig {
    /// 100 steps of 8 rows of `data`, and the defaults of all else.
    pub fn new(data: &str, learning_rate: LearningRate) -> Self {
        Self {
            data: data.to_owned(),
            steps: 100,
            batch_size: 8,
            learning_rate,
            optimizer: AdamWConfig::default(),
            augment: true,
            tokens_per_micro_batch: default_budget(),
            eval_every: 0,
        }
    }

    /// Checks the ranges; `stage` is the stage's name in the recipe.
    ///
    /// # Errors
    /// Names the setting, its range and the value.
    pub fn check(&self, stage: &str) -> Result<(), SettingError> {
        let counts =
            [("batch_size", self.batch_size), ("tokens_per_micro_batch", self.tokens_per_micro_batch)];
        at_least_1(stage, &counts)?;
        self.learning_rate.check(&format!("{stage}.learning_rate"))?;
        self.optimizer.check(&format!("{stage}.optimizer"))
    }
}

/// Maximises the log-probability of worked completions, every token of the batch counting the same.
pub struct SftStage<'a> {
    name: String,
    config: &'a SftConfig,
    task: &'a dyn Task,
    samples: &'a [Sample],
    order: Shuffled,
}

impl<'a> SftStage<'a> {
    /// A stage called `name` over `samples`, in an order that `seed` decides.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub fn new(
        name: &str,
        config: &'a SftConfig,
        task: &'a dyn Task,
        samples: &'a [Sample],
        seed: u64,
    ) -> Result<Self, TrainError> {
        config.check(name)?;
        Ok(Self { name: name.to_owned(), config, task, samples, order: Shuffled::new(samples.len(), seed) })
    }
}

impl<M: TrainableLm> Stage<M> for SftStage<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> StageKind {
        StageKind::Sft
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

    fn step(&mut self, state: &mut TrainState<M>) -> Result<StepReport, TrainError> {
        let started = Instant::now();
        let step = state.progress.step;
        let rows: Vec<&Sample> = (0..self.config.batch_size as u64)
            .map(|slot| &self.samples[self.order.row(state.progress.position + slot)])
            .collect();
        let mut batch: Vec<(Prompt, Vec<u32>)> = Vec::with_capacity(rows.len());
        for (slot, sample) in rows.iter().enumerate() {
            let place = [0, state.progress.stage as u64, step as u64, slot as u64];
            let prompt = self.task.prompt(sample, self.config.augment.then_some(&place));
            let prompt = prompt.map_err(TrainError::row(sample))?;
            let target = self.task.target(sample).map_err(TrainError::row(sample))?;
            batch.push((prompt, target));
        }
        let row_names = || rows.iter().map(|sample| sample.id.as_str()).collect::<Vec<_>>().join(" ");
        let recompute = state.gradient_checkpointing;
        let (loss, gradients, num_tokens) =
            nll_gradients(&state.model, &batch, (self.config.tokens_per_micro_batch, recompute));
        if !loss.is_finite() {
            return Err(state.not_finite(&self.name, "loss", row_names()));
        }
        let learning_rate = self.config.learning_rate.at(step, self.config.steps);
        let norm = state.update(&self.name, learning_rate, gradients, &row_names)?;
        state.progress.position += rows.len() as u64;
        let mut metrics = Metrics::default();
        metrics.set("loss", loss);
        metrics.set("grad_norm", norm);
        metrics.set("learning_rate", learning_rate);
        metrics.set("tokens", num_tokens as f64);
        Ok(StepReport {
            stage: self.name.clone(),
            step: step + 1,
            total_steps: self.config.steps,
            metrics,
            seconds: PhaseSeconds { train: started.elapsed().as_secs_f64(), ..PhaseSeconds::default() },
            samples: Vec::new(),
            warning: if step == 0 { self.config.learning_rate.warning(self.config.steps) } else { None },
        })
    }
}

/// Mean negative log-likelihood over the tokens of the batch, its gradients, and the number of tokens.
pub(crate) fn nll_gradients<M: TrainableLm>(
    model: &M,
    batch: &[(Prompt, Vec<u32>)],
    (token_budget, recompute): (usize, bool),
) -> (f64, GradientsParams, usize) {
    let items: Vec<PackItem> = batch
        .iter()
        .map(|(prompt, target)| PackItem { prompt_len: prompt.len(), completion_lens: vec![target.len()] })
        .collect();
    let num_tokens: usize = batch.iter().map(|(_, target)| target.len()).sum();
    let mut accumulator = GradientsAccumulator::new();
    let mut total = 0.0;
    for micro_batch in plan_micro_batches(&items, token_budget) {
        let groups: Vec<PackedGroup<'_>> = micro_batch
            .iter()
            .map(|&(item, _)| PackedGroup {
                prompt: &batch[item].0,
                completions: vec![(&batch[item].1).into()],
            })
            .collect();
        let pass = Pass::new(model, &groups, PassKind { recompute, ..PassKind::default() });
        let loss = pass.logprobs.clone().sum() * (-1.0 / num_tokens as f64);
        total += f64::from(loss.clone().into_scalar::<f32>());
        pass.accumulate(loss.backward(), (model, &mut accumulator));
    }
    (total, accumulator.grads(), num_tokens)
}
