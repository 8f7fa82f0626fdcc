//! CISPO: the ratio is a bounded weight, and every token keeps its gradient (MiniMax-M1, arXiv 2506.13585, equation 4).
//!
//! `loss_t = -sg(clip(r_t, ratio_min, ratio_max)) A_t log p_t`
//!
//! Defaults are those of verl, `[1 - 0.2, 1 + 0.28]`. The paper sets no lower bound; TRL's absolute ceiling is
//! `ratio_min = 0` with `ratio_max` 5. Deviation 1: the log-ratio is clamped to +-20.

use burn::tensor::Tensor;
use kyoka_core::{OwnSettings, PolicyLoss, PolicyLossInput, PolicyLossOutput, SettingsFault};
use serde::Deserialize;

use super::{LOG_RATIO_BOUND, masked::Masked};

/// Clipped importance-sampling weights.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cispo {
    /// Least weight of a token, in [0, 1]. Default 0.8.
    pub ratio_min: f64,
    /// Greatest weight of a token; at least 1. Default 1.28.
    pub ratio_max: f64,
    /// Log-ratios are clamped to plus or minus this; above 0. Default 20.
    pub log_ratio_bound: f64,
}

impl Default for Cispo {
    fn default() -> Self {
        Self { ratio_min: 0.8, ratio_max: 1.28, log_ratio_bound: LOG_RATIO_BOUND }
    }
}

impl OwnSettings for Cispo {
    fn check(&self) -> Result<(), SettingsFault> {
        let bound = self.log_ratio_bound;
        for (field, holds, expected, got) in [
            ("ratio_min", (0.0..=1.0).contains(&self.ratio_min), "a number in [0, 1]", self.ratio_min),
            ("ratio_max", self.ratio_max >= 1.0, "a number of at least 1", self.ratio_max),
            ("log_ratio_bound", bound > 0.0 && bound.is_finite(), "a finite number above 0", bound),
        ] {
            SettingsFault::unless(holds, field, expected, got)?;
        }
        Ok(())
    }
}

impl PolicyLoss for Cispo {
    fn evaluate(&self, input: PolicyLossInput) -> PolicyLossOutput {
        let tokens = Masked::new(input);
        let ratio = tokens.ratio(self.log_ratio_bound).detach();
        let weight = ratio.clone().clamp(self.ratio_min, self.ratio_max);
        let clipped = weight.clone().not_equal(ratio);
        let per_token: Tensor<2> = -(weight * tokens.advantages.clone() * tokens.logprobs.clone());
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
        // Ratios 2 (cut to 1.28) and 1.1.
        let row = [(-1.0, -1.0 - 2.0_f32.ln(), 3.0, true), (-2.0, -2.0 - 1.1_f32.ln(), -1.0, true)];
        let (loss, gradient) = evaluate(&Cispo::default(), &[&row]);
        assert_close(&loss, &[1.28 * 3.0, -1.1 * 2.0]);
        assert_close(&gradient, &[-1.28 * 3.0, 1.1]);
    }
}
