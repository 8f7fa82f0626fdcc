//! Settings of the stage.

use kyoka_algorithms::{AlgorithmOverrides, CriticKind, OwnParts, Preset};
use kyoka_core::{RolloutError, SamplingConfig};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    AdamWConfig, LearningRate, SettingError, Unread, name_or_table::name_or_table, range::at_least_1,
    sft::default_budget,
};

/// Settings of the stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RlConfig {
    /// Name of the split whose answers are rewards.
    pub data: String,
    /// Steps of the policy. Those that train a critic alone (`critic_pretrain_steps`) come before them.
    pub steps: usize,
    /// Ends the stage early, after the step that generates this many tokens in all; greedy baselines and groups that are
    /// thrown away count. Default 0: no limit.
    #[serde(default)]
    pub max_generated_tokens: u64,
    /// Prompts a step; at least 1.
    pub prompts_per_step: usize,
    /// Completions a prompt; at least 1, and as many as the estimator compares.
    pub group_size: usize,
    /// A preset by name, or a table of a `preset` and single fields that differ from it.
    #[serde(default, deserialize_with = "named_or_table")]
    pub algorithm: AlgorithmOverrides,
    /// How completions are drawn: from the whole policy at a temperature of at least 0.01; `top_k`, `top_p` and `min_p` are
    /// refused, see [`check_sampling`](Self::check_sampling).
    #[serde(default)]
    pub sampling: SamplingConfig,
    /// Learning rate over the policy's updates: `steps * updates_per_batch * mini_batches` of them.
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
    /// Largest share of a step's completions of which no reward could say anything, in [0, 1]; a larger one ends the run. Default
    /// 0.5.
    #[serde(default = "half")]
    pub max_ungraded: f64,
    /// Most tokens a micro-batch; at least 1. Default 8192.
    #[serde(default = "default_budget")]
    pub tokens_per_micro_batch: usize,
    /// Steps between evaluations; 0 evaluates at the end only.
    #[serde(default)]
    pub eval_every: usize,
}

/// Coldest policy that is trained: below it, log-probabilities are rounding errors of the logits.
const LEAST_TEMPERATURE: f32 = 0.01;

impl RlConfig {
    /// GRPO on the rows of `data`: 100 steps of 8 prompts with 8 completions each, and the defaults of all else.
    pub fn new(data: &str, learning_rate: LearningRate) -> Self {
        Self {
            data: data.to_owned(),
            steps: 100,
            max_generated_tokens: 0,
            prompts_per_step: 8,
            group_size: 8,
            algorithm: AlgorithmOverrides::default(),
            sampling: SamplingConfig::default(),
            learning_rate,
            optimizer: AdamWConfig::default(),
            augment: true,
            max_refills: three(),
            max_ungraded: half(),
            tokens_per_micro_batch: default_budget(),
            eval_every: 0,
        }
    }

    /// Checks ranges and combination; `stage` is the stage's name in the recipe, `parts` what another crate brings.
    ///
    /// # Errors
    /// Names the setting, its range and the value.
    pub fn check(&self, stage: &str, parts: &OwnParts) -> Result<(), SettingError> {
        self.check_ranges(stage)?;
        let algorithm = self.algorithm.build_with(self.group_size, parts);
        algorithm.map(drop).map_err(SettingError::algorithm(stage))
    }

    /// Checks the ranges of all but the algorithm.
    pub(crate) fn check_ranges(&self, stage: &str) -> Result<(), SettingError> {
        let counts = [
            ("prompts_per_step", self.prompts_per_step),
            ("group_size", self.group_size),
            ("tokens_per_micro_batch", self.tokens_per_micro_batch),
        ];
        at_least_1(stage, &counts)?;
        if !(0.0..=1.0).contains(&self.max_ungraded) {
            let (key, expected) = (format!("{stage}.max_ungraded"), "a number in [0, 1]");
            return Err(SettingError::range(key, expected, self.max_ungraded));
        }
        self.check_sampling(stage)?;
        self.learning_rate.check(&format!("{stage}.learning_rate"))?;
        self.optimizer.check(&format!("{stage}.optimizer"))?;
        let completions = self.prompts_per_step.saturating_mul(self.group_size);
        let mini_batches = self.algorithm.resolve().mini_batches;
        if mini_batches > completions {
            let key = format!("{stage}.algorithm.mini_batches");
            let expected = format!("at most the {completions} completion(s) of a batch");
            return Err(SettingError::range(key, expected, mini_batches));
        }
        Ok(())
    }

