//! OPMD: online policy mirror descent (Kimi k1.5, arXiv 2501.12599, equation 3).
//!
//! The gradient is that of `-A log p(y) + (tau / 2) (log p(y) / p_old(y))^2`, with `A = R - mean(R)` of the group and
//! `p(y)` the probability of the whole completion.
//!
//! A token's share is `-A_t log p_t + (tau / 2) (sum over t of log r_t)^2 / |o|`; the reduction
//! `sequence_mean_token_sum` makes it the paper's loss. The squared term has its own pull and needs no clip.

use kyoka_core::{PolicyLoss, PolicyLossInput, PolicyLossOutput};

use super::masked::Masked;

/// Policy gradient with a squared anchor at the policy that sampled.
#[derive(Debug, Clone, Copy)]
pub struct Opmd {
    /// Strength of the anchor; at least 0. Default 0.1.
    pub tau: f64,
}

impl Default for Opmd {
    fn default() -> Self {
        Self { tau: 0.1 }
    }
}

impl PolicyLoss for Opmd {
    fn evaluate(&self, input: PolicyLossInput) -> PolicyLossOutput {
        let tokens = Masked::new(input);
        let sequence = tokens.log_ratio.clone().sum_dim(1); // [R, 1]
        let share = tokens.mask_as_float().sum_dim(1).clamp_min(1.0).recip(); // [R, 1]
        let anchor = sequence.square() * share * (0.5 * self.tau); // [R, 1]
        let gain = tokens.logprobs.clone() * tokens.advantages.clone();
        tokens.unclipped(anchor * tokens.mask_as_float() - gain)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{assert_close, evaluate},
        *,
    };

    #[test]
    fn hand_case() {
        // Sum of log-ratios 0.3 - 0.1 = 0.2; tau 2: 0.2^2 / 2 tokens.
        let row = [(-0.7, -1.0, 1.0, true), (-1.1, -1.0, 1.0, true)];
        let (loss, gradient) = evaluate(&Opmd { tau: 2.0 }, &[&row]);
        assert_close(&loss, &[0.7 + 0.02, 1.1 + 0.02]);
        // -A + tau * 0.2
        assert_close(&gradient, &[-0.6, -0.6]);
    }
}
