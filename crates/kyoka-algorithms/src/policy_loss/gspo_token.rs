//! GSPO-token: the sequence's ratio with a gradient of its own at every token (arXiv 2507.18071, equations 13 and 14).
//!
//! `log s_it = log p_t - sg(log p_t) + sg(mean over t of log r_t)`, then clipped as PPO
//!
//! The value is GSPO's; so is the gradient while the advantage is constant in a completion, and where it is not, each
//! token keeps its own. Deviation 1: the log-ratio is clamped to at most 10, as verl does.

use burn::tensor::Tensor;
use kyoka_core::{PolicyLoss, PolicyLossInput, PolicyLossOutput};

use super::masked::Masked;

/// GSPO for advantages that differ within a completion.
#[derive(Debug, Clone, Copy)]
pub struct GspoToken {
    /// How far the sequence's ratio may fall below 1. Default 3e-4.
    pub clip_low: f64,
    /// How far it may rise above 1. Default 4e-4.
    pub clip_high: f64,
    /// Greatest log-ratio. Default 10.
    pub log_ratio_max: f64,
}

impl Default for GspoToken {
    fn default() -> Self {
        Self { clip_low: 3e-4, clip_high: 4e-4, log_ratio_max: 10.0 }
    }
}

impl PolicyLoss for GspoToken {
    fn evaluate(&self, input: PolicyLossInput) -> PolicyLossOutput {
        let tokens = Masked::new(input);
        let sequence = tokens.row_mean(tokens.log_ratio.clone()).detach(); // [R, 1]
        let zero_with_gradient = tokens.logprobs.clone() - tokens.logprobs.clone().detach();
        let ratio = (zero_with_gradient + sequence).clamp_max(self.log_ratio_max).exp();
        let bounded = ratio.clone().clamp(1.0 - self.clip_low, 1.0 + self.clip_high);
        let free: Tensor<2> = -(ratio * tokens.advantages.clone());
        let cut: Tensor<2> = -(bounded * tokens.advantages.clone());
        let clipped = cut.clone().detach().greater(free.clone().detach());
        tokens.output(free.max_pair(cut), clipped)
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
        // Mean log-ratio 0.1 for both tokens, advantages 1 and 3.
        let row = [(-0.7, -1.0, 1.0, true), (-1.1, -1.0, 3.0, true)];
        let (loss, gradient) = evaluate(&GspoToken { clip_high: 0.2, ..GspoToken::default() }, &[&row]);
        let ratio = 0.1_f32.exp();
        assert_close(&loss, &[-ratio, -3.0 * ratio]);
        assert_close(&gradient, &[-ratio, -3.0 * ratio]);
    }
}
