//! Bradley-Terry: a reward model from comparisons (Bradley and Terry 1952; as in InstructGPT, arXiv 2203.02155, equation 1).
//!
//! `loss = -log sigmoid(r_c - r_r - m) + coef (r_c + r_r)^2`: `m` is a wanted margin (Llama 2, arXiv 2307.09288, equation
//! 2), `coef` pulls rewards to a mean of 0 (arXiv 2312.09244, section 2).

use burn::tensor::{Tensor, activation::log_sigmoid};

/// The loss of a reward model.
#[derive(Debug, Clone, Copy, Default)]
pub struct BradleyTerry {
    /// Weight of the centering; at least 0. Default 0.
    pub center_coef: f64,
}

impl BradleyTerry {
    /// The loss of each pair, given the rewards of preferred and rejected completions and, if any, the margins.
    ///
    /// # Shapes
    /// - all: `[N]`
    pub fn evaluate(&self, chosen: Tensor<1>, rejected: Tensor<1>, margins: Option<Tensor<1>>) -> Tensor<1> {
        let (expected, got) = (chosen.dims(), rejected.dims());
        assert_eq!(got, expected, "rejected: expected {expected:?}, got {got:?}");
        let difference = chosen.clone() - rejected.clone();
        let difference = match margins {
            Some(margins) => {
                let got = margins.dims();
                assert_eq!(got, expected, "margins: expected {expected:?}, got {got:?}");
                difference - margins
            }
            None => difference,
        };
        log_sigmoid(difference).neg() + (chosen + rejected).square() * self.center_coef
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{assert_close, column},
        *,
    };

    #[test]
    fn hand_case() {
        let chosen = column(&[1.0]).autodiff().require_grad();
        let loss = BradleyTerry { center_coef: 0.1 };
        let loss = loss.evaluate(chosen.clone(), column(&[0.5]), Some(column(&[0.5])));
        let gradients = loss.clone().sum().backward();
        assert_close(&[loss.into_scalar()], &[2.0_f32.ln() + 0.1 * 2.25]);
        let gradient: f32 = chosen.grad(&gradients).unwrap().into_scalar();
        assert_close(&[gradient], &[-0.5 + 0.2 * 1.5]);
    }
}
