//! Learning from single completions that people took or did not take: KTO and BCO.

use std::time::Instant;

use burn::{
    optim::GradientsAccumulator,
    tensor::{Bool, Device, Tensor, TensorData},
};
use kyoka_algorithms::preference::{UnpairedConfig, UnpairedLoss};
use kyoka_core::{CausalLm, Distribution, Metrics, PackedGroup, Prompt, Sample, Task};
use kyoka_data::Shuffled;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    AdamWConfig, LearningRate, PackItem, Pass, PassKind, PhaseSeconds, SettingError, Stage, StageKind,
    StepReport, TrainError, TrainState, TrainableLm,
    name_or_table::name_or_table,
    plan_micro_batches,
    preference::{numbers, vector},
    range::at_least_1,
    sft::default_budget,
};

/// Settings of the stage.
///
/// Media are not changed at random here: policy and reference must see the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnpairedStageConfig {
    /// Name of the split with a `completion` and a `label` (true or false) a row.
    pub data: String,
    /// Optimizer steps.
    pub steps: usize,
    /// Completions a step; at least 1, and at least 2 for KTO, which compares within the batch.
    pub batch_size: usize,
    /// A loss by name (`"kto"`, `"bco"`), or a table of a `loss` and its settings.
    #[serde(default, deserialize_with = "named_or_table")]
    pub algorithm: UnpairedConfig,
    /// Learning rate.
    pub learning_rate: LearningRate,
    /// Optimizer.
    #[serde(default)]
    pub optimizer: AdamWConfig,
    /// Most tokens a micro-batch, at least 1. Default 8192.
    #[serde(default = "default_budget")]
    pub tokens_per_micro_batch: usize,
    /// Steps between evaluations; 0 evaluates at the end only.
    #[serde(default)]
    pub eval_every: usize,
}

/// `"kto"`, or `{ loss = "kto", beta = 0.3 }`.
fn named_or_table<'de, D: Deserializer<'de>>(deserializer: D) -> Result<UnpairedConfig, D::Error> {
    name_or_table(deserializer, |loss| UnpairedConfig { loss: Some(loss), ..UnpairedConfig::default() })
}

impl UnpairedStageConfig {
    /// Checks the ranges; `stage` is the stage's name in the recipe.
    ///
    /// # Errors
    /// Names the setting, its range and the value.
    pub fn check(&self, stage: &str) -> Result<(), SettingError> {
        let counts =
            [("batch_size", self.batch_size), ("tokens_per_micro_batch", self.tokens_per_micro_batch)];
        at_least_1(stage, &counts)?;
        self.learning_rate.check(&format!("{stage}.learning_rate"))?;
        self.optimizer.check(&format!("{stage}.optimizer"))?;
        self.algorithm.check().map_err(SettingError::algorithm(stage))
    }
}

/// Trains the policy on completions with a label each; the reference is the policy at the start of the stage.
///
/// KTO's reference point is taken within the batch: each completion is followed by the next one of the batch with another text
/// that is not its own, its media left at the prompt. It has no gradient and is never below 0.
pub struct UnpairedStage<'a> {
    name: String,
    config: &'a UnpairedStageConfig,
    loss: UnpairedLoss,
    task: &'a dyn Task,
    rows: &'a [Sample],
    order: Shuffled,
}

impl<'a> UnpairedStage<'a> {
    /// A stage called `name` over `rows`, in an order that `seed` decides.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub fn new(
        name: &str,
        config: &'a UnpairedStageConfig,
        task: &'a dyn Task,
        rows: &'a [Sample],
        seed: u64,
    ) -> Result<Self, TrainError> {
        config.check(name)?;
        let words = rows.iter().filter_map(|row| row.completion.as_ref());
        let most_words = words.map(|text| text.split_whitespace().count()).max().unwrap_or(0);
        let loss = config.algorithm.build(most_words);
        if loss.needs_mismatched() && config.batch_size < 2 {
            let key = format!("{name}.batch_size");
            return Err(SettingError::range(key, "at least 2 for KTO", config.batch_size).into());
        }
        let order = Shuffled::new(rows.len(), seed);
        Ok(Self { name: name.to_owned(), config, loss, task, rows, order })
    }

    /// The completions of a batch; one without a label is an error of its row.
    fn batch(&self, position: u64) -> Result<Vec<Judged<'a>>, TrainError> {
        let rows = (0..self.config.batch_size as u64).map(|slot| &self.rows[self.order.row(position + slot)]);
        let judged = |row: &'a Sample| -> Result<Judged<'a>, TrainError> {
            let unfit = TrainError::row(row);
            let desirable =
                row.label.ok_or_else(|| unfit("expected a label, true or false, got none".into()))?;
            let prompt = self.task.prompt(row, None).map_err(&unfit)?;
            let completion = self.task.target(row).map_err(&unfit)?;
            Ok(Judged { row, prompt, completion, desirable, mismatched: None })
        };
        let mut batch = rows.map(judged).collect::<Result<Vec<_>, _>>()?;
        if self.loss.needs_mismatched() {
            let texts: Vec<Vec<u32>> = batch.iter().map(|one| one.completion.clone()).collect();
            for (place, one) in batch.iter_mut().enumerate() {
                one.mismatched = mismatched(&texts, place).map(|other| texts[other].clone());
            }
        }
        Ok(batch)
    }
}

