//! The inputs of a loss with everything outside the mask replaced.

use burn::tensor::{Bool, Tensor};
use kyoka_core::{PolicyLossInput, PolicyLossOutput};

/// The inputs of a loss; log-probabilities, log-ratios and advantages are 0 outside the mask.
pub(super) struct Masked {
    /// Log-probabilities; carries the gradient.
    pub logprobs: Tensor<2>,
    /// `log p - log p_old`, not clamped; carries the gradient.
    pub log_ratio: Tensor<2>,
    pub advantages: Tensor<2>,
    pub mask: Tensor<2, Bool>,
}

impl Masked {
    /// # Panics
    /// If the shapes disagree.
    pub fn new(input: PolicyLossInput) -> Self {
        let PolicyLossInput { policy_logprobs, old_logprobs, advantages, loss_mask: mask } = input;
        let expected = policy_logprobs.dims();
        let check =
            |name, got: [usize; 2]| assert_eq!(got, expected, "{name}: expected {expected:?}, got {got:?}");
        check("old_logprobs", old_logprobs.dims());
        check("advantages", advantages.dims());
        check("loss_mask", mask.dims());
        let outside = mask.clone().bool_not();
        Self {
            log_ratio: (policy_logprobs.clone() - old_logprobs).mask_fill(outside.clone(), 0.0),
            logprobs: policy_logprobs.mask_fill(outside.clone(), 0.0),
            advantages: advantages.mask_fill(outside, 0.0),
            mask,
        }
    }

    /// `exp` of the clamped log-ratio.
    pub fn ratio(&self, log_ratio_bound: f64) -> Tensor<2> {
        self.log_ratio.clone().clamp(-log_ratio_bound, log_ratio_bound).exp()
    }

    /// The mask as 1 and 0, in the type of the other tensors.
    pub fn mask_as_float(&self) -> Tensor<2> {
        self.advantages.ones_like().mask_fill(self.mask.clone().bool_not(), 0.0)
    }

    /// The mean of `values` over each row's tokens, shape `[R, 1]`; 0 for a row without a token.
    pub fn row_mean(&self, values: Tensor<2>) -> Tensor<2> {
        let counts = self.mask_as_float().sum_dim(1).clamp_min(1.0);
        values.sum_dim(1) / counts
    }

    /// The output, 0 outside the mask; `clipped` is true where a bound cut the gradient.
    pub fn output(&self, per_token: Tensor<2>, clipped: Tensor<2, Bool>) -> PolicyLossOutput {
        PolicyLossOutput {
            per_token: per_token.mask_fill(self.mask.clone().bool_not(), 0.0),
            clipped: clipped.bool_and(self.mask.clone()),
        }
    }

    /// The output of a loss that never clips.
    pub fn unclipped(&self, per_token: Tensor<2>) -> PolicyLossOutput {
        self.output(per_token, self.mask.clone().bool_not())
    }
}
