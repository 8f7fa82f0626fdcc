//! A reward model from comparisons: a scalar head that reads a completion to its end (Bradley-Terry).

use std::time::Instant;

use burn::{
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{Tensor, TensorData},
};
use kyoka_algorithms::preference::BradleyTerry;
use kyoka_core::{Distribution, Metrics, PackedGroup, Prompt, Task};
use kyoka_data::{PreferenceRow, Shuffled};
use serde::{Deserialize, Serialize};

use crate::{
    AdamWConfig, Critic, LearningRate, Pass, PassKind, PhaseSeconds, SettingError, Stage, StageKind,
    StepReport, TrainError, TrainState, TrainableLm,
    preference::{Comparison, micro_batches, numbers, pair_groups, sides},
    range::{at_least_1, number},
    sft::default_budget,
    state::ScalarHead,
};

/// Settings of the stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardModelConfig {
    /// Name of the split with a `chosen` and a `rejected` completion a row.
    pub data: String,
    /// Optimizer steps.
    pub steps: usize,
    /// Pairs a step; at least 1.
    pub batch_size: usize,
    /// Weight of the term that pulls rewards to a mean of 0; at least 0. Default 0.01.
    #[serde(default = "hundredth")]
    pub center_coef: f64,
    /// Wanted lead of the preferred completion's reward (Llama 2, arXiv 2307.09288, equation 2); at least 0. Default 0.
    #[serde(default)]
    pub margin: f64,
    /// Learning rate.
    pub learning_rate: LearningRate,
    /// Optimizer.
    #[serde(default)]
    pub optimizer: AdamWConfig,
    /// Most tokens a micro-batch, at least 1; a pair is never split. Default 8192.
    #[serde(default = "default_budget")]
    pub tokens_per_micro_batch: usize,
    /// Steps between evaluations; 0 evaluates at the end only.
    #[serde(default)]
    pub eval_every: usize,
}

fn hundredth() -> f64 {
    0.01
}

impl RewardModelConfig {
    /// Checks the ranges; `stage` is the stage's name in the recipe.
    ///
    /// # Errors
    /// Names the setting, its range and the value.
    pub fn check(&self, stage: &str) -> Result<(), SettingError> {
        let counts =
            [("batch_size", self.batch_size), ("tokens_per_micro_batch", self.tokens_per_micro_batch)];
        at_least_1(stage, &counts)?;
        for (field, value) in [("center_coef", self.center_coef), ("margin", self.margin)] {
            let holds = value.is_finite() && value >= 0.0;
            number(stage, (field, value), holds, "a finite number of at least 0")?;
        }
        self.learning_rate.check(&format!("{stage}.learning_rate"))?;
        self.optimizer.check(&format!("{stage}.optimizer"))
    }
}

/// Trains a reward model that starts from the policy; the policy stays as it is.
///
/// The model lies in `reward_model.safetensors` of a checkpoint.
pub struct RewardModelStage<'a> {
    name: String,
    config: &'a RewardModelConfig,
    task: &'a dyn Task,
    rows: &'a [PreferenceRow],
    order: Shuffled,
}

impl<'a> RewardModelStage<'a> {
    /// A stage called `name` over `rows`, in an order that `seed` decides.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub fn new(
        name: &str,
        config: &'a RewardModelConfig,
        task: &'a dyn Task,
        rows: &'a [PreferenceRow],
        seed: u64,
    ) -> Result<Self, TrainError> {
        config.check(name)?;
        Ok(Self { name: name.to_owned(), config, task, rows, order: Shuffled::new(rows.len(), seed) })
    }
}

impl<M: TrainableLm> Critic<M> {
    /// What completions of a prompt are worth: the value when all but the end token has been read.
    ///
    /// # Panics
    /// If the critic has no trunk of its own, or a completion is empty.
    pub fn rewards(&self, prompt: &Prompt, completions: &[&[u32]]) -> Vec<f32> {
        let completions = completions.iter().map(|&ids| ids.into()).collect();
        let group = PackedGroup { prompt, completions };
        numbers(self.last_values(&[group]))
    }

