//! KL-Cov: the tokens that would collapse the entropy are held back by a penalty (arXiv 2505.22617, section 4.2).
//!
//! `loss_t = -A_t r_t`, and `+ coef |log r_t|` at the `share` of tokens (at least one) with the highest covariance of
//! advantage and log-probability.
//!
//! Deviation 1: the log-ratio is clamped to +-20 before it is exponentiated.
//! Deviation 2: means and shares are those of the micro-batch, as in verl.

use burn::tensor::Tensor;
use kyoka_core::{PolicyLoss, PolicyLossInput, PolicyLossOutput};

use super::{
    LOG_RATIO_BOUND,
    covariance::{chosen_mask, covariances},
    masked::Masked,
};

/// Covariance-based penalty.
#[derive(Debug, Clone, Copy)]
pub struct KlCov {
    /// Share of the tokens to hold back. Default 2e-4.
    pub share: f64,
    /// Weight of the penalty. Default 1.
    pub coef: f64,
    /// Log-ratios are clamped to plus or minus this. Default 20.
    pub log_ratio_bound: f64,
}

impl Default for KlCov {
    fn default() -> Self {
        Self { share: 2e-4, coef: 1.0, log_ratio_bound: LOG_RATIO_BOUND }
    }
}

impl PolicyLoss for KlCov {
    fn evaluate(&self, input: PolicyLossInput) -> PolicyLossOutput {
        let tokens = Masked::new(input);
        let mut all = covariances(&tokens);
        let most = ((all.len() as f64 * self.share) as usize).max(1);
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        let held = chosen_mask(&tokens, all.iter().take(most).map(|&(index, _)| index));
        let penalty = tokens.log_ratio.clone().abs() * self.coef;
        let per_token: Tensor<2> = -(tokens.ratio(self.log_ratio_bound) * tokens.advantages.clone());
        tokens.unclipped(per_token + penalty.mask_fill(held.bool_not(), 0.0))
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
        // Means: A 1/3, log p -1. Covariances (5/3)(1), (-1/3)(0), (-4/3)(-1): the first is held.
        let row = [(0.0, -0.5, 2.0, true), (-1.0, -1.0, 0.0, true), (-2.0, -2.0, -1.0, true)];
        let (loss, gradient) = evaluate(&KlCov::default(), &[&row]);
        let ratio = 0.5_f32.exp();
        assert_close(&loss, &[-2.0 * ratio + 0.5, 0.0, 1.0]);
        assert_close(&gradient, &[-2.0 * ratio + 1.0, 0.0, 1.0]);
    }
}