/// Place of the next completion of a batch with another text, the first one behind the last.
fn mismatched(texts: &[Vec<u32>], place: usize) -> Option<usize> {
    let behind = (1..texts.len()).map(|away| (place + away) % texts.len());
    behind.into_iter().find(|&other| texts[other] != texts[place])
}

/// A completion with its label.
struct Judged<'a> {
    row: &'a Sample,
    prompt: Prompt,
    completion: Vec<u32>,
    desirable: bool,
    /// The completion of another row, after this row's prompt.
    mismatched: Option<Vec<u32>>,
}

/// Places of a batch as micro-batches of completions alone.
fn micro_batches(batch: &[(&Prompt, &[u32])], budget: usize) -> Vec<Vec<usize>> {
    let item = |(prompt, completion): &(&Prompt, &[u32])| PackItem {
        prompt_len: prompt.len(),
        completion_lens: vec![completion.len()],
    };
    let items: Vec<PackItem> = batch.iter().map(item).collect();
    let planned = plan_micro_batches(&items, budget).into_iter();
    planned.map(|batch| batch.into_iter().map(|(place, _)| place).collect()).collect()
}

fn groups<'b>(batch: &[(&'b Prompt, &'b [u32])], places: &[usize]) -> Vec<PackedGroup<'b>> {
    let group = |&place: &usize| {
        let (prompt, completion) = batch[place];
        PackedGroup { prompt, completions: vec![completion.into()] }
    };
    places.iter().map(group).collect()
}

/// Log-probabilities of completions, without gradient.
fn logprobs<M: CausalLm>(model: &M, batch: &[(&Prompt, &[u32])], budget: usize) -> Vec<f32> {
    let mut all = vec![0.0; batch.len()];
    for places in micro_batches(batch, budget) {
        let groups = groups(batch, &places);
        let sums = model.score(&groups, &Distribution::default()).sum_dim(1).reshape([groups.len()]);
        for (place, sum) in places.into_iter().zip(numbers(sums)) {
            all[place] = sum;
        }
    }
    all
}

fn labels(device: &Device, places: &[usize], batch: &[Judged<'_>]) -> Tensor<1, Bool> {
    let labels: Vec<bool> = places.iter().map(|&place| batch[place].desirable).collect();
    Tensor::from_data(TensorData::new(labels, [places.len()]), device)
}

impl<M: TrainableLm> Stage<M> for UnpairedStage<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> StageKind {
        StageKind::UnpairedPreference
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
        true
    }

    fn step(&mut self, state: &mut TrainState<M>) -> Result<StepReport, TrainError> {
        let started = Instant::now();
        let (step, budget) = (state.progress.step, self.config.tokens_per_micro_batch);
        let batch = self.batch(state.progress.position)?;
        let mut loss = self.loss;
        if let (UnpairedLoss::Bco(bco), Some(shift)) = (&mut loss, state.progress.coefs.reward_shift) {
            bco.reward_shift = shift;
        }
        let own: Vec<(&Prompt, &[u32])> =
            batch.iter().map(|one| (&one.prompt, one.completion.as_slice())).collect();
        let others: Vec<(&Prompt, &[u32])> =
            batch.iter().filter_map(|one| Some((&one.prompt, one.mismatched.as_deref()?))).collect();
        let reference = state.reference.as_ref().expect("the stage asked for a reference");
        let reference_own = logprobs(reference, &own, budget);
        let device = state.model.device().without_autodiff();
        let mismatched: Vec<f32> = match others.is_empty() {
            true => Vec::new(),
            false => {
                let policy = logprobs(&state.model.valid(), &others, budget);
                let reference = logprobs(reference, &others, budget);
                policy.into_iter().zip(reference).map(|(policy, reference)| policy - reference).collect()
            }
        };
        let all: Vec<usize> = (0..mismatched.len()).collect();
        let mismatched = vector(&device, &all, |place| mismatched[place]);
        let mut accumulator = GradientsAccumulator::new();
        let (mut total, mut log_ratios) = (0.0, vec![0.0_f64; batch.len()]);
        for places in micro_batches(&own, budget) {
            let groups = groups(&own, &places);
            let recompute = state.gradient_checkpointing;
            let pass = Pass::new(&state.model, &groups, PassKind { recompute, ..PassKind::default() });
            let sums = pass.logprobs.clone().sum_dim(1).reshape([groups.len()]);
            let ratios = sums - vector(&device, &places, |place| reference_own[place]);
            for (&place, ratio) in places.iter().zip(numbers(ratios.clone())) {
                log_ratios[place] = f64::from(ratio);
            }
            let losses = loss.evaluate(ratios, labels(&device, &places, &batch), mismatched.clone());
            let mean = losses.sum() * (1.0 / batch.len() as f64);
            total += f64::from(mean.clone().into_scalar::<f32>());
            pass.accumulate(mean.backward(), (&state.model, &mut accumulator));
        }
        let names = || batch.iter().map(|one| one.row.id.as_str()).collect::<Vec<_>>().join(" ");
        if !total.is_finite() {
            return Err(state.not_finite(&self.name, "loss", names()));
        }
        let mut metrics = Metrics::default();
        metrics.set("loss", total);
        report(&mut metrics, (&batch, &log_ratios), loss, mismatched);
        if let UnpairedLoss::Bco(bco) = loss {
            let coefs = &mut state.progress.coefs;
            let (shift, count) = bco.next_reward_shift(coefs.reward_count.unwrap_or(0), &log_ratios);
            (coefs.reward_shift, coefs.reward_count) = (Some(shift), Some(count));
        }
        let learning_rate = self.config.learning_rate.at(step, self.config.steps);
        let norm = state.update(&self.name, learning_rate, accumulator.grads(), &names)?;
        state.progress.position += batch.len() as u64;
        metrics.set("grad_norm", norm);
        metrics.set("learning_rate", learning_rate);
        metrics.set("tokens", batch.iter().map(|one| one.completion.len()).sum::<usize>() as f64);
        let (stage, total_steps) = (self.name.clone(), self.config.steps);
        let alone = loss.needs_mismatched() && others.is_empty();
        let alone = alone.then(|| {
            "all completions of the batch say the same: KTO has nothing to compare with (loss = \"bco\" needs none)".to_owned()
        });
        Ok(StepReport {
            stage,
            step: step + 1,
            total_steps,
            metrics,
            seconds: PhaseSeconds { train: started.elapsed().as_secs_f64(), ..PhaseSeconds::default() },
            samples: Vec::new(),
            warning: alone.or_else(|| self.config.learning_rate.warning(total_steps).filter(|_| step == 0)),
        })
    }
}

