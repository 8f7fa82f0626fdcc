//! PPO's clipped surrogate with separate bounds (arXiv 1707.06347, equation 7; clip-higher: 2503.14476, equation 8).
//!
//! `loss_t = -min(r_t A_t, clip(r_t, 1 - clip_low, 1 + clip_high) A_t)` with `r_t = exp(log p - log p_old)`
//!
//! For `A_t < 0` that is unbounded in `r_t`; two cures exist. Dual clip (arXiv 1912.09729, equation 5) bounds the loss
//! by `-c A_t`. The two-sided clip (INTELLECT-2, arXiv 2505.07291, section 3.4) replaces `r_t` by `min(r_t, delta)`.
//!
//! Deviation 1: the log-ratio is clamped to +-20 before it is exponentiated, as verl does.

use burn::tensor::Tensor;
use kyoka_core::{PolicyLoss, PolicyLossInput, PolicyLossOutput};

use super::{LOG_RATIO_BOUND, masked::Masked};

/// The clipped surrogate.
#[derive(Debug, Clone, Copy)]
pub struct ClippedLoss {
    /// How far the ratio may fall below 1. Default 0.2.
    pub clip_low: f64,
    /// How far the ratio may rise above 1. Default 0.2; DAPO has 0.28.
    pub clip_high: f64,
    /// Dual clip's `c`, above 1: the most that a token with `A < 0` may cost, in units of `-A`. Default none.
    pub dual_clip: Option<f64>,
    /// The two-sided clip's `delta`, above `1 + clip_high`: the greatest ratio of all. Default none.
    pub ratio_ceiling: Option<f64>,
    /// Log-ratios are clamped to plus or minus this. Default 20; infinity for TRL's behaviour.
    pub log_ratio_bound: f64,
}

impl Default for ClippedLoss {
    fn default() -> Self {
        Self {
            clip_low: 0.2,
            clip_high: 0.2,
            dual_clip: None,
            ratio_ceiling: None,
            log_ratio_bound: LOG_RATIO_BOUND,
        }
    }
}

impl PolicyLoss for ClippedLoss {
    fn evaluate(&self, input: PolicyLossInput) -> PolicyLossOutput {
        let tokens = Masked::new(input);
        let ratio = tokens.ratio(self.log_ratio_bound);
        let bounded = ratio.clone().clamp(1.0 - self.clip_low, 1.0 + self.clip_high);
        let ratio = match self.ratio_ceiling {
            Some(ceiling) => ratio.clamp_max(ceiling),
            None => ratio,
        };
        let free: Tensor<2> = -(ratio * tokens.advantages.clone());
        let cut: Tensor<2> = -(bounded * tokens.advantages.clone());
        let mut clipped = cut.clone().detach().greater(free.clone().detach());
        let mut per_token = free.max_pair(cut);
        if let Some(c) = self.dual_clip {
            // Only A < 0 makes -c A positive and so a bound of the loss; for A >= 0 nothing may change.
            let negative = tokens.advantages.clone().lower_scalar(0.0);
            let most: Tensor<2> = -(tokens.advantages.clone() * c);
            let beyond = per_token.clone().detach().greater(most.clone()).bool_and(negative);
            per_token = per_token.mask_where(beyond.clone(), most);
            clipped = clipped.bool_or(beyond);
        }
        tokens.output(per_token, clipped)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{Token, assert_close, evaluate},
        *,
    };

    fn token(ratio: f32, advantage: f32) -> Token {
        (ratio.ln(), 0.0, advantage, true)
    }

    #[test]
    fn hand_case() {
        let tokens = [token(1.1, 2.0), token(1.5, 2.0), token(0.5, -1.0), token(1.5, -1.0)];
        let (loss, gradient) =
            evaluate(&ClippedLoss { clip_high: 0.28, ..ClippedLoss::default() }, &[&tokens]);
        // Inside: -1.1 * 2. Above with A > 0: -1.28 * 2, no gradient. Below with A < 0: 0.8, none. Above with A < 0: 1.5.
        assert_close(&loss, &[-2.2, -2.56, 0.8, 1.5]);
        assert_close(&gradient, &[-2.2, 0.0, 0.0, 1.5]);
    }

    #[test]
    fn dual_clip_bounds_negative_advantages_only() {
        let dual = ClippedLoss { dual_clip: Some(3.0), ..ClippedLoss::default() };
        let (loss, gradient) = evaluate(&dual, &[&[token(5.0, -2.0), token(2.5, -2.0), token(5.0, 2.0)]]);
        assert_close(&loss, &[6.0, 5.0, -2.4]);
        assert_close(&gradient, &[0.0, 5.0, 0.0]);
    }

    #[test]
    fn the_two_sided_clip_bounds_the_ratio() {
        let two_sided = ClippedLoss { ratio_ceiling: Some(4.0), ..ClippedLoss::default() };
        let (loss, gradient) = evaluate(&two_sided, &[&[token(5.0, -2.0), token(3.0, -2.0)]]);
        assert_close(&loss, &[8.0, 6.0]);
        assert_close(&gradient, &[0.0, 6.0]);
    }
}
