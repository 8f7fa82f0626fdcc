//! A reward model from judgements: scalar heads that read a completion to its end.

mod held_out;
mod judged;

use std::time::Instant;

use burn::{
    module::Module,
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{Bool, Device, FloatDType, Tensor, TensorData, activation::log_sigmoid},
};
use kyoka_algorithms::preference::BradleyTerry;
use kyoka_core::{Distribution, Metrics, PackedGroup, Prompt, Stream, Task, stream_rng};
use kyoka_data::Shuffled;
use rand::RngExt;
use serde::{Deserialize, Serialize};

pub use self::judged::{Judgements, check_judgement};
use self::{
    held_out::HeldOut,
    judged::{Judged, Target, micro_batches},
};
use crate::{
    AdamWConfig, Critic, LearningRate, Pass, PassKind, PhaseSeconds, SettingError, Stage, StageKind,
    StepReport, TrainError, TrainState, TrainableLm, Unread,
    preference::{sides, vector},
    range::{at_least_1, number},
    sft::default_budget,
    state::ScalarHead,
};

/// What people have said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JudgementKind {
    /// Which of two completions is better (`chosen`, `rejected`), by a wanted `margin` if the row has one, or that neither is (`tie`):
    /// Bradley-Terry.
    #[default]
    Pairs,
    /// Whether a `completion` is taken (`label`): logistic.
    Labels,
    /// How good a `completion` is (`score`): squared error.
    Scores,
}

/// Settings of the stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardModelConfig {
    /// Name of the split with the judgements.
    pub data: String,
    /// What its rows say. Default `pairs`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rows: JudgementKind,
    /// Name of a split of judgements that are not learned from: `held_out/accuracy`, `held_out/ece` (how far its certainty is off, over
    /// ten bins) and the accuracy by the rows' `tag` are logged at evaluations. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<String>,
    /// Heads, from 1 to 16: each learns from the rows drawn anew with replacement, and where they disagree nobody has judged much like it.
    /// Default 1, which learns from all rows.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub heads: usize,
    /// Optimizer steps.
    pub steps: usize,
    /// Judgements a step; at least 1.
    pub batch_size: usize,
    /// Pairs: weight of the term that pulls rewards to a mean of 0; at least 0. Default 0.01.
    #[serde(default = "hundredth")]
    pub center_coef: f64,
    /// Pairs: wanted lead of the preferred completion's reward (Llama 2, arXiv 2307.09288, equation 2) where the row has none of its own;
    /// at least 0. Default 0.
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

fn one() -> usize {
    1
}

fn is_one(heads: &usize) -> bool {
    *heads == 1
}

fn is_default(rows: &JudgementKind) -> bool {
    *rows == JudgementKind::default()
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
        if !(1..=16).contains(&self.heads) {
            return Err(SettingError::range(format!("{stage}.heads"), "a number from 1 to 16", self.heads));
        }
        for (field, value) in [("center_coef", self.center_coef), ("margin", self.margin)] {
            let holds = value.is_finite() && value >= 0.0;
            number(stage, (field, value), holds, "a finite number of at least 0")?;
        }
        self.learning_rate.check(&format!("{stage}.learning_rate"))?;
        self.optimizer.check(&format!("{stage}.optimizer"))
    }

    /// What the kind of judgements does not read.
    pub fn unread(&self, stage: &str) -> Vec<Unread> {
        let mut unread = self.learning_rate.unread(&format!("{stage}.learning_rate"));
        if self.rows != JudgementKind::Pairs {
            let reader = "rows = \"pairs\"";
            let fields = ["center_coef", "margin"];
            unread.extend(fields.map(|field| Unread { key: format!("{stage}.{field}"), reader }));
        }
        unread
    }
}

/// Trains a reward model that starts from the policy; the policy stays as it is.
///
/// The model lies in `reward_model.safetensors` of a checkpoint.
pub struct RewardModelStage<'a> {
    name: String,
    config: &'a RewardModelConfig,
    task: &'a dyn Task,
    rows: Judgements<'a>,
    held_out: Option<Judgements<'a>>,
    order: Shuffled,
}

impl<'a> RewardModelStage<'a> {
    /// A stage called `name` over `rows`, in an order that `seed` decides.
    ///
    /// # Errors
    /// If a setting is out of range, or the judgements are of another kind than the settings say.
    pub fn new(
        name: &str,
        config: &'a RewardModelConfig,
        task: &'a dyn Task,
        (rows, held_out): (Judgements<'a>, Option<Judgements<'a>>),
        seed: u64,
    ) -> Result<Self, TrainError> {
        config.check(name)?;
        let order = Shuffled::new(rows.len(), seed);
        Ok(Self { name: name.to_owned(), config, task, rows, held_out, order })
    }

