//! SAPO: a soft gate in place of the clip (arXiv 2511.20347, equation 5).
//!
//! `loss_t = -A_t (4 / tau) sigmoid(tau (r_t - 1))`, `tau = tau_positive` where `A_t > 0`, else `tau_negative`
//!
//! The gate's slope at `r = 1` is 1, so on policy the gradient is that of REINFORCE. Deviation 1: the log-ratio is
//! clamped to +-20.

use burn::tensor::{Tensor, activation::sigmoid};
use kyoka_core::{PolicyLoss, PolicyLossInput, PolicyLossOutput};

use super::{LOG_RATIO_BOUND, masked::Masked};

/// Soft adaptive policy optimisation.
#[derive(Debug, Clone, Copy)]
pub struct Sapo {
    /// Sharpness of the gate for advantages above 0. Default 1.
    pub tau_positive: f64,
    /// Sharpness of the gate for the others. Default 1.05.
    pub tau_negative: f64,
    /// Log-ratios are clamped to plus or minus this. Default 20.
    pub log_ratio_bound: f64,
}

impl Default for Sapo {
    fn default() -> Self {
        Self { tau_positive: 1.0, tau_negative: 1.05, log_ratio_bound: LOG_RATIO_BOUND }
    }
}

impl PolicyLoss for Sapo {
    fn evaluate(&self, input: PolicyLossInput) -> PolicyLossOutput {
        let tokens = Masked::new(input);
        let positive = tokens.advantages.clone().greater_scalar(0.0);
        let tau = tokens.advantages.full_like(self.tau_negative).mask_fill(positive, self.tau_positive);
        let gate = sigmoid((tokens.ratio(self.log_ratio_bound) - 1.0) * tau.clone()) * (tau.recip() * 4.0);
        let per_token: Tensor<2> = -(gate * tokens.advantages.clone());
        tokens.unclipped(per_token)
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
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        let row = [(2.0_f32.ln(), 0.0, 1.0, true), (0.0, 0.0, -1.0, true)];
        let (loss, gradient) = evaluate(&Sapo::default(), &[&row]);
        assert_close(&loss, &[-4.0 * sigmoid(1.0), 4.0 / 1.05 * 0.5]);
        // d/d log p = -A 4 s (1 - s) r
        assert_close(&gradient, &[-4.0 * sigmoid(1.0) * (1.0 - sigmoid(1.0)) * 2.0, 1.0]);
    }

    #[test]
    fn far_tokens_fade_out() {
        let row = [(3.0, 0.0, 1.0, true), (-8.0, 0.0, 1.0, true)];
        let (_, gradient) = evaluate(&Sapo::default(), &[&row]);
        assert!(gradient.iter().all(|value| value.abs() < 1e-2), "{gradient:?}");
    }
}
