//! The divergence from a reference policy, from samples or in full.
//!
//! Estimators are those of Schulman 2020, "Approximating KL divergence", with `d = log p - log p_ref` per token:
//! `k1 = d`, `k2 = d^2 / 2`, `k3 = exp(-d) + d - 1`. As losses, k1 and k3 do not have the gradient of the divergence
//! (that of k1 is 0 in the mean); k2 has, and so have the straight-through forms.
//!
//! Deviation 1: the exponent of k3 is clamped to +-20.

use burn::tensor::{Bool, Tensor};
use serde::{Deserialize, Serialize};

use crate::{AdaptiveKl, policy_loss::LOG_RATIO_BOUND};

/// Which estimate of the divergence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlEstimator {
    /// `d`: unbiased, may be negative; for the reward rather than the loss.
    K1,
    /// `d² / 2`: its gradient is that of the divergence.
    K2,
    /// `exp(-d) + d - 1`: unbiased and never negative; GRPO's choice.
    K3,
    /// k3 clamped to at most 10, without a gradient beyond, as in verl.
    K3Clamped,
    /// `|d|`.
    Absolute,
    /// The value of k3 with the gradient of k2.
    StraightThrough,
    /// The value of k1 with the gradient of k2.
    StraightThroughK1,
    /// k3 times `p / p_old`: unbiased off policy too, value and gradient (DeepSeek-V3.2, arXiv 2512.02556, section 3.1).
    ImportanceWeighted,
    /// No estimate: the sum over the whole vocabulary, [`full_kl`], from the logits of both policies.
    Full,
}

/// Greatest magnitude of [`KlEstimator::K3Clamped`].
const K3_BOUND: f64 = 10.0;

/// What an estimate is made of; all tensors have shape `[R, T]`.
#[derive(Debug, Clone)]
pub struct KlInput {
    /// Log-probabilities under the policy being trained; carries the gradient.
    pub policy_logprobs: Tensor<2>,
    /// Log-probabilities under the reference.
    pub reference_logprobs: Tensor<2>,
    /// Log-probabilities at sampling time; only [`KlEstimator::ImportanceWeighted`] looks at them.
    pub old_logprobs: Tensor<2>,
    /// True on the tokens that count.
    pub loss_mask: Tensor<2, Bool>,
}

impl KlEstimator {
    /// The estimate per token, 0 outside the mask; see [`evaluate_bounded`](Self::evaluate_bounded).
    ///
    /// # Shapes
    /// - output: `[R, T]`
    pub fn evaluate(self, input: KlInput) -> Tensor<2> {
        self.evaluate_bounded(input, LOG_RATIO_BOUND)
    }

    /// The estimate with another bound of the exponent (infinity for none, as in TRL).
    ///
    /// # Shapes
    /// - output: `[R, T]`
    ///
    /// # Panics
    /// If the shapes disagree, or for [`KlEstimator::Full`], which sampled tokens cannot give.
    pub fn evaluate_bounded(self, input: KlInput, log_ratio_bound: f64) -> Tensor<2> {
        let KlInput { policy_logprobs, reference_logprobs, old_logprobs, loss_mask } = input;
        let expected = policy_logprobs.dims();
        let got = [reference_logprobs.dims(), old_logprobs.dims(), loss_mask.dims()];
        assert!(got.iter().all(|&dims| dims == expected), "kl: expected {expected:?}, got {got:?}");
        let outside = loss_mask.bool_not();
        let d = (policy_logprobs.clone() - reference_logprobs).mask_fill(outside.clone(), 0.0);
        let k2 = |d: Tensor<2>| d.square() * 0.5;
        let k3 = |d: Tensor<2>| d.clone().neg().clamp(-log_ratio_bound, log_ratio_bound).exp() + d - 1.0;
        let with_gradient_of =
            |value: Tensor<2>, source: Tensor<2>| value.detach() + source.clone() - source.detach();
        match self {
            Self::K1 => d,
            Self::K2 => k2(d),
            Self::K3 => k3(d),
            Self::K3Clamped => k3(d).clamp(-K3_BOUND, K3_BOUND),
            Self::Absolute => d.abs(),
            Self::StraightThrough => with_gradient_of(k3(d.clone()), k2(d)),
            Self::StraightThroughK1 => with_gradient_of(d.clone(), k2(d)),
            Self::ImportanceWeighted => {
                let log_ratio = (policy_logprobs - old_logprobs).mask_fill(outside, 0.0);
                k3(d) * log_ratio.clamp(-log_ratio_bound, log_ratio_bound).exp()
            }
            Self::Full => panic!("kl: expected an estimator of sampled tokens, got Full; see full_kl"),
        }
    }
}

/// `KL(p || p_ref)` over the whole vocabulary, a value per token; no estimate, but the logits of both must be kept.
///
/// # Shapes
/// - `policy_logprobs`, `reference_logprobs`: `[R, T, V]`, normalised
/// - `loss_mask`: `[R, T]`
/// - output: `[R, T]`, 0 outside the mask
pub fn full_kl(
    policy_logprobs: Tensor<3>,
    reference_logprobs: Tensor<3>,
    loss_mask: Tensor<2, Bool>,
) -> Tensor<2> {
    let [r, t, v] = policy_logprobs.dims();
    let got = reference_logprobs.dims();
    assert_eq!(got, [r, t, v], "full_kl: expected a reference of {:?}, got {got:?}", [r, t, v]);
    let outside = loss_mask.bool_not().unsqueeze_dim::<3>(2).expand([r, t, v]);
    let policy = policy_logprobs.mask_fill(outside.clone(), 0.0);
    let d = policy.clone() - reference_logprobs.mask_fill(outside, 0.0);
    (policy.exp() * d).sum_dim(2).squeeze_dim(2)
}