    /// How often a head sees a row: as in a draw of as many rows with replacement. A single head sees each once.
    fn share(&self, seed: u64, row: usize, head: usize) -> f32 {
        if self.config.heads == 1 {
            return 1.0;
        }
        let mut left: f64 = stream_rng(seed, Stream::Bootstrap, &[row as u64, head as u64]).random();
        // Poisson with mean 1: what a share of a large draw comes to.
        let (mut count, mut chance) = (0_u32, (-1.0_f64).exp());
        while left > chance && count < 12 {
            left -= chance;
            count += 1;
            chance /= f64::from(count);
        }
        count as f32
    }
}

/// A completion's reward under a model: the mean over its heads, and how far they are apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelReward {
    /// The mean.
    pub mean: f32,
    /// The standard deviation over the heads; 0 for one.
    pub deviation: f32,
}

/// Means and deviations of the rows of `[R, K]`.
fn over_heads(values: Tensor<2>) -> Vec<ModelReward> {
    let [_, heads] = values.dims();
    let values: Vec<f32> = values.into_data().try_into_vec_as().expect("numbers of a float tensor");
    let reward = |row: &[f32]| {
        let mean = row.iter().sum::<f32>() / row.len() as f32;
        let variance = row.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / row.len() as f32;
        ModelReward { mean, deviation: variance.sqrt() }
    };
    values.chunks(heads).map(reward).collect()
}

impl<M: TrainableLm> Critic<M> {
    /// What completions of a prompt are worth: the values when all but the end token has been read.
    ///
    /// # Panics
    /// If the critic has no trunk of its own, or a completion is empty.
    pub fn rewards(&self, prompt: &Prompt, completions: &[&[u32]]) -> Vec<ModelReward> {
        let completions = completions.iter().map(|&ids| ids.into()).collect();
        let group = PackedGroup { prompt, completions };
        over_heads(self.last_values(&[group]))
    }

