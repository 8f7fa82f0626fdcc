//! A checkpoint in this process that answers conversations.

use std::path::Path;

use burn::tensor::Device;
use kyoka_core::{
    Generate, GenerateError, Generated, Message, RolloutEngine, RolloutPrompt, RolloutRequest, SamplingConfig,
};
use kyoka_rollout::LocalEngine;

use crate::{Error, MultimodalTask, Policy, generating::open};

/// A run's policy, a checkpoint or a Hugging Face folder that answers.
pub(crate) struct LocalModel {
    name: String,
    engine: LocalEngine<Policy>,
    task: MultimodalTask,
}

impl LocalModel {
    /// Opens it.
    ///
    /// # Errors
    /// If it cannot be read or has no chat template.
    pub fn open(folder: &Path, device: &Device) -> Result<Self, Error> {
        let (policy, task) = open(folder, None, device)?;
        if !task.converses() {
            return Err(Error::file(folder, "has no chat template, which a judge needs"));
        }
        Ok(Self { name: folder.display().to_string(), engine: task.engine().with_model(&policy), task })
    }

    fn answer(&self, messages: &[Message], sampling: &SamplingConfig) -> Result<Generated, String> {
        let prompt = self.task.conversation(messages).map_err(|error| error.to_string())?;
        let prompts = RolloutPrompt::numbered(std::slice::from_ref(&prompt));
        let request = RolloutRequest { prompts: &prompts, group_size: 1, sampling, seed: 1, episodes: None };
        let groups = self.engine.generate_all(request).map_err(|error| error.to_string())?;
        let ids = &groups[0].rollouts[0].token_ids;
        let text = self.task.tokenizer().decode(ids).text;
        Ok(Generated { text, input_tokens: prompt.len() as u64, output_tokens: ids.len() as u64 })
    }
}

impl Generate for LocalModel {
    fn model(&self) -> String {
        self.name.clone()
    }

    fn generate(&self, messages: &[Message], sampling: &SamplingConfig) -> Result<Generated, GenerateError> {
        self.answer(messages, sampling).map_err(GenerateError)
    }
}
