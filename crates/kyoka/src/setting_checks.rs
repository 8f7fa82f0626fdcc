//! What a recipe may say, checked before the first row is read: ranges of stages, rewards and evaluation, and settings
//! that nothing reads.

use kyoka_trainer::{SettingError, TrainError, Unread};
use toml::{Table, Value};

use crate::{Error, Recipe, RewardConfig, RewardKind, recipe::Settings};

impl Recipe {
    /// Checks every setting and that each one written down is read by something.
    ///
    /// # Errors
    /// Names the first setting that is out of its range or has no effect.
    pub fn check(&self) -> Result<(), Error> {
        let settings = self.settings()?;
        settings.check()?;
        let written = settings.unread().into_iter().find(|unread| holds(self.table(), &unread.key));
        match written {
            Some(Unread { key, reader }) => {
                let expected = format!("{reader}, which reads it, or no such setting");
                Err(refused(SettingError::Range { key, expected, got: "a setting without effect".into() }))
            }
            None => Ok(()),
        }
    }
}

fn refused(error: SettingError) -> Error {
    Error::Train(TrainError::Setting(error))
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
    /// Checks the ranges of stages, rewards and evaluation.
    ///
    /// # Errors
    /// Names the first setting that is out of its range.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.check_stages().and_then(|()| self.check_judging()).map_err(refused)
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

    fn check_judging(&self) -> Result<(), SettingError> {
        if self.eval.max_new_tokens == 0 {
            return Err(range("eval.max_new_tokens", "at least 1", "0"));
        }
        let limits = [
            ("rl.sampling.max_new_tokens", self.rl.as_ref().map(|rl| rl.sampling.max_new_tokens)),
            ("eval.max_new_tokens", Some(self.eval.max_new_tokens)),
        ];
        self.reward.iter().try_for_each(|reward| reward.check(&limits))
    }
}

fn range(key: impl Into<String>, expected: impl Into<String>, got: impl Into<String>) -> SettingError {
    SettingError::Range { key: key.into(), expected: expected.into(), got: got.into() }
}

impl RewardConfig {
    /// Checks the ranges, and that no field is set which the rule does not read; `limits` are those of completions.
    fn check(&self, limits: &[(&str, Option<usize>)]) -> Result<(), SettingError> {
        let rule = self.kind.name();
        let fields = [
            ("names", !self.names.is_empty(), RewardKind::StepAccuracy),
            ("buffer_tokens", self.buffer_tokens.is_some(), RewardKind::SoftOverlong),
            ("relative_tolerance", self.relative_tolerance.is_some(), RewardKind::NumericAnswer),
            ("model", self.model.is_some(), RewardKind::Learned),
        ];
        for (field, is_set, reader) in fields {
            if is_set && self.kind != reader {
                let expected = format!("kind = {:?}, which reads it, or no {field}", reader.name());
                return Err(range(format!("reward.{rule}.{field}"), expected, format!("kind = {rule:?}")));
            }
        }
        if let Some(tolerance) = self.relative_tolerance.filter(|&value| !(value.is_finite() && value >= 0.0))
        {
            let (key, expected) =
                ("reward.numeric_answer.relative_tolerance", "a finite number of at least 0");
            return Err(range(key, expected, tolerance.to_string()));
        }
        if self.kind != RewardKind::SoftOverlong {
            return Ok(());
        }
        let (key, buffer) = ("reward.soft_overlong.buffer_tokens", self.buffer_tokens());
        if buffer == 0 {
            return Err(range(key, "at least 1", "0"));
        }
        // A wider buffer would punish completions of any length.
        let narrow = limits.iter().find_map(|&(name, limit)| Some((name, limit?)).filter(|l| l.1 < buffer));
        match narrow {
            Some((name, limit)) => Err(range(key, format!("at most {name} = {limit}"), buffer.to_string())),
            None => Ok(()),
        }
    }
}
