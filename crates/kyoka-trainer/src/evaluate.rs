//! How good is the policy on a split?

use kyoka_core::{Prompt, RewardContext, RewardFn, RolloutRequest, Sample, SamplingConfig};
use serde::{Deserialize, Serialize};

use crate::{EngineFactory, SampleRecord, Task, TrainError, TrainableLm, rl::record};

/// Mean of every reward part over a split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalSummary {
    /// The split.
    pub split: String,
    /// Rows judged.
    pub num_rows: usize,
    /// Means by part, `length` (tokens) among them.
    pub parts: Vec<(String, f64)>,
}

impl EvalSummary {
    /// A mean by name.
    pub fn part(&self, name: &str) -> Option<f64> {
        self.parts.iter().find(|(part, _)| part == name).map(|&(_, value)| value)
    }
}

/// A split evaluated.
#[derive(Debug, Clone)]
pub struct EvalReport {
    /// Means over the split.
    pub summary: EvalSummary,
    /// Every completion.
    pub samples: Vec<SampleRecord>,
}

/// What an evaluation needs.
pub struct Evaluation<'a, M> {
    /// Rows to prompts.
    pub task: &'a dyn Task,
    /// Judges completions; the parts are averaged.
    pub reward: &'a dyn RewardFn,
    /// Makes the engine.
    pub engine: EngineFactory<'a, M>,
    /// Longest completion; decoding is greedy.
    pub max_new_tokens: usize,
    /// Texts that end a completion, those of training.
    pub stop: &'a [String],
}

/// Prompts decoded at once.
const CHUNK: usize = 128;

/// Greedy completions of every row, judged.
///
/// # Errors
/// If a row's media cannot be read or a completion cannot be judged.
pub fn evaluate<M: TrainableLm>(
    model: &M,
    evaluation: &Evaluation<'_, M>,
    split: &str,
    samples: &[Sample],
) -> Result<EvalReport, TrainError> {
    let engine = (evaluation.engine)(model.valid());
    let stop = evaluation.stop.to_vec();
    let sampling = SamplingConfig { stop, ..SamplingConfig::greedy(evaluation.max_new_tokens) };
    let mut records = Vec::with_capacity(samples.len());
    let mut means = PartMeans::default();
    let mut num_rows = 0;
    for chunk in samples.chunks(CHUNK) {
        let prompts: Vec<Prompt> = chunk
            .iter()
            .map(|sample| evaluation.task.prompt(sample, None).map_err(|source| row_error(sample, source)))
            .collect::<Result<_, _>>()?;
        let request = RolloutRequest {
            prompts: &prompts,
            group_size: 1,
            sampling: &sampling,
            seed: 0,
            policy_version: 0,
        };
        let groups = engine.generate(request).map_err(|source| TrainError::Rollout {
            stage: "eval",
            step: 0,
            source,
        })?;
        for (sample, group) in chunk.iter().zip(&groups) {
            let rollout = &group.rollouts[0];
            let completion = evaluation.task.read(rollout, evaluation.max_new_tokens);
            let reward = evaluation.reward.score(&RewardContext { sample }, &completion)?;
            if reward.total.is_some() {
                num_rows += 1;
                means.add("length", rollout.token_ids.len() as f64);
                reward.parts.iter().for_each(|(name, value)| means.add(name, f64::from(*value)));
            }
            records.push(record(sample, &completion, &reward));
        }
    }
    let summary = EvalSummary { split: split.to_owned(), num_rows, parts: means.finish() };
    Ok(EvalReport { summary, samples: records })
}

pub(crate) fn row_error(sample: &Sample, source: crate::TaskError) -> TrainError {
    TrainError::Row { origin: sample.origin.clone(), id: sample.id.clone(), source }
}

/// Means by name, each over the completions that have the part.
#[derive(Default)]
pub(crate) struct PartMeans(Vec<(String, f64, f64)>);

impl PartMeans {
    pub fn add(&mut self, name: &str, value: f64) {
        match self.0.iter_mut().find(|(part, _, _)| part == name) {
            Some((_, sum, count)) => {
                *sum += value;
                *count += 1.0;
            }
            None => self.0.push((name.to_owned(), value, 1.0)),
        }
    }

    pub fn finish(self) -> Vec<(String, f64)> {
        self.0.into_iter().map(|(name, sum, count)| (name, sum / count)).collect()
    }
}
