//! A checkpoint in this process that answers conversations.

use std::{fs, path::Path, time::UNIX_EPOCH};

use burn::tensor::Device;
use kyoka_core::{
    Generate, GenerateError, Generated, Message, RolloutEngine, RolloutPrompt, RolloutRequest, SamplingConfig,
};
use kyoka_rollout::LocalEngine;

use crate::{
    Error, MultimodalTask, Policy,
    generating::open,
    hub::checkpoint_folder,
    model_folder::{is_hugging_face, locate},
};

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
        Ok(Self { name: named(folder)?, engine: task.engine().with_model(&policy), task })
    }

    fn answer(&self, messages: &[Message], sampling: &SamplingConfig) -> Result<Generated, String> {
        let prompt = self.task.conversation(messages).map_err(|error| error.to_string())?;
        let prompts = RolloutPrompt::numbered(std::slice::from_ref(&prompt));
        let request = RolloutRequest { prompts: &prompts, group_size: 1, sampling, seed: 1, episodes: None };
        let groups = self.engine.generate_all(request).map_err(|error| error.to_string())?;
        let rollout = &groups[0].rollouts[0];
        if rollout.is_truncated() {
            return Err("expected an answer that ends, got one cut off at max_new_tokens".to_owned());
        }
        let ids = &rollout.token_ids;
        let text = self.task.tokenizer().decode(ids).text;
        Ok(Generated { text, input_tokens: prompt.len() as u64, output_tokens: ids.len() as u64 })
    }
}

/// A name that changes with the weights: the checkpoint that a folder stands for now, with the size and time of its files.
fn named(folder: &Path) -> Result<String, Error> {
    let folder = checkpoint_folder(folder)?;
    let checkpoint = if is_hugging_face(&folder)? { folder } else { locate(&folder)?.1 };
    let entries = fs::read_dir(&checkpoint).map_err(|error| Error::file(&checkpoint, error))?;
    let mut files: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|ending| ending == "safetensors"))
        .filter_map(|entry| {
            let about = entry.metadata().ok()?;
            let changed = about.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
            Some(format!("{} {} {changed}", entry.file_name().to_string_lossy(), about.len()))
        })
        .collect();
    files.sort();
    Ok(format!("{} ({})", checkpoint.display(), files.join(", ")))
}

impl Generate for LocalModel {
    fn model(&self) -> String {
        self.name.clone()
    }

    fn generate(&self, messages: &[Message], sampling: &SamplingConfig) -> Result<Generated, GenerateError> {
        self.answer(messages, sampling).map_err(GenerateError)
    }
}
