//! What a rollout engine and a trainer ask of a language model.

use burn::tensor::{Device, Tensor};

use crate::{AnsweredTurn, Distribution, Prompt, Recompute, Rollout, Segment, rollout::segments};

/// A completion as a pass reads it.
#[derive(Debug, Clone, Copy)]
pub struct PackedCompletion<'a> {
    /// Tokens that the policy drew, or is to learn, end token included: what a score is of.
    pub token_ids: &'a [u32],
    /// What it read in between; empty for a completion of one turn.
    pub turns: &'a [AnsweredTurn],
}

impl<'a> PackedCompletion<'a> {
    /// Tokens that are scored.
    pub fn len(self) -> usize {
        self.token_ids.len()
    }

    /// Whether nothing is scored.
    pub fn is_empty(self) -> bool {
        self.token_ids.is_empty()
    }

    /// Who wrote what, in order.
    pub fn segments(self) -> impl Iterator<Item = Segment<'a>> {
        segments(self.token_ids.len(), self.turns)
    }
}

impl<'a> From<&'a [u32]> for PackedCompletion<'a> {
    fn from(token_ids: &'a [u32]) -> Self {
        Self { token_ids, turns: &[] }
    }
}

impl<'a> From<&'a Vec<u32>> for PackedCompletion<'a> {
    fn from(token_ids: &'a Vec<u32>) -> Self {
        token_ids.as_slice().into()
    }
}

impl<'a, const N: usize> From<&'a [u32; N]> for PackedCompletion<'a> {
    fn from(token_ids: &'a [u32; N]) -> Self {
        token_ids.as_slice().into()
    }
}

impl<'a> From<&'a Rollout> for PackedCompletion<'a> {
    fn from(rollout: &'a Rollout) -> Self {
        Self { token_ids: &rollout.token_ids, turns: &rollout.turns }
    }
}

/// A prompt with its completions: the unit of training.
#[derive(Debug, Clone)]
pub struct PackedGroup<'a> {
    /// The prompt, read once for all completions.
    pub prompt: &'a Prompt,
    /// The completions.
    pub completions: Vec<PackedCompletion<'a>>,
}

/// A decoder's answer to a batch of prompts.
pub struct Prefill<C> {
    /// Keys and values of the prompts.
    pub cache: C,
    /// Logits of the first completion token, shape `[B, V]`.
    pub logits: Tensor<2>,
}

/// A causal language model that can be sampled from and trained.
///
/// Sampling reads a prompt once per group: [`prefill`](Self::prefill) gives one cache entry a prompt, and
/// [`branch`](Self::branch) opens `G` completions over it without copying the prompt's keys and values.
/// Training mirrors it: [`score`](Self::score) runs each prompt once, whatever the number of completions.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no language model that can be sampled from and trained",
    note = "implement `CausalLm`, or use `kyoka_fusion::MultimodalLm` with encoders of your own"
)]
pub trait CausalLm: Sized {
    /// Keys and values of prompts and of the completions under way.
    type Cache;

    /// Reads the prompts.
    fn prefill(&self, prompts: &[&Prompt]) -> Prefill<Self::Cache>;

    /// Opens `group_size` completions of at most `max_tokens` tokens, observations included, over every prompt of the cache.
    ///
    /// Rows are numbered group by group: row `b * group_size + g`.
    fn branch(&self, cache: &mut Self::Cache, group_size: usize, max_tokens: usize);

    /// Appends one token to every open row and returns the logits of the next, shape `[R, V]`.
    fn decode(&self, cache: &mut Self::Cache, token_ids: &[u32]) -> Tensor<2>;

    /// Appends a whole segment to each of the open `rows` (increasing), media and all, and returns the logits of the token
    /// behind each, shape `[rows, V]`. The rows are numbered after all others from then on, in their order.
    ///
    /// # Panics
    /// If a segment is empty or a row has no room for it.
    fn extend(&self, cache: &mut Self::Cache, rows: &[usize], segments: &[&Prompt]) -> Tensor<2>;

    /// Keeps the rows in `rows` (increasing), drops the others; kept rows are renumbered in order.
    fn retain(&self, cache: &mut Self::Cache, rows: &[usize]);

    /// Lets the open rows of `more` join those of `cache`, numbered after them: places that finished completions left
    /// are filled from the next prompts.
    fn append(&self, cache: &mut Self::Cache, more: Self::Cache);

    /// Whether logits lie in host memory, where reading them takes no copy from a device.
    fn is_on_host(&self) -> bool;

    /// Log-probabilities of given completions, prompt and completions in one forward pass.
    ///
    /// Rows follow the order of groups and completions; padding holds 0. Observations are read where they stand and not
    /// scored: columns are the tokens that the policy drew. A completion with a banned token has no finite log-probability.
    ///
    /// # Panics
    /// If a prompt or a completion is empty.
    ///
    /// # Shapes
    /// - output: `[R, T]`, `T` the longest completion
    fn score(&self, groups: &[PackedGroup<'_>], distribution: &Distribution<'_>) -> Tensor<2>;

    /// [`score`](Self::score), and the hidden rows that it comes from: what a value head reads.
    ///
    /// # Shapes
    /// - log-probabilities: `[R, T]`
    /// - hidden: `[R, T, D]`, for each token the row that predicts it; padding holds 0
    fn score_with_hidden(
        &self,
        groups: &[PackedGroup<'_>],
        distribution: &Distribution<'_>,
    ) -> (Tensor<2>, Tensor<3>);

    /// Logits of hidden rows, before any [`Distribution`].
    ///
    /// # Shapes
    /// - input: `[N, D]`, rows of [`score_with_hidden`](Self::score_with_hidden)
    /// - output: `[N, V]`
    fn logits(&self, hidden: Tensor<2>) -> Tensor<2>;

    /// Decides what passes with gradients drop at random from here on: nothing, or what follows from a seed. The same
    /// passes after the same seed drop the same. A model without dropout has nothing to do.
    fn set_dropout(&mut self, seed: Option<u64>);

    /// The model as one that can recompute its layers in the backward pass; `None`, the default, if it cannot:
    /// `gradient_checkpointing` is refused for it.
    fn recompute(&self) -> Option<&dyn Recompute> {
        None
    }

    /// Where the parameters live.
    fn device(&self) -> Device;

    /// Width of a hidden row.
    fn d_model(&self) -> usize;

    /// Size of the vocabulary.
    fn vocab_size(&self) -> usize;

    /// Longest sequence, prompt and completion together, that the model was built for.
    fn max_positions(&self) -> usize;
}
