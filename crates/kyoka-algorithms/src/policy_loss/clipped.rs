//! PPO's clipped surrogate with separate bounds (arXiv 1707.06347, equation 7; clip-higher: 2503.14476, equation 8).
//!
//! `loss_t = -min(r_t A_t, clip(r_t, 1 - clip_low, 1 + clip_high) A_t)` with `r_t = exp(log p - log p_old)`
//!
//! Deviation 1: the log-ratio is clamped to +-20 before it is exponentiated, as verl does.

use burn::tensor::Tensor;
use kyoka_core::{PolicyLoss, PolicyLossInput, PolicyLossOutput};

/// Log-ratios are clamped to plus or minus this before `exp`.
pub const LOG_RATIO_BOUND: f32 = 20.0;

/// The clipped surrogate.
#[derive(Debug, Clone, Copy)]
pub struct ClippedLoss {
    /// How far the ratio may fall below 1. Default 0.2.
    pub clip_low: f32,
    /// How far the ratio may rise above 1. Default 0.2; DAPO has 0.28.
    pub clip_high: f32,
}

impl Default for ClippedLoss {
    fn default() -> Self {
        Self { clip_low: 0.2, clip_high: 0.2 }
    }
}

impl PolicyLoss for ClippedLoss {
    fn evaluate(&self, input: PolicyLossInput) -> PolicyLossOutput {
        let PolicyLossInput { policy_logprobs, old_logprobs, advantages, loss_mask } = input;
        let log_ratio = (policy_logprobs - old_logprobs).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND);
        let ratio = log_ratio.exp();
        let bounded = ratio.clone().clamp(1.0 - self.clip_low, 1.0 + self.clip_high);
        let free: Tensor<2> = -(ratio * advantages.clone());
        let cut: Tensor<2> = -(bounded * advantages);
        let clipped = cut.clone().inner().greater(free.clone().inner()).bool_and(loss_mask.clone());
        let outside = loss_mask.bool_not();
        PolicyLossOutput { per_token: free.max_pair(cut).mask_fill(outside, 0.0), clipped }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Bool, Device};

    use super::*;

    /// Loss and its gradient for single tokens given as (log p, log p old, advantage).
    fn evaluate(tokens: &[(f32, f32, f32)], mask: &[bool]) -> (Vec<f32>, Vec<f32>) {
        let device = Device::default();
        let row = |value: fn(&(f32, f32, f32)) -> f32| {
            let values: Vec<f32> = tokens.iter().map(value).collect();
            Tensor::<1>::from_floats(values.as_slice(), &device).unsqueeze::<2>()
        };
        let policy_logprobs = row(|t| t.0).autodiff().require_grad();
        let output = ClippedLoss { clip_low: 0.2, clip_high: 0.28 }.evaluate(PolicyLossInput {
            policy_logprobs: policy_logprobs.clone(),
            old_logprobs: row(|t| t.1),
            advantages: row(|t| t.2),
            loss_mask: Tensor::<1, Bool>::from_bool(mask, &device).unsqueeze(),
        });
        let gradients = output.per_token.clone().sum().backward();
        let gradient = policy_logprobs.grad(&gradients).unwrap();
        (output.per_token.into_data().try_to_vec().unwrap(), gradient.into_data().try_to_vec().unwrap())
    }

    #[test]
    fn hand_case() {
        let ln = f32::ln;
        let tokens = [(ln(1.1), 0.0, 2.0), (ln(1.5), 0.0, 2.0), (ln(0.5), 0.0, -1.0), (ln(1.5), 0.0, -1.0)];
        let (loss, gradient) = evaluate(&tokens, &[true; 4]);
        // Inside: -1.1 * 2. Above with A > 0: -1.28 * 2, no gradient. Below with A < 0: 0.8, none. Above with A < 0: 1.5.
        for (got, expected) in loss.iter().zip([-2.2, -2.56, 0.8, 1.5]) {
            assert!((got - expected).abs() < 1e-5, "{loss:?}");
        }
        for (got, expected) in gradient.iter().zip([-2.2, 0.0, 0.0, 1.5]) {
            assert!((got - expected).abs() < 1e-5, "{gradient:?}");
        }
    }

    #[test]
    fn extreme_ratios_and_masked_garbage_stay_finite() {
        let tokens = [(40.0, 0.0, 1.0), (-40.0, 0.0, 1.0), (0.0, 40.0, -1.0), (0.0, -1e30, f32::MAX)];
        let (loss, gradient) = evaluate(&tokens, &[true, true, true, false]);
        assert!(loss.iter().chain(&gradient).all(|value| value.is_finite()), "{loss:?} {gradient:?}");
        assert_eq!((loss[3], gradient[3]), (0.0, 0.0));
    }

    #[test]
    fn on_policy_the_gradient_is_minus_the_advantage() {
        let (_, gradient) = evaluate(&[(-1.0, -1.0, 0.7), (-2.0, -2.0, -0.3)], &[true, true]);
        assert!((gradient[0] + 0.7).abs() < 1e-6 && (gradient[1] - 0.3).abs() < 1e-6);
    }
}
