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

impl PolicyLossOutput {
    /// Looks at what a loss gave for log-probabilities of a shape `[R, T]`.
    ///
    /// # Errors
    /// Names what has another shape, and both.
    pub fn check(&self, expected: [usize; 2]) -> Result<(), PolicyLossError> {
        for (what, got) in [("per_token", self.per_token.dims()), ("clipped", self.clipped.dims())] {
            if got != expected {
                return Err(PolicyLossError { what, expected, got });
            }
        }
        Ok(())
    }
}

/// What a loss gave has another shape than the log-probabilities that it saw.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: expected the shape of the log-probabilities, {expected:?}, got {got:?}")]
pub struct PolicyLossError {
    /// Field of [`PolicyLossOutput`].
    pub what: &'static str,
    /// Rows and tokens of the log-probabilities.
    pub expected: [usize; 2],
    /// Its own.
    pub got: [usize; 2],
}

/// A surrogate objective, one value a token.
///
/// ```
/// use kyoka_core::{PolicyLoss, PolicyLossInput, PolicyLossOutput};
///
/// /// The advantage times the ratio, without a bound.
/// struct Plain;
///
/// impl PolicyLoss for Plain {
///     fn evaluate(&self, input: PolicyLossInput) -> PolicyLossOutput {
///         let PolicyLossInput { policy_logprobs, old_logprobs, advantages, loss_mask } = input;
///         let outside = loss_mask.clone().bool_not();
///         // Whatever stands at padding, its exponential must not overflow.
///         let log_ratio = (policy_logprobs - old_logprobs).mask_fill(outside.clone(), 0.0);
///         let per_token = (log_ratio.exp() * advantages).neg().mask_fill(outside.clone(), 0.0);
///         PolicyLossOutput { per_token, clipped: loss_mask.bool_and(outside) }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no policy loss",
    note = "implement `PolicyLoss`: a loss for every token that the mask keeps, 0 elsewhere"
)]
pub trait PolicyLoss: Send + Sync {
    /// The loss of every token and where a bound cut its gradient, both `[R, T]`; the reduction over tokens and rows is not its business.
    fn evaluate(&self, input: PolicyLossInput) -> PolicyLossOutput;

    /// Whether it looks at the ratio to the old policy. One that does not can take a batch's first update alone.
    fn has_ratio(&self) -> bool {
        true
    }
}
