//! Settings of the stage.

use kyoka_algorithms::preference::{PreferenceOverrides, PreferencePreset};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    AdamWConfig, LearningRate, SettingError,
    name_or_table::name_or_table,
    range::{at_least_1, number},
    sft::default_budget,
};

/// Settings of the stage.
///
/// Media are not changed at random here: the reference's log-probabilities are of the prompt as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreferenceStageConfig {
    /// Name of the split with a `chosen` and a `rejected` completion a row.
    pub data: String,
    /// Optimizer steps.
    pub steps: usize,
    /// Pairs a step; at least 1.
    pub batch_size: usize,
    /// A preset by name (`"dpo"`, `"ipo"`, `"kto"`, `"mpo"`, `"simpo"`), or a table of a `preset` and single fields that differ.
    #[serde(default, deserialize_with = "named_or_table")]
    pub algorithm: PreferenceOverrides,
    /// Learning rate.
    pub learning_rate: LearningRate,
    /// Optimizer.
    #[serde(default)]
    pub optimizer: AdamWConfig,
    /// Steps between updates of the reference (TR-DPO, arXiv 2404.09656). Default 0: it stays the policy at the start,
    /// and its log-probabilities are computed once.
    #[serde(default)]
    pub reference_every: usize,
    /// Share of the old reference that an update keeps, in [0, 1). Default 0: an update copies the policy.
    #[serde(default)]
    pub reference_decay: f64,
    /// Most tokens a micro-batch, at least 1; a pair is never split. Default 8192.
    #[serde(default = "default_budget")]
    pub tokens_per_micro_batch: usize,
    /// Steps between evaluations; 0 evaluates at the end only.
    #[serde(default)]
    pub eval_every: usize,
}

impl PreferenceStageConfig {
    /// Checks ranges and combination; `stage` is the stage's name in the recipe.
    ///
    /// # Errors
    /// Names the setting, its range and the value.
    pub fn check(&self, stage: &str) -> Result<(), SettingError> {
        let counts =
            [("batch_size", self.batch_size), ("tokens_per_micro_batch", self.tokens_per_micro_batch)];
        at_least_1(stage, &counts)?;
        self.learning_rate.check(&format!("{stage}.learning_rate"))?;
        self.optimizer.check(&format!("{stage}.optimizer"))?;
        let decay = self.reference_decay;
        number(stage, ("reference_decay", decay), (0.0..1.0).contains(&decay), "a number in [0, 1)")?;
        if decay > 0.0 && self.reference_every == 0 {
            let key = format!("{stage}.reference_decay");
            return Err(SettingError::range(key, "0, or reference_every above 0", decay));
        }
        self.algorithm.build().map_err(SettingError::algorithm(stage))?;
        if self.reference_every > 0 && !self.algorithm.resolve().needs_reference() {
            let key = format!("{stage}.reference_every");
            return Err(SettingError::range(key, "0: the loss reads no reference", self.reference_every));
        }
        Ok(())
    }
}

/// `"kto"`, or `{ preset = "kto", beta = 0.3 }`.
fn named_or_table<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PreferenceOverrides, D::Error> {
    let named = |preset: PreferencePreset| PreferenceOverrides { preset: Some(preset), ..Default::default() };
    name_or_table(deserializer, named)
}
