//! Completions that a policy gives to a prompt.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{CompletedTurn, Distribution, EnvironmentError, Prompt};

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
    /// An environment ended the episode.
    Environment,
    /// The limit of turns was reached.
    Turns,
    /// What the environment said had no room in the limit of observations.
    Observations,
}

impl StopReason {
    /// Whether a limit of tokens cut the completion off.
    pub fn is_truncation(self) -> bool {
        matches!(self, Self::Length | Self::Observations)
    }
}

/// A turn that an environment has answered.
#[derive(Debug, Clone)]
pub struct AnsweredTurn {
    /// Tokens drawn up to its end, in all turns.
    pub end: usize,
    /// What it was worth by itself, if the environment says so.
    pub reward: Option<f32>,
    /// What the policy read before it went on, laid out as its family does: seen, never learned. `None` for the last turn.
    pub observation: Option<Prompt>,
}

/// One completion: a turn of the policy, or several with an environment's answers in between.
///
/// What the policy drew stands in a row of its own, as what the environment said has no probability, no credit and no loss.
#[derive(Debug, Clone)]
pub struct Rollout {
    /// Tokens drawn, in all turns, end tokens included.
    pub token_ids: Vec<u32>,
    /// Log-probability of each token in [`SamplingConfig::distribution`]: before top-k, top-p and min-p.
    pub logprobs: Vec<f32>,
    /// Entropy of that distribution where each token was drawn, in nats; empty from an engine that cannot tell.
    pub entropies: Vec<f32>,
    /// Turns that an environment has answered, in order; empty without one.
    pub turns: Vec<AnsweredTurn>,
    /// Why it ended.
    pub stop_reason: StopReason,
}

/// A piece of a completion, by who wrote it.
#[derive(Debug, Clone)]
pub enum Segment<'a> {
    /// The policy: which of the tokens that it drew.
    Policy(Range<usize>),
    /// An environment.
    Environment(&'a Prompt),
}

impl Rollout {
    /// Who wrote what, in order. What nothing was drawn after is left out.
    ///
    /// ```
    /// use kyoka_core::{AnsweredTurn, Prompt, Rollout, Segment, StopReason};
    ///
    /// let observation = Prompt { token_ids: vec![9, 9], ..Prompt::default() };
    /// let turn = AnsweredTurn { end: 2, reward: None, observation: Some(observation) };
    /// let mut rollout = Rollout::of_turn(vec![1, 2, 3], vec![-1.0; 3], Vec::new(), StopReason::EndToken);
    /// rollout.turns.push(turn);
    /// let lengths = rollout.segments().map(|segment| match segment {
    ///     Segment::Policy(tokens) => tokens.len(),
    ///     Segment::Environment(seen) => seen.len(),
    /// });
    /// assert_eq!(lengths.collect::<Vec<_>>(), [2, 2, 1]);
    /// assert_eq!(rollout.num_tokens(), 5);
    /// ```
    pub fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        segments(self.token_ids.len(), &self.turns)
    }

    /// Tokens of the completion, those of observations included.
    pub fn num_tokens(&self) -> usize {
        self.token_ids.len() + observation_tokens(&self.turns)
    }

    /// A completion of one turn.
    pub fn of_turn(
        token_ids: Vec<u32>,
        logprobs: Vec<f32>,
        entropies: Vec<f32>,
        stop_reason: StopReason,
    ) -> Self {
        Self { token_ids, logprobs, entropies, turns: Vec::new(), stop_reason }
    }

    /// The turns as rewards see them.
    pub fn completed_turns(&self) -> Vec<CompletedTurn> {
        let mut start = 0;
        let turn = |turn: &AnsweredTurn| {
            let tokens = std::mem::replace(&mut start, turn.end)..turn.end;
            CompletedTurn { tokens, reward: turn.reward }
        };
        self.turns.iter().map(turn).collect()
    }

    /// Whether a limit of tokens cut it off.
    pub fn is_truncated(&self) -> bool {
        self.stop_reason.is_truncation()
    }
}

/// Tokens that a policy drew, and what it read in between; see [`Rollout::segments`].
pub(crate) fn segments(num_drawn: usize, turns: &[AnsweredTurn]) -> impl Iterator<Item = Segment<'_>> {
    let mut start = 0;
    let answered = turns.iter().filter(move |turn| turn.end < num_drawn);
    let mut pieces = Vec::with_capacity(2 * turns.len() + 1);
    for turn in answered {
        if let Some(seen) = &turn.observation {
            pieces.push(Segment::Policy(start..turn.end));
            pieces.push(Segment::Environment(seen));
            start = turn.end;
        }
    }
    pieces.push(Segment::Policy(start..num_drawn));
    pieces.into_iter()
}

/// Tokens that a policy read between those that it drew.
pub(crate) fn observation_tokens(turns: &[AnsweredTurn]) -> usize {
    turns.iter().filter_map(|turn| turn.observation.as_ref()).map(Prompt::len).sum()
}

/// The completions of one prompt.
#[derive(Debug, Clone)]
pub struct RolloutGroup {
    /// The prompt they answer.
    pub prompt: Prompt,
    /// The completions.
    pub rollouts: Vec<Rollout>,
    /// Version of the weights that they were drawn under, as [`RolloutEngine::publish`](crate::RolloutEngine::publish) numbered it.
    pub policy_version: u64,
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
    /// An engine elsewhere could not be reached, or could not do its work.
    #[error("engine: {source}")]
    Engine {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
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
    /// The engine gave the group of a prompt again.
    #[error("prompt {index}: expected its group once, got it twice")]
    Twice {
        /// Place in the request.
        index: usize,
    },
    /// A completion is longer than was asked for.
    #[error("prompt {index}: expected completions of at most {expected} tokens, got one of {got}")]
    CompletionTooLong {
        /// Place in the request.
        index: usize,
        /// The limit.
        expected: usize,
        /// Its tokens.
        got: usize,
    },
    /// What stands for a log-probability is none: a token that was drawn has one above minus infinity.
    #[error("prompt {index}: expected finite log-probabilities of at most 0, got {got}")]
    NoLogprob {
        /// Place in the request.
        index: usize,
        /// The value.
        got: f32,
    },
    /// What stands for an entropy is none.
    #[error("prompt {index}: expected finite entropies of at least 0, got {got}")]
    NoEntropy {
        /// Place in the request.
        index: usize,
        /// The value.
        got: f32,
    },
    /// A completion holds a token that is never drawn, see [`RolloutEngine::banned_ids`](crate::RolloutEngine::banned_ids).
    #[error("prompt {index}: expected completions without banned tokens, got one with token {token}")]
    BannedToken {
        /// Place in the request.
        index: usize,
        /// The token.
        token: u32,
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
    /// An environment failed, or what it said cannot be laid out.
    #[error("environment: prompt {index}: {source}")]
    Environment {
        /// Place in the request.
        index: usize,
        /// Why.
        source: EnvironmentError,
    },
    /// The turns of a completion do not stand in it, one after the other.
    #[error("prompt {index}: expected {expected}, got turns that end at {got:?}")]
    Turns {
        /// Place in the request.
        index: usize,
        /// Where they may end.
        expected: String,
        /// Where they do.
        got: Vec<usize>,
    },
    /// The model gave logits that are not finite.
    #[error("prompt {index}: the model's logits are not finite (NaN or infinite weights?)")]
    NotFinite {
        /// Place in the request.
        index: usize,
    },
}