    /// Refuses to draw from another policy than the one that is trained.
    ///
    /// Temperature and banned tokens are part of the policy: its log-probabilities, ratios, divergences and entropies are
    /// those of what is drawn. Top-k, top-p and min-p are not: what they cut off is never drawn, so nothing lowers its
    /// probability, mass gathers there, and no importance weight (`correction`) can make up for tokens that never come.
    ///
    /// # Errors
    /// If a sampling setting is out of range, the temperature is below 0.01, or tokens are cut off.
    pub fn check_sampling(&self, stage: &str) -> Result<(), SettingError> {
        let sampling = &self.sampling;
        let bad = |field: &str, expected: &str, got: String| {
            Err(SettingError::range(format!("{stage}.sampling.{field}"), expected, got))
        };
        match sampling.validate() {
            Err(RolloutError::Config { field, expected, got }) => return bad(field, expected, got),
            Err(error) => {
                return Err(SettingError::range(format!("{stage}.sampling"), "a valid setting", error));
            }
            Ok(()) => {}
        }
        let temperature = sampling.temperature;
        if temperature < LEAST_TEMPERATURE {
            let expected =
                "at least 0.01: training needs completions that differ, drawn from the policy itself";
            return bad("temperature", expected, temperature.to_string());
        }
        let cut = [
            ("top_k", sampling.top_k > 0, sampling.top_k.to_string()),
            ("top_p", sampling.top_p < 1.0, sampling.top_p.to_string()),
            ("min_p", sampling.min_p > 0.0, sampling.min_p.to_string()),
        ];
        match cut.into_iter().find(|(_, cuts, _)| *cuts) {
            Some((field, _, got)) => bad(field, UNCUT, got),
            None => Ok(()),
        }
    }

    /// Steps that train a critic alone, before those of the policy.
    pub fn pretrain_steps(&self) -> usize {
        let algorithm = self.algorithm.resolve();
        if algorithm.critic == CriticKind::None { 0 } else { algorithm.critic_pretrain_steps }
    }

    /// All steps of the stage.
    pub fn total_steps(&self) -> usize {
        self.pretrain_steps() + self.steps
    }

    /// What the chosen parts do not read.
    pub fn unread(&self, stage: &str) -> Vec<Unread> {
        let mut unread = self.learning_rate.unread(&format!("{stage}.learning_rate"));
        if !self.algorithm.resolve().dynamic_sampling {
            let reader = "algorithm.dynamic_sampling = true";
            unread.push(Unread { key: format!("{stage}.max_refills"), reader });
        }
        unread
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

fn half() -> f64 {
    0.5
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

    fn config() -> RlConfig {
        let text = r#"{"data": "d", "steps": 1, "prompts_per_step": 2, "group_size": 4,
            "learning_rate": {"peak": 1e-3}}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn settings_out_of_range_name_their_place() {
        assert!(config().check("rl", &OwnParts::default()).is_ok());
        let sampling = |change: fn(&mut SamplingConfig)| {
            let mut config = config();
            change(&mut config.sampling);
            config
        };
        let algorithm = |text: &str| RlConfig { algorithm: serde_json::from_str(text).unwrap(), ..config() };
        let optimizer = AdamWConfig { beta_1: 1.0, ..AdamWConfig::default() };
        for (config, message) in [
            (RlConfig { group_size: 0, ..config() }, "rl.group_size: expected at least 1, got 0"),
            (
                RlConfig { max_ungraded: 1.5, ..config() },
                "rl.max_ungraded: expected a number in [0, 1], got 1.5",
            ),
            (
                RlConfig { tokens_per_micro_batch: 0, ..config() },
                "rl.tokens_per_micro_batch: expected at least 1, got 0",
            ),
            (RlConfig { optimizer, ..config() }, "rl.optimizer.beta_1: expected a number in [0, 1), got 1"),
            (sampling(|s| s.top_p = 0.0), "rl.sampling.top_p: expected a number in (0, 1], got 0"),
            (
                sampling(|s| s.temperature = 0.0),
                "rl.sampling.temperature: expected at least 0.01: training needs completions that differ, drawn from the policy itself, got 0",
            ),
            (algorithm(r#"{"clip_low": 2}"#), "rl.algorithm.clip_low: expected a number in (0, 1], got 2"),
            (
                algorithm(r#"{"mini_batches": 9}"#),
                "rl.algorithm.mini_batches: expected at most the 8 completion(s) of a batch, got 9",
            ),
        ] {
            assert_eq!(config.check("rl", &OwnParts::default()).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn what_nothing_reads_is_listed() {
        let keys = |config: RlConfig| -> Vec<String> {
            config.unread("rl").into_iter().map(|unread| unread.key).collect()
        };
        assert_eq!(keys(config()), ["rl.learning_rate.final_share", "rl.max_refills"]);
        let dapo = AlgorithmOverrides { preset: Some(Preset::Dapo), ..Default::default() };
        assert_eq!(keys(RlConfig { algorithm: dapo, ..config() }), ["rl.learning_rate.final_share"]);
    }
}
