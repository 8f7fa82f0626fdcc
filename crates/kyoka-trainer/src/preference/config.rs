//! Settings of the stage.

use kyoka_algorithms::preference::{PreferenceOverrides, PreferencePreset};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{AdamWConfig, LearningRate, name_or_table::name_or_table, sft::default_budget};

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
    /// Pairs a step.
    pub batch_size: usize,
    /// A preset by name (`"dpo"`, `"ipo"`, `"kto"`, `"mpo"`), or a table of a `preset` and single fields that differ.
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
    /// Most tokens a micro-batch; a pair is never split. Default 8192.
    #[serde(default = "default_budget")]
    pub tokens_per_micro_batch: usize,
    /// Steps between evaluations; 0 evaluates at the end only.
    #[serde(default)]
    pub eval_every: usize,
}

/// `"kto"`, or `{ preset = "kto", beta = 0.3 }`.
fn named_or_table<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PreferenceOverrides, D::Error> {
    let named = |preset: PreferencePreset| PreferenceOverrides { preset: Some(preset), ..Default::default() };
    name_or_table(deserializer, named)
}