/// Where the penalty acts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlPlacement {
    /// Added to the per-token loss, with a gradient. The default.
    #[default]
    Loss,
    /// Taken from the reward of each token before credit is assigned, without a gradient.
    Reward,
}

/// A divergence penalty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Kl {
    /// Weight of the penalty; greater than 0. With `adaptive`, its first value.
    pub kl_coef: f64,
    /// The estimate.
    pub estimator: KlEstimator,
    /// In the loss: `per_token + kl_coef * estimate`. In the reward: `-kl_coef * estimate` of each token, under the
    /// policy at the start of the batch, goes to `GroupRewards::token_rewards`.
    pub placement: KlPlacement,
    /// Moves the weight towards a target divergence, once a step.
    pub adaptive: Option<AdaptiveKl>,
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    const ALL: [KlEstimator; 8] = [
        KlEstimator::K1,
        KlEstimator::K2,
        KlEstimator::K3,
        KlEstimator::K3Clamped,
        KlEstimator::Absolute,
        KlEstimator::StraightThrough,
        KlEstimator::StraightThroughK1,
        KlEstimator::ImportanceWeighted,
    ];

    /// Estimates and gradients of tokens given as (log p, log p ref, log p old); the last one does not count.
    fn evaluate(estimator: KlEstimator, tokens: &[(f32, f32, f32)]) -> (Vec<f32>, Vec<f32>) {
        let device = Device::default();
        let row = |value: fn(&(f32, f32, f32)) -> f32| {
            let values: Vec<f32> = tokens.iter().map(value).collect();
            Tensor::<1>::from_floats(values.as_slice(), &device).unsqueeze::<2>()
        };
        let mask: Vec<bool> = (0..tokens.len()).map(|place| place + 1 < tokens.len()).collect();
        let policy_logprobs = row(|t| t.0).autodiff().require_grad();
        let per_token = estimator.evaluate(KlInput {
            policy_logprobs: policy_logprobs.clone(),
            reference_logprobs: row(|t| t.1),
            old_logprobs: row(|t| t.2),
            loss_mask: Tensor::<1, Bool>::from_bool(mask.as_slice(), &device).unsqueeze(),
        });
        let gradients = per_token.clone().sum().backward();
        let gradient = policy_logprobs.grad(&gradients).unwrap();
        (per_token.into_data().try_to_vec().unwrap(), gradient.into_data().try_to_vec().unwrap())
    }

    #[test]
    fn hand_case() {
        let k3 = (-0.5_f32).exp() - 0.5;
        let slope = 1.0 - (-0.5_f32).exp();
        let ratio = 0.25_f32.exp();
        let expected = [
            (0.5, 1.0),
            (0.125, 0.5),
            (k3, slope),
            (k3, slope),
            (0.5, 1.0),
            (k3, 0.5),
            (0.5, 0.5),
            (k3 * ratio, (k3 + slope) * ratio),
        ];
        for (estimator, (value, gradient)) in ALL.into_iter().zip(expected) {
            let got = evaluate(estimator, &[(-1.0, -1.5, -1.25), (0.0, 0.0, 0.0)]);
            assert!(
                (got.0[0] - value).abs() < 1e-6 && (got.1[0] - gradient).abs() < 1e-6,
                "{estimator:?} {got:?}"
            );
        }
    }

    #[test]
    fn equal_policies_have_no_divergence_and_masked_tokens_none_either() {
        for estimator in ALL {
            let (value, gradient) = evaluate(estimator, &[(-2.0, -2.0, -2.0), (f32::NAN, 1e30, -1e30)]);
            assert_eq!(value, [0.0, 0.0], "{estimator:?}");
            assert_eq!(gradient[1], 0.0, "{estimator:?}");
        }
    }

    #[test]
    fn far_apart_policies_stay_finite() {
        for estimator in ALL {
            let far = [(-41.0, -1.0, -1.0), (-1.0, -41.0, -41.0), (0.0, 0.0, 0.0)];
            let (value, gradient) = evaluate(estimator, &far);
            assert!(value.iter().chain(&gradient).all(|x| x.is_finite()), "{estimator:?}");
        }
    }

    #[test]
    fn the_full_divergence_by_hand() {
        let device = Device::default();
        let logs = |p: [f32; 2]| Tensor::<3>::from_floats([[p.map(f32::ln), [f32::NAN; 2]]], &device);
        let mask = Tensor::<2, Bool>::from_bool([[true, false]], &device);
        let got = full_kl(logs([0.5, 0.5]), logs([0.25, 0.75]), mask);
        let got: Vec<f32> = got.into_data().try_to_vec().unwrap();
        let expected = 0.5 * 2.0_f32.ln() + 0.5 * (0.5_f32 / 0.75).ln();
        assert!((got[0] - expected).abs() < 1e-6 && got[1] == 0.0, "{got:?}");
    }
}
