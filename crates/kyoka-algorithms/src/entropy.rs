//! Entropy of the policy: as a bonus, and held near a target.
//!
//! `H = -sum over v of p_v log p_v` with `p = softmax(logits / temperature)`; the loss gains `-coef * H` per token.
//!
//! The adaptive coefficient is that of Skywork-OR1 (arXiv 2505.22312, section 4.3): it rises by a step while the
//! entropy is below its target, falls by a step while it is above, and acts only below the target.

use burn::tensor::{Bool, Tensor, activation::log_softmax};
use serde::{Deserialize, Serialize};

/// The entropy at each token, 0 outside the mask.
///
/// # Shapes
/// - `logits`: `[R, T, V]`; a banned token's may be as low as the number type allows, but not infinite
/// - `loss_mask`: `[R, T]`
/// - output: `[R, T]`
pub fn entropy(logits: Tensor<3>, loss_mask: Tensor<2, Bool>, temperature: f64) -> Tensor<2> {
    let [r, t, v] = logits.dims();
    assert!(temperature > 0.0, "entropy: expected a temperature above 0, got {temperature}");
    assert_eq!(loss_mask.dims(), [r, t], "loss_mask: expected {:?}, got {:?}", [r, t], loss_mask.dims());
    let outside = loss_mask.bool_not();
    let wide = outside.clone().unsqueeze_dim::<3>(2).expand([r, t, v]);
    // A product: the gradient of Burn's division by a number is rounded to f32.
    let logprobs = log_softmax(logits.mask_fill(wide, 0.0) * (1.0 / temperature), 2);
    let sum: Tensor<2> = (logprobs.clone().exp() * logprobs).sum_dim(2).squeeze_dim(2);
    sum.neg().mask_fill(outside, 0.0)
}

/// A bonus for entropy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EntropyBonus {
    /// Weight of the bonus, at least 0; with a target, its first value.
    pub coef: f64,
    /// Holds the mean entropy of a token near this, in nats.
    pub target: Option<f64>,
    /// Change of the coefficient a step, with a target.
    pub step: f64,
    /// Greatest coefficient, with a target.
    pub max_coef: f64,
}

impl EntropyBonus {
    /// The next coefficient after a step whose tokens had a mean entropy of `entropy`; state of the run.
    pub fn next_coef(&self, coef: f64, entropy: f64) -> f64 {
        match self.target {
            Some(target) if entropy < target => (coef + self.step).min(self.max_coef),
            Some(target) if entropy > target => (coef - self.step).max(0.0),
            _ => coef,
        }
    }

    /// What `-H` is multiplied by in a step whose tokens have a mean entropy of `entropy`.
    pub fn weight(&self, coef: f64, entropy: f64) -> f64 {
        if self.target.is_some_and(|target| entropy > target) { 0.0 } else { coef }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn hand_case_and_masked_garbage() {
        let device = Device::default();
        let logits = Tensor::<3>::from_floats([[[0.0, 0.0], [f32::NAN, 1e30], [1e4, -1e4]]], &device);
        let logits = logits.autodiff().require_grad();
        let mask = Tensor::<2, Bool>::from_bool([[true, false, true]], &device);
        let got = entropy(logits.clone(), mask, 0.7);
        let gradients = got.clone().sum().backward();
        let gradient: Vec<f32> = logits.grad(&gradients).unwrap().into_data().try_to_vec().unwrap();
        let got: Vec<f32> = got.into_data().try_to_vec().unwrap();
        assert!((got[0] - 2.0_f32.ln()).abs() < 1e-6, "{got:?}");
        assert_eq!(got[1..], [0.0, 0.0]);
        assert!(gradient.iter().all(|x| x.abs() < 1e-6), "{gradient:?}");
    }

    #[test]
    fn the_coefficient_moves_towards_the_target_and_rests_above_it() {
        let bonus = EntropyBonus { coef: 0.0, target: Some(0.2), step: 0.005, max_coef: 0.01 };
        assert_eq!(bonus.next_coef(0.0, 0.1), 0.005);
        assert_eq!(bonus.next_coef(0.009, 0.1), 0.01);
        assert_eq!(bonus.next_coef(0.001, 0.3), 0.0);
        assert_eq!((bonus.weight(0.005, 0.3), bonus.weight(0.005, 0.1)), (0.0, 0.005));
    }
}
