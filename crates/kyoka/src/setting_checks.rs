//! What a recipe may say, checked before the first row is read: ranges of stages, rewards and evaluation, and settings
//! that nothing reads.

use kyoka_trainer::{SettingError, Unread};
use toml::{Table, Value};

use crate::{Error, Recipe, reading::Fault, recipe::Settings, rewards::check_rewards};

impl Recipe {
    /// Checks every setting and that each one written down is read by something.
    ///
    /// # Errors
    /// Names the first setting that is out of its range or has no effect, and where it is written.
    pub fn check(&self) -> Result<(), Error> {
        let settings = self.checked()?;
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
    pub(crate) fn checked(&self) -> Result<Settings, Error> {
        let settings = self.settings()?;
        settings.check().map_err(|fault| self.refused(&fault))?;
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

/// Whether a table holds a dotted key.
fn holds(table: &Table, key: &str) -> bool {
    match key.split_once('.') {
        Some((first, rest)) => {
            table.get(first).and_then(Value::as_table).is_some_and(|inner| holds(inner, rest))
        }
        None => table.contains_key(key),
    }
}

impl Settings {
    /// Refuses settings that cannot work, alone or together.
    ///
    /// # Errors
    /// Names the first one.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        let stages =
            [self.sft.is_some(), self.preference.is_some(), self.reward_model.is_some(), self.rl.is_some()];
        if stages == [false; 4] {
            return Err(Fault::here("expected a stage: [sft], [preference], [reward_model] or [rl]"));
        }
        self.check_stages()?;
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

    fn check_stages(&self) -> Result<(), SettingError> {
        for (name, stage) in [("sft", &self.sft), ("sft_continued", &self.sft_continued)] {
            stage.as_ref().map_or(Ok(()), |stage| stage.check(name))?;
        }
        self.preference.as_ref().map_or(Ok(()), |stage| stage.check("preference"))?;
        self.reward_model.as_ref().map_or(Ok(()), |stage| stage.check("reward_model"))?;
        self.rl.as_ref().map_or(Ok(()), |stage| stage.check("rl"))
    }

    /// Settings of the stages that their parts do not read.
    fn unread(&self) -> Vec<Unread> {
        let sft = [("sft", &self.sft), ("sft_continued", &self.sft_continued)].into_iter();
        let rates = sft.filter_map(|(name, stage)| Some((name, stage.as_ref()?.learning_rate)));
        let rates = rates.chain(self.preference.iter().map(|stage| ("preference", stage.learning_rate)));
        let rates = rates.chain(self.reward_model.iter().map(|stage| ("reward_model", stage.learning_rate)));
        let unread = rates.flat_map(|(name, rate)| rate.unread(&format!("{name}.learning_rate")));
        unread.chain(self.rl.iter().flat_map(|stage| stage.unread("rl"))).collect()
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
        let sft = self.sft.is_some() || self.sft_continued.is_some();
        sft || self.preference.is_some() || self.reward_model.is_some()
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
        let sampled = self.rl.iter().map(|rl| ("rl.sampling.max_new_tokens", rl.sampling.max_new_tokens));
        let limits: Vec<(&str, usize)> =
            sampled.chain([("eval.max_new_tokens", self.eval.max_new_tokens)]).collect();
        check_rewards(&self.reward, &limits)
    }
}
