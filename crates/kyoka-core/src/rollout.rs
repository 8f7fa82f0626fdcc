//! Completions that a policy gives to a prompt.

use serde::{Deserialize, Serialize};

use crate::{Distribution, Prompt};

/// How completions are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingConfig {
    /// Divides the logits; 0 means the likeliest token always. Default 1.
    pub temperature: f32,
    /// Keeps the k likeliest tokens; 0 keeps all. Default 0.
    pub top_k: usize,
    /// Keeps the smallest set of tokens whose probabilities reach this sum, in (0, 1]. Default 1.
    pub top_p: f32,
    /// Drops tokens less likely than this share of the likeliest one, in [0, 1). Default 0.
    pub min_p: f32,
    /// Most tokens of a completion, end token included. Default 64.
    pub max_new_tokens: usize,
    /// Texts that end a completion when they appear; the completion keeps them. Default none.
    pub stop: Vec<String>,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, max_new_tokens: 64, stop: Vec::new() }
    }
}

impl SamplingConfig {
    /// The likeliest token at every step.
    pub fn greedy(max_new_tokens: usize) -> Self {
        Self { temperature: 0.0, max_new_tokens, ..Self::default() }
    }

    /// What the log-probabilities of drawn tokens mean: the likeliest token is drawn from the policy at temperature 1.
    pub fn distribution<'a>(&self, banned: &'a [u32]) -> Distribution<'a> {
        let temperature = if self.temperature == 0.0 { 1.0 } else { self.temperature };
        Distribution { temperature, banned }
    }

    /// Whether every token that is not banned can be drawn, with the probability that
    /// [`distribution`](Self::distribution) gives it.
    pub fn draws_from_the_whole_distribution(&self) -> bool {
        self.temperature > 0.0 && self.top_k == 0 && self.top_p == 1.0 && self.min_p == 0.0
    }

    /// Checks the ranges named at the fields.
    pub fn validate(&self) -> Result<(), RolloutError> {
        let out_of_range = |field, expected, got: String| RolloutError::Config { field, expected, got };
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(out_of_range(
                "temperature",
                "a finite number of at least 0",
                self.temperature.to_string(),
            ));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(out_of_range("top_p", "a number in (0, 1]", self.top_p.to_string()));
        }
        if !(0.0..1.0).contains(&self.min_p) {
            return Err(out_of_range("min_p", "a number in [0, 1)", self.min_p.to_string()));
        }
        if self.max_new_tokens == 0 {
            return Err(out_of_range("max_new_tokens", "at least 1", "0".into()));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(out_of_range("stop", "texts that are not empty", "an empty text".into()));
        }
        Ok(())
    }
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The end token was drawn.
    EndToken,
    /// A stop text appeared.
    StopText,
    /// The limit of tokens was reached.
    Length,
}

/// One completion.
#[derive(Debug, Clone)]
pub struct Rollout {
    /// Tokens drawn, end token included.
    pub token_ids: Vec<u32>,
    /// Log-probability of each token in [`SamplingConfig::distribution`]: before top-k, top-p and min-p.
    pub logprobs: Vec<f32>,
    /// Entropy of that distribution where each token was drawn, in nats; empty from an engine that cannot tell.
    pub entropies: Vec<f32>,
    /// Why it ended.
    pub stop_reason: StopReason,
}

impl Rollout {
    /// Whether the limit of tokens cut it off.
    pub fn is_truncated(&self) -> bool {
        self.stop_reason == StopReason::Length
    }
}

/// The completions of one prompt.
#[derive(Debug, Clone)]
pub struct RolloutGroup {
    /// The prompt they answer.
    pub prompt: Prompt,
    /// The completions.
    pub rollouts: Vec<Rollout>,
    /// Number of optimizer steps the sampling policy had taken.
    pub policy_version: u64,
}

/// What is asked of an engine.
#[derive(Debug, Clone, Copy)]
pub struct RolloutRequest<'a> {
    /// The prompts; each becomes a group.
    pub prompts: &'a [Prompt],
    /// Completions a prompt.
    pub group_size: usize,
    /// How to draw them.
    pub sampling: &'a SamplingConfig,
    /// Same seed, same completions, whatever the batching.
    pub seed: u64,
    /// Recorded in the groups.
    pub policy_version: u64,
}

