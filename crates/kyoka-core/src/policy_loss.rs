//! The per-token surrogate that a policy step minimises.

use burn::tensor::{Bool, Tensor};

/// What a policy loss sees; all tensors have shape `[R, T]`, all log-probabilities are of one
/// [`Distribution`](crate::Distribution), the one that completions are drawn from.
#[derive(Debug, Clone)]
pub struct PolicyLossInput {
    /// Log-probabilities under the policy being trained; carries the gradient.
    pub policy_logprobs: Tensor<2>,
    /// Log-probabilities at sampling time.
    pub old_logprobs: Tensor<2>,
    /// Credit per token.
    pub advantages: Tensor<2>,
    /// True on the tokens that count.
    pub loss_mask: Tensor<2, Bool>,
}

/// What a policy loss gives back.
#[derive(Debug, Clone)]
pub struct PolicyLossOutput {
    /// Loss per token, shape `[R, T]`, 0 outside the mask; reduction is a separate step.
    pub per_token: Tensor<2>,
    /// True where the clip cut the gradient, shape `[R, T]`.
    pub clipped: Tensor<2, Bool>,
}

/// A surrogate objective, one value a token.
pub trait PolicyLoss: Send + Sync {
    /// Evaluates the loss; the reduction over tokens and rows is not its business.
    fn evaluate(&self, input: PolicyLossInput) -> PolicyLossOutput;
}
