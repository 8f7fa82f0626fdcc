//! How good is the policy on a split?

use burn::module::Module;
use kyoka_core::{CausalLm, Prompt, RewardContext, RewardFn, RolloutRequest, Sample, SamplingConfig};
use serde::{Deserialize, Serialize};

use crate::{EngineFactory, SampleRecord, Task, TrainError, rl::record};

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
}

/// Prompts decoded at once.
const CHUNK: usize = 128;

/// Greedy completions of every row, judged.
///
/// # Errors
/// If a row's media cannot be read or a completion cannot be judged.
pub fn evaluate<M: CausalLm + Module>(
    model: &M,
    evaluation: &Evaluation<'_, M>,
    split: &str,
    samples: &[Sample],
) -> Result<(EvalSummary, Vec<SampleRecord>), TrainError> {
    let engine = (evaluation.engine)(model.valid());
    let sampling = SamplingConfig::greedy(evaluation.max_new_tokens);
    let mut records = Vec::with_capacity(samples.len());
    let mut sums: Vec<(String, f64)> = vec![("length".into(), 0.0)];
    let mut judged = 0;
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
                judged += 1;
                sums[0].1 += rollout.token_ids.len() as f64;
                for (name, value) in &reward.parts {
                    match sums.iter_mut().find(|(part, _)| part == name) {
                        Some((_, sum)) => *sum += f64::from(*value),
                        None => sums.push((name.clone(), f64::from(*value))),
                    }
                }
            }
            records.push(record(sample, &completion, &reward));
        }
    }
    let parts = sums.into_iter().map(|(name, sum)| (name, sum / f64::from(judged.max(1)))).collect();
    Ok((EvalSummary { split: split.to_owned(), num_rows: judged as usize, parts }, records))
}

pub(crate) fn row_error(sample: &Sample, source: crate::TaskError) -> TrainError {
    let (file, line) = sample.origin.clone();
    TrainError::Row { file, line, id: sample.id.clone(), source }
}