impl RolloutRequest<'_> {
    /// What an engine gave, if it is what was asked for: a group a prompt, as many completions as wanted, each with at
    /// least a token and with a log-probability for every token.
    ///
    /// # Errors
    /// Says what is missing, and of which prompt.
    pub fn checked(&self, groups: Vec<RolloutGroup>) -> Result<Vec<RolloutGroup>, RolloutError> {
        let (expected, got) = (self.prompts.len(), groups.len());
        if got != expected {
            return Err(RolloutError::Count { what: "groups, one a prompt", expected, got });
        }
        for (index, group) in groups.iter().enumerate() {
            let (expected, got) = (self.group_size, group.rollouts.len());
            if got != expected {
                return Err(RolloutError::Count { what: "completions of every prompt", expected, got });
            }
            for Rollout { token_ids, logprobs, .. } in &group.rollouts {
                let (expected, got) = (token_ids.len(), logprobs.len());
                if expected == 0 {
                    return Err(RolloutError::EmptyCompletion { index });
                }
                if got != expected {
                    return Err(RolloutError::MissingLogprobs { index, expected, got });
                }
            }
        }
        Ok(groups)
    }
}

/// Draws completions from a policy, in this process or elsewhere.
pub trait RolloutEngine {
    /// Tokens that are never drawn: they have no share of the probabilities, here and wherever completions are scored.
    fn banned_ids(&self) -> &[u32];

    /// One group per prompt, in order.
    fn generate(&self, request: RolloutRequest<'_>) -> Result<Vec<RolloutGroup>, RolloutError>;
}

/// Why no completions came.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// A sampling setting is out of range.
    #[error("sampling: {field}: expected {expected}, got {got}")]
    Config {
        /// The setting.
        field: &'static str,
        /// Its range.
        expected: &'static str,
        /// The value found.
        got: String,
    },
    /// Prompt and completion do not fit the model.
    #[error(
        "prompt {index}: {prompt_tokens} tokens and {new_tokens} new ones exceed the model's {max_positions} positions"
    )]
    TooLong {
        /// Place in the request.
        index: usize,
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens asked for.
        new_tokens: usize,
        /// What the model holds.
        max_positions: usize,
    },
    /// A prompt holds no token.
    #[error("prompt {index} is empty")]
    EmptyPrompt {
        /// Place in the request.
        index: usize,
    },
    /// The engine gave more or less than it was asked for.
    #[error("expected {expected} {what}, got {got}")]
    Count {
        /// What was asked for.
        what: &'static str,
        /// How many.
        expected: usize,
        /// How many came.
        got: usize,
    },
    /// A completion holds no token, not even an end token.
    #[error("prompt {index}: expected a completion of at least one token, got an empty one")]
    EmptyCompletion {
        /// Place in the request.
        index: usize,
    },
    /// The engine did not say how likely its tokens were, which every update needs.
    #[error("prompt {index}: expected {expected} log-probabilities of the tokens of a completion, got {got}")]
    MissingLogprobs {
        /// Place in the request.
        index: usize,
        /// Tokens of the completion.
        expected: usize,
        /// Log-probabilities that came.
        got: usize,
    },
    /// The engine was told to stop; what it had sampled is thrown away.
    #[error("stopped on request")]
    Interrupted,
    /// The model gave logits that are not finite.
    #[error("prompt {index}: the model's logits are not finite (NaN or infinite weights?)")]
    NotFinite {
        /// Place in the request.
        index: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(completions: &[(usize, usize)]) -> RolloutGroup {
        let rollout = |&(tokens, logprobs): &(usize, usize)| Rollout {
            token_ids: vec![1; tokens],
            logprobs: vec![-1.0; logprobs],
            entropies: Vec::new(),
            stop_reason: StopReason::EndToken,
        };
        RolloutGroup {
            prompt: Prompt::default(),
            rollouts: completions.iter().map(rollout).collect(),
            policy_version: 0,
        }
    }

    #[test]
    fn what_an_engine_gives_is_what_was_asked_for() {
        let (prompts, sampling) = ([Prompt::default(), Prompt::default()], SamplingConfig::default());
        let request = RolloutRequest {
            prompts: &prompts,
            group_size: 2,
            sampling: &sampling,
            seed: 0,
            policy_version: 0,
        };
        let checked = |groups| request.checked(groups).map(drop).map_err(|error| error.to_string());
        let whole = || group(&[(2, 2), (1, 1)]);
        assert_eq!(checked(vec![whole(), whole()]), Ok(()));
        for (groups, message) in [
            (vec![whole()], "expected 2 groups, one a prompt, got 1"),
            (vec![whole(), group(&[(1, 1)])], "expected 2 completions of every prompt, got 1"),
            (
                vec![group(&[(1, 1), (0, 0)]), whole()],
                "prompt 0: expected a completion of at least one token, got an empty one",
            ),
            (
                vec![whole(), group(&[(2, 0), (1, 1)])],
                "prompt 1: expected 2 log-probabilities of the tokens of a completion, got 0",
            ),
        ] {
            assert_eq!(checked(groups), Err(message.to_owned()));
        }
    }
}
