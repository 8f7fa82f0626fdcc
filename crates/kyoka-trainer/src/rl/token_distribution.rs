//! What a policy says of the next token, from its hidden rows.

use burn::tensor::{Bool, Tensor, activation::log_softmax};
use kyoka_algorithms::entropy;
use kyoka_core::{CausalLm, Distribution};

/// A model, and the distribution that is made of its logits.
type Policy<'a, M> = (&'a M, &'a Distribution<'a>);

/// The distribution's logits of hidden rows `[R, T, D]`: `[R, T, V]`.
fn logits<M: CausalLm>((model, distribution): Policy<'_, M>, hidden: Tensor<3>) -> Tensor<3> {
    let [r, t, d] = hidden.dims();
    let logits = distribution.logits(model.logits(hidden.reshape([r * t, d])));
    let [_, vocab] = logits.dims();
    logits.reshape([r, t, vocab])
}

/// Log-probabilities of the whole vocabulary at every token, `[R, T, V]`.
pub(super) fn log_distribution<M: CausalLm>(policy: Policy<'_, M>, hidden: Tensor<3>) -> Tensor<3> {
    log_softmax(logits(policy, hidden), 2)
}

/// Entropies of the policy at every token, `[R, T]`.
pub(super) fn entropies<M: CausalLm>(
    policy: Policy<'_, M>,
    hidden: Tensor<3>,
    mask: Tensor<2, Bool>,
) -> Tensor<2> {
    // The temperature is in the logits.
    entropy(logits(policy, hidden), mask, 1.0)
}