    /// The value before the last token of every completion, `[R]`.
    fn last_values(&self, groups: &[PackedGroup<'_>]) -> Tensor<1> {
        let trunk = self.trunk.as_ref().expect("a reward model has a trunk of its own");
        self.at_last(groups, trunk.score_with_hidden(groups, &Distribution::default()).1)
    }

    /// The value before the last token of every completion from the trunk's hidden rows.
    ///
    /// # Shapes
    /// - input: `[R, T, D]`
    /// - output: `[R]`
    fn at_last(&self, groups: &[PackedGroup<'_>], hidden: Tensor<3>) -> Tensor<1> {
        let values = self.values(hidden);
        let [r, t] = values.dims();
        let lengths = groups.iter().flat_map(|group| group.completions.iter().map(|ids| ids.len()));
        let mut last = vec![0.0_f32; r * t];
        lengths.enumerate().for_each(|(row, length)| last[row * t + length - 1] = 1.0);
        let device = values.device().without_autodiff();
        let last: Tensor<2> = Tensor::from_data(TensorData::new(last, [r, t]), &device);
        (values * last).sum_dim(1).reshape([r])
    }
}

/// What a batch gave.
struct Scores {
    loss: f64,
    gradients: GradientsParams,
    chosen: Vec<f32>,
    rejected: Vec<f32>,
}

fn evaluate<M: TrainableLm>(
    critic: &Critic<M>,
    batch: &[Comparison],
    config: &RewardModelConfig,
    recompute: bool,
) -> Scores {
    let trunk = critic.trunk.as_ref().expect("a reward model has a trunk of its own");
    let bradley_terry = BradleyTerry { center_coef: config.center_coef };
    let mut accumulator = GradientsAccumulator::new();
    let gradients = GradientsParams::new();
    let mut scores = Scores { loss: 0.0, gradients, chosen: Vec::new(), rejected: Vec::new() };
    for places in micro_batches(batch, config.tokens_per_micro_batch) {
        let groups = pair_groups(batch, &places);
        let mut pass =
            Pass::new(trunk, &groups, PassKind { with_hidden: true, recompute, ..PassKind::default() });
        let hidden = pass.hidden.take().expect("hidden rows were asked for");
        let (chosen, rejected) = sides(critic.at_last(&groups, hidden));
        scores.chosen.extend(numbers(chosen.clone()));
        scores.rejected.extend(numbers(rejected.clone()));
        let margins = (config.margin > 0.0).then(|| chosen.clone().inner().full_like(config.margin));
        let losses = bradley_terry.evaluate(chosen, rejected, margins);
        let total = losses.sum() * (1.0 / batch.len() as f64);
        scores.loss += f64::from(total.clone().into_scalar::<f32>());
        pass.accumulate(total.backward(), (critic, &mut accumulator));
    }
    scores.gradients = accumulator.grads();
    scores
}

impl<M: TrainableLm> Stage<M> for RewardModelStage<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> StageKind {
        StageKind::RewardModel
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

    fn trains_reward_model(&self) -> bool {
        true
    }

    fn step(&mut self, state: &mut TrainState<M>) -> Result<StepReport, TrainError> {
        let started = Instant::now();
        let (step, position) = (state.progress.step, state.progress.position);
        let rows: Vec<usize> =
            (0..self.config.batch_size as u64).map(|slot| self.order.row(position + slot)).collect();
        let comparison = |&row: &usize| Comparison::new(self.task, self.rows, row, false);
        let batch = rows.iter().map(comparison).collect::<Result<Vec<_>, _>>()?;
        let names =
            || rows.iter().map(|&row| self.rows[row].sample.id.as_str()).collect::<Vec<_>>().join(" ");
        let model = state.reward_model.as_ref().expect("the stage asked for a reward model");
        let scores = evaluate(&model.critic, &batch, self.config, state.gradient_checkpointing);
        if !scores.loss.is_finite() {
            return Err(state.not_finite(&self.name, "loss", names()));
        }
        let learning_rate = self.config.learning_rate.at(step, self.config.steps);
        let rate = (self.name.as_str(), learning_rate);
        state.update_head(ScalarHead::RewardModel, rate, scores.gradients, &names)?;
        state.progress.position += rows.len() as u64;
        let sides = || scores.chosen.iter().zip(&scores.rejected);
        let mut metrics = Metrics::default();
        metrics.set("loss", scores.loss);
        let right = sides().filter(|(chosen, rejected)| chosen > rejected).count();
        metrics.set("preference/accuracy", right as f64 / batch.len() as f64);
        let margin = sides().map(|(chosen, rejected)| f64::from(chosen - rejected)).sum::<f64>();
        metrics.set("preference/margin", margin / batch.len() as f64);
        metrics.set("learning_rate", learning_rate);
        metrics.set("tokens", batch.iter().map(Comparison::num_tokens).sum::<usize>() as f64);
        let seconds = PhaseSeconds { train: started.elapsed().as_secs_f64(), ..PhaseSeconds::default() };
        let total_steps = self.config.steps;
        let warning = if step == 0 { self.config.learning_rate.warning(total_steps) } else { None };
        let (stage, step) = (self.name.clone(), step + 1);
        Ok(StepReport { stage, step, total_steps, metrics, seconds, samples: Vec::new(), warning })
    }
}
