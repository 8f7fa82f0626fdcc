//! GMPO: the geometric mean of clipped token ratios (arXiv 2507.20673, equation 4).
//!
//! `loss_i = -A_i exp(mean over t of l_t)` with `l_t = s min(s log r_t, s clip(log r_t, -low, high))`, `s = sign(A_t)`
//!
//! Every token carries its completion's loss; with `sequence_mean_token_mean` that is the paper's mean over
//! completions. `A_i` is the mean advantage of the completion's tokens (all are equal in the paper). A completion
//! without a token gives 0; TRL would add `-A_i`. Deviation 1: the mean is clamped to +-20.

use burn::tensor::Tensor;
use kyoka_core::{PolicyLoss, PolicyLossInput, PolicyLossOutput};

use super::{LOG_RATIO_BOUND, masked::Masked};

/// Geometric-mean policy optimisation.
#[derive(Debug, Clone, Copy)]
pub struct Gmpo {
    /// How far a token's log-ratio may fall below 0. Default 0.4.
    pub log_clip_low: f64,
    /// How far it may rise above 0. Default 0.4.
    pub log_clip_high: f64,
    /// The mean log-ratio is clamped to plus or minus this. Default 20.
    pub log_ratio_bound: f64,
}

impl Default for Gmpo {
    fn default() -> Self {
        Self { log_clip_low: 0.4, log_clip_high: 0.4, log_ratio_bound: LOG_RATIO_BOUND }
    }
}

impl PolicyLoss for Gmpo {
    fn evaluate(&self, input: PolicyLossInput) -> PolicyLossOutput {
        let tokens = Masked::new(input);
        let sign = tokens.advantages.clone().sign();
        let free = tokens.log_ratio.clone() * sign.clone();
        let cut = tokens.log_ratio.clone().clamp(-self.log_clip_low, self.log_clip_high) * sign.clone();
        let clipped = cut.clone().detach().lower(free.clone().detach());
        let log_ratio = free.min_pair(cut) * sign;
        let bound = self.log_ratio_bound;
        let ratio = tokens.row_mean(log_ratio).clamp(-bound, bound).exp(); // [R, 1]
        let advantage = tokens.row_mean(tokens.advantages.clone()); // [R, 1]
        let per_token: Tensor<2> = -(ratio * advantage * tokens.mask_as_float());
        tokens.output(per_token, clipped)
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
        // Log-ratios 0.1 and 1 (cut to 0.4) with A = 2: exp(0.25).
        let row = [(-0.9, -1.0, 2.0, true), (0.0, -1.0, 2.0, true)];
        let (loss, gradient) = evaluate(&Gmpo::default(), &[&row]);
        let ratio = 0.25_f32.exp();
        assert_close(&loss, &[-2.0 * ratio; 2]);
        // Summed over both tokens: 2 * (1/2) * -A ratio for the free token, 0 for the cut one.
        assert_close(&gradient, &[-2.0 * ratio, 0.0]);
    }

    #[test]
    fn with_a_negative_advantage_the_low_side_is_cut() {
        let row = [(-2.0, -1.0, -1.0, true), (0.0, -1.0, -1.0, true)];
        let (loss, gradient) = evaluate(&Gmpo::default(), &[&row]);
        // Log-ratios -1 (cut to -0.4) and 1 (free): exp(0.3).
        assert_close(&loss, &[0.3_f32.exp(); 2]);
        assert_close(&gradient, &[0.0, 0.3_f32.exp()]);
    }
}
