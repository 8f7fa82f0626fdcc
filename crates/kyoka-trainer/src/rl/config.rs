//! Settings of the stage.

use kyoka_algorithms::{AlgorithmOverrides, Preset};
use kyoka_core::SamplingConfig;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{AdamWConfig, LearningRate, TrainError, name_or_table::name_or_table, sft::default_budget};

/// Settings of the stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RlConfig {
    /// Name of the split whose answers are rewards.
    pub data: String,
    /// Steps.
    pub steps: usize,
    /// Ends the stage early, after the step that generates this many tokens in all; greedy baselines and groups that are
    /// thrown away count. Default 0: no limit.
    #[serde(default)]
    pub max_generated_tokens: u64,
    /// Prompts a step.
    pub prompts_per_step: usize,
    /// Completions a prompt.
    pub group_size: usize,
    /// A preset by name, or a table of a `preset` and single fields that differ from it.
    #[serde(default, deserialize_with = "named_or_table")]
    pub algorithm: AlgorithmOverrides,
    /// How completions are drawn: from the whole policy at a temperature of at least 0.01; `top_k`, `top_p` and `min_p` are
    /// refused, see [`check_sampling`](Self::check_sampling).
    #[serde(default)]
    pub sampling: SamplingConfig,
    /// Learning rate.
    pub learning_rate: LearningRate,
    /// Optimizer.
    #[serde(default)]
    pub optimizer: AdamWConfig,
    /// Random changes of pictures and sounds, the same for all completions of a prompt. Default true.
    #[serde(default = "yes")]
    pub augment: bool,
    /// Rounds of further prompts that dynamic sampling may draw. Default 3.
    #[serde(default = "three")]
    pub max_refills: usize,
    /// Most tokens a micro-batch. Default 8192.
    #[serde(default = "default_budget")]
    pub tokens_per_micro_batch: usize,
    /// Steps between evaluations; 0 evaluates at the end only.
    #[serde(default)]
    pub eval_every: usize,
}

/// Coldest policy that is trained: below it, log-probabilities are rounding errors of the logits.
const LEAST_TEMPERATURE: f32 = 0.01;

impl RlConfig {
    /// Refuses to draw from another policy than the one that is trained.
    ///
    /// Temperature and banned tokens are part of the policy: its log-probabilities, ratios, divergences and entropies are
    /// those of what is drawn. Top-k, top-p and min-p are not: what they cut off is never drawn, so nothing lowers its
    /// probability, mass gathers there, and no importance weight (`correction`) can make up for tokens that never come.
    ///
    /// # Errors
    /// If a sampling setting is out of range, the temperature is below 0.01, or tokens are cut off.
    pub fn check_sampling(&self) -> Result<(), TrainError> {
        let sampling = &self.sampling;
        let bad = |field, expected, got: String| TrainError::Config { field, expected, got };
        sampling.validate().map_err(|e| bad("rl.sampling", "a valid setting", e.to_string()))?;
        let temperature = sampling.temperature;
        if temperature < LEAST_TEMPERATURE {
            let expected =
                "at least 0.01: training needs completions that differ, drawn from the policy itself";
            return Err(bad("rl.sampling.temperature", expected, temperature.to_string()));
        }
        let cut = [
            ("rl.sampling.top_k", sampling.top_k > 0, sampling.top_k.to_string()),
            ("rl.sampling.top_p", sampling.top_p < 1.0, sampling.top_p.to_string()),
            ("rl.sampling.min_p", sampling.min_p > 0.0, sampling.min_p.to_string()),
        ];
        match cut.into_iter().find(|(_, cuts, _)| *cuts) {
            Some((field, _, got)) => Err(bad(field, UNCUT, got)),
            None => Ok(()),
        }
    }
}

const UNCUT: &str = "top_k = 0, top_p = 1 and min_p = 0 in training (tokens that are never drawn are never \
                     learned from, and probability gathers there)";

/// `"vapo"`, or `{ preset = "vapo", clip_high = 0.3 }`.
fn named_or_table<'de, D: Deserializer<'de>>(deserializer: D) -> Result<AlgorithmOverrides, D::Error> {
    let named = |preset: Preset| AlgorithmOverrides { preset: Some(preset), ..Default::default() };
    name_or_table(deserializer, named)
}

fn yes() -> bool {
    true
}

fn three() -> usize {
    3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_algorithm_is_a_name_or_a_table() {
        #[derive(Debug, Deserialize)]
        struct Recipe {
            #[serde(deserialize_with = "named_or_table")]
            algorithm: AlgorithmOverrides,
        }
        let read = |text: &str| serde_json::from_str::<Recipe>(text);
        let named = read(r#"{"algorithm": "vapo"}"#).unwrap().algorithm;
        assert_eq!(named.preset, Some(Preset::Vapo));
        let table = read(r#"{"algorithm": {"preset": "vapo", "clip_high": 0.3}}"#).unwrap().algorithm;
        assert_eq!(table, AlgorithmOverrides { clip_high: Some(0.3), ..named });
        let unknown = read(r#"{"algorithm": {"clip_hihg": 0.3}}"#).unwrap_err().to_string();
        assert!(unknown.contains("clip_hihg"), "{unknown}");
        let nobody = read(r#"{"algorithm": "vappo"}"#).unwrap_err().to_string();
        assert!(nobody.contains("vappo"), "{nobody}");
    }
}
