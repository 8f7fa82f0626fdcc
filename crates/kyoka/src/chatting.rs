//! `kyoka chat`: a conversation line by line.

use std::path::{Path, PathBuf};

use kyoka_core::{Message, Role, RolloutEngine, RolloutPrompt, RolloutRequest, SamplingConfig};
use kyoka_rollout::LocalEngine;

use crate::{
    Error, MultimodalTask, Policy,
    generating::{open, parts},
    open_device,
};

/// A conversation under way.
pub struct Chat {
    engine: LocalEngine<Policy>,
    task: MultimodalTask,
    messages: Vec<Message>,
    images: Vec<PathBuf>,
    audios: Vec<PathBuf>,
    sampling: SamplingConfig,
    seed: u64,
}

impl Chat {
    /// A conversation with a run, a checkpoint or a Hugging Face folder.
    ///
    /// # Errors
    /// If the model cannot be read or has no chat template.
    pub fn open(
        (model, adapter): (&Path, Option<&Path>),
        device: &str,
        sampling: SamplingConfig,
        seed: u64,
    ) -> Result<Self, Error> {
        sampling.validate().map_err(|error| Error::argument("sampling", error))?;
        let (policy, task) = open(model, adapter, &open_device(device)?)?;
        if !task.converses() {
            return Err(Error::file(
                model,
                "has no chat template; `kyoka generate` asks it single questions",
            ));
        }
        let engine = task.engine().with_model(&policy);
        let (images, audios) = (Vec::new(), Vec::new());
        Ok(Self { engine, task, messages: Vec::new(), images, audios, sampling, seed })
    }

    /// Puts a picture before the next message.
    pub fn show(&mut self, picture: PathBuf) {
        self.images.push(picture);
    }

    /// Puts a sound before the next message.
    pub fn play(&mut self, sound: PathBuf) {
        self.audios.push(sound);
    }

    /// Sets the first turn: what the policy is told about itself.
    pub fn system(&mut self, text: &str) {
        self.messages.retain(|message| message.role != Role::System);
        self.messages.insert(0, Message::of_text(Role::System, text));
    }

    /// Forgets everything said.
    pub fn forget(&mut self) {
        self.messages.retain(|message| message.role == Role::System);
        (self.images, self.audios) = (Vec::new(), Vec::new());
    }

    /// Says something and returns the answer. What went wrong is taken back.
    ///
    /// # Errors
    /// If a medium cannot be read or the conversation is longer than the model's context.
    pub fn say(&mut self, text: &str) -> Result<String, Error> {
        let fail = |reason: String| Error::unanswered("message", reason);
        let parts = parts(&self.task, text, [&self.images, &self.audios]).map_err(fail)?;
        (self.images, self.audios) = (Vec::new(), Vec::new());
        self.messages.push(Message::user(parts));
        let answer = self.answer();
        match &answer {
            Ok(text) => self.messages.push(Message::of_text(Role::Assistant, text)),
            Err(_) => drop(self.messages.pop()),
        }
        answer
    }

    fn answer(&self) -> Result<String, Error> {
        let prompt =
            self.task.conversation(&self.messages).map_err(|error| Error::unanswered("message", error))?;
        let request = RolloutRequest {
            prompts: &RolloutPrompt::numbered(std::slice::from_ref(&prompt)),
            group_size: 1,
            sampling: &self.sampling,
            seed: self.seed + self.messages.len() as u64,
            episodes: None,
        };
        let groups =
            self.engine.generate_all(request).map_err(|error| Error::unanswered("message", error))?;
        Ok(self.task.tokenizer().decode(&groups[0].rollouts[0].token_ids).text.trim().to_owned())
    }
}
