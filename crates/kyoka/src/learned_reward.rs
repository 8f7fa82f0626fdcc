//! A reward model that was trained in a run.

use std::path::Path;

use burn::tensor::Device;
use kyoka_core::{Completion, ModelScore, RewardError, Sample, ScoreCompletion, Task, TaskError};
use kyoka_trainer::{Critic, ModelReward, load_reward_model};

use crate::{Error, MediaAugment, MultimodalTask, Policy, load_policy, model_folder::locate};

/// A reward model with what lays its prompts out.
pub(crate) struct LearnedReward {
    model: Critic<Policy>,
    task: MultimodalTask,
}

impl LearnedReward {
    /// The reward model in the newest checkpoint of a run, or in a checkpoint.
    pub fn load(folder: &Path, device: &Device) -> Result<Self, Error> {
        let (_, checkpoint) = locate(folder)?;
        let (policy, config, (tokenizer, template)) = load_policy(&checkpoint, device)?;
        let model = load_reward_model(&checkpoint, &policy)?;
        Ok(Self {
            model,
            task: MultimodalTask::new(tokenizer, config, MediaAugment::default(), 0).with_template(template),
        })
    }

    fn values(&self, sample: &Sample, completions: &[Completion]) -> Result<Vec<ModelScore>, TaskError> {
        let prompt = self.task.prompt(sample, None)?;
        let ended = |completion: &Completion| match completion.token_ids.is_empty() {
            // A text that no policy has drawn.
            true => self.task.encode(&completion.text),
            false => Ok(self.ended(completion)),
        };
        let ids = completions.iter().map(ended).collect::<Result<Vec<Vec<u32>>, _>>()?;
        let rewards = self.model.rewards(&prompt, &ids.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let is_ensemble = self.model.num_heads() > 1;
        let score = |ModelReward { mean, deviation }| ModelScore {
            value: mean,
            deviation: is_ensemble.then_some(deviation),
        };
        Ok(rewards.into_iter().map(score).collect())
    }

    /// The tokens of a completion, the end token last as in the comparisons that the model learned from.
    fn ended(&self, completion: &Completion) -> Vec<u32> {
        let tokenizer = self.task.tokenizer();
        let mut ids = completion.token_ids.clone();
        if !ids.last().is_some_and(|last| tokenizer.end_ids().contains(last)) {
            ids.push(tokenizer.end_id());
        }
        ids
    }
}

impl ScoreCompletion for LearnedReward {
    fn scores(&self, sample: &Sample, completions: &[Completion]) -> Result<Vec<ModelScore>, RewardError> {
        self.values(sample, completions).map_err(|source| RewardError::Failed {
            reward: "learned".to_owned(),
            id: sample.id.clone(),
            source,
        })
    }
}
