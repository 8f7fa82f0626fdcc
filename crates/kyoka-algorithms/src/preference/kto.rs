//! KTO: completions that are good or bad, without pairs (arXiv 2402.01306, equation 8).
//!
//! With `l = log p(y) / p_ref(y)` and the reference point `z0 = max(0, mean of l over mismatched completions)`, which
//! has no gradient: `w_d (1 - sigmoid(beta (l - z0)))` for desirable completions, `w_u (1 - sigmoid(beta (z0 - l)))`
//! for the others.

use burn::tensor::{Bool, Tensor, activation::sigmoid};

/// Kahneman-Tversky optimisation.
#[derive(Debug, Clone, Copy)]
pub struct Kto {
    /// Strength of the reference; greater than 0. Default 0.1.
    pub beta: f64,
    /// Weight of desirable completions. Default 1.
    pub desirable_weight: f64,
    /// Weight of undesirable completions; weights times numbers should stand between 1:1 and 4:3. Default 1.
    pub undesirable_weight: f64,
}

impl Default for Kto {
    fn default() -> Self {
        Self { beta: 0.1, desirable_weight: 1.0, undesirable_weight: 1.0 }
    }
}

/// What KTO sees.
#[derive(Debug, Clone)]
pub struct KtoInput {
    /// `log p(y) / p_ref(y)` of each completion, shape `[N]`; carries the gradient.
    pub log_ratios: Tensor<1>,
    /// True for desirable completions, shape `[N]`.
    pub desirable: Tensor<1, Bool>,
    /// `log p(y') / p_ref(y')` of completions `y'` of other prompts, shape `[M]`.
    pub mismatched_log_ratios: Tensor<1>,
}

impl Kto {
    /// The reference point `z0`, shape `[1]`; 0 without a mismatched completion.
    pub fn reference_point(&self, mismatched_log_ratios: Tensor<1>) -> Tensor<1> {
        let [m] = mismatched_log_ratios.dims();
        (mismatched_log_ratios.detach().sum() / m.max(1) as f64).clamp_min(0.0)
    }

    /// The loss of each completion.
    ///
    /// # Shapes
    /// - output: `[N]`
    pub fn evaluate(&self, input: KtoInput) -> Tensor<1> {
        let KtoInput { log_ratios, desirable, mismatched_log_ratios } = input;
        let (expected, got) = (log_ratios.dims(), desirable.dims());
        assert_eq!(got, expected, "desirable: expected {expected:?}, got {got:?}");
        let ones = log_ratios.clone().detach().ones_like();
        let sign = ones.clone().neg().mask_fill(desirable.clone(), 1.0);
        let weight = (ones * self.undesirable_weight).mask_fill(desirable, self.desirable_weight);
        let gain = (log_ratios - self.reference_point(mismatched_log_ratios)) * sign * self.beta;
        (sigmoid(gain).neg() + 1.0) * weight
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::{
        super::tests::{assert_close, column},
        *,
    };

    #[test]
    fn hand_case() {
        let log_ratios = column(&[1.0, 1.0]).autodiff().require_grad();
        let kto = Kto { beta: 1.0, undesirable_weight: 2.0, ..Kto::default() };
        let loss = kto.evaluate(KtoInput {
            log_ratios: log_ratios.clone(),
            desirable: Tensor::<1, Bool>::from_bool([true, false].as_slice(), &Device::default()),
            mismatched_log_ratios: column(&[0.5, 1.5]),
        });
        let gradients = loss.clone().sum().backward();
        assert_close(&loss.into_data().try_to_vec::<f32>().unwrap(), &[0.5, 1.0]);
        let gradient: Vec<f32> = log_ratios.grad(&gradients).unwrap().into_data().try_to_vec().unwrap();
        assert_close(&gradient, &[-0.25, 0.5]);
    }

    #[test]
    fn the_reference_point_is_never_negative() {
        let point = |values: &[f32]| -> f32 { Kto::default().reference_point(column(values)).into_scalar() };
        assert_eq!((point(&[-3.0, 1.0]), point(&[1.0, 3.0])), (0.0, 2.0));
    }
}
