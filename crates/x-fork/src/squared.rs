//! A policy loss: the advantage times the ratio, and a price on the distance from the old policy.

use kyoka::core::{PolicyLoss, PolicyLossInput, PolicyLossOutput};
use serde::Deserialize;

/// `loss_t = -r_t A_t + weight (log r_t)^2`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SquaredLoss {
    /// Price of the squared log-ratio.
    pub weight: f64,
}

impl PolicyLoss for SquaredLoss {
    fn evaluate(&self, input: PolicyLossInput) -> PolicyLossOutput {
        let PolicyLossInput { policy_logprobs, old_logprobs, advantages, loss_mask } = input;
        let outside = loss_mask.clone().bool_not();
        // Whatever stands at padding must not overflow.
        let log_ratio = (policy_logprobs - old_logprobs).mask_fill(outside.clone(), 0.0);
        let price = log_ratio.clone().powi_scalar(2) * self.weight;
        let per_token = (price - log_ratio.exp() * advantages).mask_fill(outside.clone(), 0.0);
        PolicyLossOutput { per_token, clipped: loss_mask.bool_and(outside) }
    }
}