    /// The values before the last token of every completion, `[R, K]`.
    fn last_values(&self, groups: &[PackedGroup<'_>]) -> Tensor<2> {
        let trunk = self.trunk.as_ref().expect("a reward model has a trunk of its own");
        self.at_last(groups, trunk.score_with_hidden(groups, &Distribution::default()).1)
    }

    /// The values before the last token of every completion from the trunk's hidden rows.
    ///
    /// # Shapes
    /// - input: `[R, T, D]`
    /// - output: `[R, K]`
    fn at_last(&self, groups: &[PackedGroup<'_>], hidden: Tensor<3>) -> Tensor<2> {
        let [r, t, d] = hidden.dims();
        let values: Tensor<2> = self.head.forward(hidden.reshape([r * t, d]));
        let heads = values.dims()[1];
        let values: Tensor<3> = values.reshape([r, t, heads]).cast(FloatDType::F32);
        let lengths = groups.iter().flat_map(|group| group.completions.iter().map(|ids| ids.len()));
        let mut last = vec![0.0_f32; r * t];
        lengths.enumerate().for_each(|(row, length)| last[row * t + length - 1] = 1.0);
        let device = values.device().without_autodiff();
        let last: Tensor<3> = Tensor::from_data(TensorData::new(last, [r, t, 1]), &device);
        (values * last).sum_dim(1).reshape([r, heads])
    }
}

/// What a batch gave.
struct Scores {
    loss: f64,
    gradients: GradientsParams,
    /// Of each judgement: one reward, or those of both sides.
    rewards: Vec<Vec<ModelReward>>,
}

impl RewardModelStage<'_> {
    /// The mean loss over the batch and its heads, and its gradients; `rows` are the batch's.
    fn evaluate<M: TrainableLm>(
        &self,
        critic: &Critic<M>,
        (rows, batch): (&[usize], &[Judged]),
        (seed, recompute): (u64, bool),
    ) -> Scores {
        let trunk = critic.trunk.as_ref().expect("a reward model has a trunk of its own");
        let device = trunk.device().without_autodiff();
        let heads = self.config.heads;
        let mut accumulator = GradientsAccumulator::new();
        let gradients = GradientsParams::new();
        let mut scores = Scores { loss: 0.0, gradients, rewards: vec![Vec::new(); batch.len()] };
        for places in micro_batches(batch, self.config.tokens_per_micro_batch) {
            let groups: Vec<PackedGroup<'_>> = places.iter().map(|&place| batch[place].group()).collect();
            let mut pass =
                Pass::new(trunk, &groups, PassKind { with_hidden: true, recompute, ..PassKind::default() });
            let hidden = pass.hidden.take().expect("hidden rows were asked for");
            let values = critic.at_last(&groups, hidden);
            let mut given = over_heads(values.clone().detach()).into_iter();
            for &place in &places {
                scores.rewards[place] = given.by_ref().take(batch[place].completions.len()).collect();
            }
            let [r, _] = values.dims();
            let head_losses = (0..heads).map(|head| {
                let losses =
                    self.losses(values.clone().narrow(1, head, 1).reshape([r]), (&places, batch), &device);
                match heads {
                    1 => losses.sum(),
                    _ => {
                        (losses * vector(&device, &places, |place| self.share(seed, rows[place], head))).sum()
                    }
                }
            });
            let total = head_losses.reduce(|sum, next| sum + next).expect("there is a head");
            let total = total * (1.0 / (batch.len() * heads) as f64);
            scores.loss += f64::from(total.clone().into_scalar::<f32>());
            pass.accumulate(total.backward(), (critic, &mut accumulator));
        }
        scores.gradients = accumulator.grads();
        scores
    }

    /// The loss of each judgement at `places`, of the values of one head.
    fn losses(
        &self,
        values: Tensor<1>,
        (places, batch): (&[usize], &[Judged]),
        device: &Device,
    ) -> Tensor<1> {
        let target = |place: usize| &batch[place].target;
        match self.config.rows {
            JudgementKind::Pairs => {
                let (chosen, rejected) = sides(values.unsqueeze_dim::<2>(1));
                let loss = BradleyTerry { center_coef: self.config.center_coef };
                let margin = |place: usize| match target(place) {
                    Target::Pair { margin, .. } => margin.unwrap_or(self.config.margin as f32),
                    _ => 0.0,
                };
                let is_tie = |&place: &usize| matches!(target(place), Target::Pair { tie: true, .. });
                let margins = || vector(device, places, margin);
                if places.iter().any(is_tie) {
                    let ties: Vec<bool> = places.iter().map(is_tie).collect();
                    let ties = Tensor::<1, Bool>::from_data(TensorData::new(ties, [places.len()]), device);
                    return loss.evaluate_with_ties(chosen, rejected, margins(), ties);
                }
                let has_margins = places.iter().any(|&place| margin(place) > 0.0);
                loss.evaluate(chosen, rejected, has_margins.then(margins))
            }
            JudgementKind::Labels => {
                let sign =
                    |place: usize| if matches!(target(place), Target::Label(true)) { 1.0 } else { -1.0 };
                log_sigmoid(values * vector(device, places, sign)).neg()
            }
            JudgementKind::Scores => {
                let score =
                    |place: usize| if let Target::Score(score) = target(place) { *score } else { 0.0 };
                (values - vector(device, places, score)).square()
            }
        }
    }
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

    fn reward_heads(&self) -> Option<usize> {
        Some(self.config.heads)
    }

    fn step(&mut self, state: &mut TrainState<M>) -> Result<StepReport, TrainError> {
        let started = Instant::now();
        let (step, position) = (state.progress.step, state.progress.position);
        let rows: Vec<usize> =
            (0..self.config.batch_size as u64).map(|slot| self.order.row(position + slot)).collect();
        let judged = |&row: &usize| self.rows.judged(self.task, row, self.config.rows);
        let batch = rows.iter().map(judged).collect::<Result<Vec<_>, _>>()?;
        let names =
            || rows.iter().map(|&row| self.rows.sample(row).id.as_str()).collect::<Vec<_>>().join(" ");
        let model = state.reward_model.as_ref().expect("the stage asked for a reward model");
        let how = (state.seed, state.gradient_checkpointing);
        let scores = self.evaluate(&model.critic, (&rows, &batch), how);
        if !scores.loss.is_finite() {
            return Err(state.not_finite(&self.name, "loss", names()));
        }
        let learning_rate = self.config.learning_rate.at(step, self.config.steps);
        let rate = (self.name.as_str(), learning_rate);
        state.update_head(ScalarHead::RewardModel, rate, scores.gradients, &names)?;
        state.progress.position += rows.len() as u64;
        let mut metrics = Metrics::default();
        metrics.set("loss", scores.loss);
        let measured = HeldOut::of(&batch, &scores.rewards);
        measured.report(&mut metrics);
        if self.config.heads > 1 {
            let all = scores.rewards.iter().flatten();
            let (count, sum) =
                all.fold((0.0, 0.0), |(count, sum), reward| (count + 1.0, sum + f64::from(reward.deviation)));
            metrics.set("preference/deviation", sum / f64::max(count, 1.0));
        }
        metrics.set("learning_rate", learning_rate);
        let tokens = batch.iter().flat_map(|judged| &judged.completions).map(Vec::len);
        metrics.set("tokens", tokens.sum::<usize>() as f64);
        let is_last = step + 1 == self.config.steps;
        let evaluated = self.config.eval_every > 0 && (step + 1).is_multiple_of(self.config.eval_every);
        if let Some(held_out) = self.held_out.as_ref().filter(|_| is_last || evaluated) {
            let model = state.reward_model.as_ref().expect("the stage asked for a reward model");
            held_out.measured(self.task, self.config, &model.critic.valid())?.report_held_out(&mut metrics);
        }
        let seconds = PhaseSeconds { train: started.elapsed().as_secs_f64(), ..PhaseSeconds::default() };
        let total_steps = self.config.steps;
        let warning = if step == 0 { self.config.learning_rate.warning(total_steps) } else { None };
        let (stage, step) = (self.name.clone(), step + 1);
        Ok(StepReport { stage, step, total_steps, metrics, seconds, samples: Vec::new(), warning })
    }
}
