//! What a rollout engine and a trainer ask of a language model.

use burn::tensor::{Device, Tensor};

use crate::{Distribution, Prompt, Recompute};

/// A prompt with its completions: the unit of training.
#[derive(Debug, Clone)]
pub struct PackedGroup<'a> {
    /// The prompt, read once for all completions.
    pub prompt: &'a Prompt,
    /// Token ids of each completion, end token included.
    pub completions: Vec<&'a [u32]>,
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

    /// Opens `group_size` completions of at most `max_new_tokens` tokens over every prompt of the cache.
    ///
    /// Rows are numbered group by group: row `b * group_size + g`.
    fn branch(&self, cache: &mut Self::Cache, group_size: usize, max_new_tokens: usize);

    /// Appends one token to every open row and returns the logits of the next, shape `[R, V]`.
    fn decode(&self, cache: &mut Self::Cache, token_ids: &[u32]) -> Tensor<2>;

    /// Keeps the rows in `rows` (increasing), drops the others; kept rows are renumbered in order.
    fn retain(&self, cache: &mut Self::Cache, rows: &[usize]);

    /// Lets the open rows of `more` join those of `cache`, numbered after them: places that finished completions left
    /// are filled from the next prompts.
    fn append(&self, cache: &mut Self::Cache, more: Self::Cache);

    /// Whether logits lie in host memory, where reading them takes no copy from a device.
    fn is_on_host(&self) -> bool;

    /// Log-probabilities of given completions, prompt and completions in one forward pass.
    ///
    /// Rows follow the order of groups and completions; padding holds 0. A completion with a banned token has no
    /// finite log-probability.
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
