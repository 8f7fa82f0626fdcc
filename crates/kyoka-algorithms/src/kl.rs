//! Estimators of the divergence from a reference policy, from samples (Schulman 2020, "Approximating KL divergence").

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::policy_loss::LOG_RATIO_BOUND;

/// Which estimate is added to the loss; with `d = log p - log p_ref`:
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlEstimator {
    /// `d`: unbiased, may be negative.
    K1,
    /// `d² / 2`: its gradient is that of the divergence.
    K2,
    /// `exp(-d) + d - 1`: unbiased and never negative; GRPO's choice.
    K3,
}

impl KlEstimator {
    /// The estimate per token; `d` is clamped to +-20.
    ///
    /// # Shapes
    /// - inputs and output: `[R, T]`
    pub fn evaluate(self, policy_logprobs: Tensor<2>, reference_logprobs: Tensor<2>) -> Tensor<2> {
        let d = (policy_logprobs - reference_logprobs).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND);
        match self {
            Self::K1 => d,
            Self::K2 => d.square() * 0.5,
            Self::K3 => d.clone().neg().exp() + d - 1.0,
        }
    }
}

/// A divergence penalty in the loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Kl {
    /// Weight of the penalty; greater than 0.
    pub kl_coef: f32,
    /// The estimate.
    pub estimator: KlEstimator,
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn hand_case_and_zero_at_equal_policies() {
        let device = Device::default();
        let (policy, reference) =
            (Tensor::from_floats([[-1.0, -2.0]], &device), Tensor::from_floats([[-1.5, -2.0]], &device));
        let expected =
            [(KlEstimator::K1, 0.5), (KlEstimator::K2, 0.125), (KlEstimator::K3, (-0.5_f32).exp() - 0.5)];
        for (estimator, value) in expected {
            let got: Vec<f32> =
                estimator.evaluate(policy.clone(), reference.clone()).into_data().try_to_vec().unwrap();
            assert!((got[0] - value).abs() < 1e-6, "{estimator:?}");
            assert_eq!(got[1], 0.0);
        }
    }

    #[test]
    fn far_apart_policies_stay_finite() {
        let device = Device::default();
        let far = Tensor::from_floats([[-40.0, 40.0]], &device);
        let got: Vec<f32> =
            KlEstimator::K3.evaluate(far.clone(), far.neg()).into_data().try_to_vec().unwrap();
        assert!(got.iter().all(|value| value.is_finite()));
    }
}
