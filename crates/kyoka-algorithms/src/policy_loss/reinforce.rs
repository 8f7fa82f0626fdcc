//! REINFORCE's surrogate (Williams 1992, equation 11); GPG's too (arXiv 2504.02546, equation 7).
//!
//! `loss_t = -A_t log p_t`
//!
//! No ratio, so the rollouts must come from the policy that is updated.

use kyoka_core::{PolicyLoss, PolicyLossInput, PolicyLossOutput};

use super::masked::Masked;

/// The policy gradient without correction.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReinforceLoss;

impl PolicyLoss for ReinforceLoss {
    fn has_ratio(&self) -> bool {
        false
    }

    fn evaluate(&self, input: PolicyLossInput) -> PolicyLossOutput {
        let tokens = Masked::new(input);
        tokens.unclipped(-(tokens.logprobs.clone() * tokens.advantages.clone()))
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
        let (loss, gradient) =
            evaluate(&ReinforceLoss, &[&[(-1.0, -5.0, 2.0, true), (-0.5, 0.0, -1.0, true)]]);
        assert_close(&loss, &[2.0, -0.5]);
        assert_close(&gradient, &[-2.0, 1.0]);
    }
}