/// Rewards of both kinds of completions, and what they are compared with.
fn report(
    metrics: &mut Metrics,
    (batch, log_ratios): (&[Judged<'_>], &[f64]),
    loss: UnpairedLoss,
    mismatched: Tensor<1>,
) {
    let beta = loss.beta();
    let mean = |desirable: bool| {
        let of = batch.iter().zip(log_ratios).filter(|(one, _)| one.desirable == desirable);
        let rewards: Vec<f64> = of.map(|(_, ratio)| beta * ratio).collect();
        (!rewards.is_empty()).then(|| rewards.iter().sum::<f64>() / rewards.len() as f64)
    };
    let means = [("preference/desirable", mean(true)), ("preference/undesirable", mean(false))];
    for (name, value) in means {
        if let Some(value) = value {
            metrics.set(name, value);
        }
    }
    if let [(_, Some(good)), (_, Some(bad))] = means {
        metrics.set("preference/margin", good - bad);
    }
    match loss {
        UnpairedLoss::Kto(kto) => {
            let point: f32 = kto.reference_point(mismatched).into_scalar();
            metrics.set("preference/reference_point", f64::from(point));
        }
        UnpairedLoss::Bco(bco) => metrics.set("preference/reward_shift", bco.reward_shift),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_belong_to_the_prompt_has_another_text() {
        let texts = [vec![1, 2], vec![1, 2], vec![3], vec![1, 2]];
        let other = |place| mismatched(&texts, place);
        assert_eq!([other(0), other(1), other(2), other(3)], [Some(2), Some(2), Some(3), Some(2)]);
        assert_eq!(mismatched(&texts[..2], 0), None, "all say the same");
        assert_eq!(mismatched(&texts[..1], 0), None);
    }

    #[test]
    fn an_algorithm_is_a_name_or_a_table() {
        let read = |algorithm: &str| -> Result<UnpairedStageConfig, toml::de::Error> {
            toml::from_str(&format!(
                "data = 'a'\nsteps = 1\nbatch_size = 2\nlearning_rate = {{ peak = 1e-3 }}\nalgorithm = {algorithm}"
            ))
        };
        use kyoka_algorithms::preference::UnpairedKind;
        assert_eq!(read("'bco'").unwrap().algorithm.loss, Some(UnpairedKind::Bco));
        let table = read("{ loss = 'kto', beta = 0.3 }").unwrap().algorithm;
        assert_eq!((table.loss, table.beta), (Some(UnpairedKind::Kto), 0.3));
        assert!(read("'dpo'").is_err());
    }
}
