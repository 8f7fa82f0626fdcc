//! GSPO: one ratio a sequence, length-normalised, clipped (arXiv 2507.18071, equations 5 to 7).
//!
//! `s_i = exp(mean over t of log r_t)`, `loss_t = -min(s_i A_t, clip(s_i, 1 - clip_low, 1 + clip_high) A_t)`
//!
//! Every token of a completion carries the sequence's loss; with the reduction `sequence_mean_token_mean` that is the
//! paper's mean over completions. The gradient flows through `s_i`.
//!
//! Deviation 1: the mean log-ratio is clamped to +-20.

use burn::tensor::Tensor;
use kyoka_core::{PolicyLoss, PolicyLossInput, PolicyLossOutput};

use super::{LOG_RATIO_BOUND, masked::Masked};

/// Group sequence policy optimisation.
#[derive(Debug, Clone, Copy)]
pub struct Gspo {
    /// How far the sequence's ratio may fall below 1. Default 3e-4.
    pub clip_low: f64,
    /// How far it may rise above 1. Default 4e-4.
    pub clip_high: f64,
    /// The mean log-ratio is clamped to plus or minus this. Default 20.
    pub log_ratio_bound: f64,
}

impl Default for Gspo {
    fn default() -> Self {
        Self { clip_low: 3e-4, clip_high: 4e-4, log_ratio_bound: LOG_RATIO_BOUND }
    }
}

impl PolicyLoss for Gspo {
    fn evaluate(&self, input: PolicyLossInput) -> PolicyLossOutput {
        let tokens = Masked::new(input);
        let bound = self.log_ratio_bound;
        let ratio = tokens.row_mean(tokens.log_ratio.clone()).clamp(-bound, bound).exp(); // [R, 1]
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
        // Mean log-ratio (0.3 - 0.1) / 2 = 0.1.
        let row = [(-0.7, -1.0, 1.0, true), (-1.1, -1.0, 1.0, true)];
        let (loss, gradient) = evaluate(&Gspo { clip_high: 0.2, ..Gspo::default() }, &[&row]);
        let ratio = 0.1_f32.exp();
        assert_close(&loss, &[-ratio; 2]);
        assert_close(&gradient, &[-ratio; 2]);
    }

    #[test]
    fn a_clipped_sequence_has_no_gradient() {
        let row = [(-0.7, -1.0, 1.0, true), (-1.1, -1.0, 1.0, true)];
        let (loss, gradient) = evaluate(&Gspo::default(), &[&row]);
        assert_close(&loss, &[-1.0004; 2]);
        assert_eq!(gradient, [0.0; 2]);
    }
}
