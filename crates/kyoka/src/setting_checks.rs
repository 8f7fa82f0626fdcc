//! What a recipe may say, checked before the first row is read: ranges of stages, rewards and evaluation, and settings
//! that nothing reads.

use crate::{
    Error, Recipe,
    doors::{Doors, not_brought},
    engine::EngineKind,
    own_image_encoder::check_named,
    reading::{Fault, holds},
    recipe::Settings,
    rewards::{Rewards, check_opponents, check_rewards, check_turns},
    source::make_source,
    stages::StageConfig,
};
use kyoka_algorithms::Credit;
use kyoka_core::nearest;
use kyoka_trainer::{SettingError, StageKind, Unread};

impl Recipe {
    /// Checks every setting and that each one written down is read by something.
    ///
    /// # Errors
    /// Names the first setting that is out of its range or has no effect, and where it is written.
    pub fn check(&self) -> Result<(), Error> {
        self.check_with(&Doors::default())
    }

    /// [`check`](Self::check), with what a program brings.
    pub(crate) fn check_with(&self, doors: &Doors) -> Result<(), Error> {
        let settings = self.checked(doors)?;
        let written = settings.unread().into_iter().find(|unread| holds(self.table(), &unread.key));
        match written {
            Some(Unread { key, reader }) => {
                let reason = format!(
                    "expected {reader}, which reads it, or no such setting, got a setting without effect"
                );
                Err(self.refused(&Fault::at(&key, reason)))
            }
            None => Ok(()),
        }
    }

    /// The settings, all of them in their ranges; a run's own recipe holds every default, read or not.
    pub(crate) fn checked(&self, doors: &Doors) -> Result<Settings, Error> {
        let settings = self.settings()?;
        settings.check(doors).map_err(|fault| self.refused(&fault))?;
        Ok(settings)
    }
}

impl From<SettingError> for Fault {
    fn from(error: SettingError) -> Self {
        let message = error.to_string();
        match message.split_once(": ") {
            Some((key, reason)) => Self::at(key, reason),
            None => Self::here(message),
        }
    }
}

impl Settings {
    /// Refuses settings that cannot work, alone or together.
    ///
    /// # Errors
    /// Names the first one.
    pub(crate) fn check(&self, doors: &Doors) -> Result<(), Fault> {
        if self.stage.is_empty() {
            return Err(Fault::here(
                "expected a stage: a [[stage]] list, or [sft], [preference], [reward_model] or [rl]",
            ));
        }
        // An engine elsewhere may draw with other numbers than the trainer's: ratios differ from 1 from the start.
        let parts = doors.algorithm.clone().with_foreign_sampler(!self.engine.is_local());
        self.stage.iter().try_for_each(|stage| stage.check(&parts))?;
        let names = || self.stage.iter().map(|stage| stage.name.as_str());
        if let Some(stage) = self.model.freeze_in.keys().find(|stage| names().all(|name| name != *stage)) {
            let hint = nearest(stage, names()).map(|near| format!("; did you mean `{near}`?"));
            let there = names().collect::<Vec<_>>().join(", ");
            let reason = format!("expected the name of a stage (there: {there}){}", hint.unwrap_or_default());
            return Err(Fault::at(&format!("model.freeze_in.{stage}"), reason));
        }
        if let EngineKind::Custom(engine) = &self.engine
            && !doors.engines.contains(&engine.name)
        {
            return Err(not_brought(doors.engines.iter(), "engine", &engine.name).below("engine"));
        }
        check_named(self.model.image_encoder.as_ref(), doors.image_encoder.as_ref())?;
        self.model.check()?;
        if let Some(environment) = &self.environment {
            environment.make(doors)?;
        }
        if let (Some(_), true) = (&self.data.source, self.data.allow_outside) {
            let reason = "it is of a dataset's folder and has no effect beside a source";
            return Err(Fault::at("data.allow_outside", reason));
        }
        if self.data.source.is_some() && self.model.config.is_none() && !self.data.dataset.is_empty() {
            let reason = "expected one of dataset and source, got both; a dataset beside a source is where the tokenizer of a \
                          policy from scratch lies";
            return Err(Fault::at("data.dataset", reason));
        }
        if let Some(source) = &self.data.source {
            make_source(source, doors)?;
        }
        Rewards::make(&self.reward, doors)?;
        self.check_media()?;
        let dropout = self.model.lora.as_ref().map_or(0.0, |lora| lora.dropout);
        if dropout > 0.0 && !self.has_dropout() {
            let reason = "completions are sampled without dropout, and what learns must be what samples";
            let reason = format!("expected 0 with [rl] alone, got {dropout}: {reason}");
            return Err(Fault::at("model.lora.dropout", reason));
        }
        self.check_dropout(dropout).map_err(Fault::here)?;
        self.check_judging()
    }

    /// Settings of the stages that their parts do not read.
    fn unread(&self) -> Vec<Unread> {
        self.stage.iter().flat_map(StageConfig::unread).collect()
    }

    fn check_media(&self) -> Result<(), Fault> {
        let audio = self.augment.audio;
        let numbers = [
            ("max_delay_s", audio.max_delay_s),
            ("max_gain_db", audio.max_gain_db),
            ("max_noise", audio.max_noise),
        ];
        match numbers.into_iter().find(|(_, value)| !(value.is_finite() && *value >= 0.0)) {
            None => Ok(()),
            Some((key, got)) => {
                let reason = format!("expected a finite number of at least 0, got {got}");
                Err(Fault::at(&format!("augment.audio.{key}"), reason))
            }
        }
    }

    /// Whether a stage trains with dropout.
    fn has_dropout(&self) -> bool {
        self.stage.iter().any(|stage| stage.kind() != StageKind::Rl)
    }

    /// Refuses adapters that drop this share, from the recipe or from an adapter's files, where layers are computed again.
    pub(crate) fn check_dropout(&self, dropout: f64) -> Result<(), String> {
        if self.gradient_checkpointing && dropout > 0.0 && self.has_dropout() {
            let reason = "layers that are computed again would drop other values";
            return Err(format!(
                "gradient_checkpointing: expected model.lora.dropout = 0, got {dropout}: {reason}"
            ));
        }
        Ok(())
    }

    fn check_judging(&self) -> Result<(), Fault> {
        self.eval.check()?;
        let sampled = self.stage.iter().filter_map(|stage| {
            let limit = stage.rl()?.sampling.max_new_tokens;
            Some((format!("{}.sampling.max_new_tokens", stage.name), limit))
        });
        let limits: Vec<(String, usize)> =
            sampled.chain([("eval.max_new_tokens".to_owned(), self.eval.max_new_tokens)]).collect();
        check_rewards(&self.reward, &limits)?;
        check_turns(&self.reward, self.environment.is_some())?;
        let has_baseline = self.rl().any(|rl| rl.algorithm.resolve().advantage == Credit::Remax.into());
        check_opponents(&self.reward, (self.eval.samples, has_baseline))?;
        let replays = |stage: &&StageConfig| {
            stage.rl().is_some_and(|rl| rl.algorithm.replay_share.is_some_and(|share| share > 0.0))
        };
        match self.stage.iter().find(replays).filter(|_| self.environment.is_some()) {
            None => Ok(()),
            Some(stage) => {
                let reason = "expected 0 with an environment, whose answers are not kept";
                Err(Fault::at(&format!("{}.algorithm.replay_share", stage.name), reason))
            }
        }
    }
}
