//! Bradley-Terry: a reward model from comparisons (Bradley and Terry 1952; as in InstructGPT, arXiv 2203.02155, equation 1).
//!
//! `loss = -log sigmoid(r_c - r_r - m) + coef (r_c + r_r)^2`: `m` is a wanted margin (Llama 2, arXiv 2307.09288, equation
//! 2), `coef` pulls rewards to a mean of 0 (arXiv 2312.09244, section 2). Of a tie each side is preferred by half, without a
//! margin: `-(log sigmoid(r_c - r_r) + log sigmoid(r_r - r_c)) / 2` in the place of the first term.

use burn::tensor::{Bool, Tensor, activation::log_sigmoid};

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
        let first = Self::ahead(chosen.clone(), rejected.clone(), margins);
        first + (chosen + rejected).square() * self.center_coef
    }

    /// [`evaluate`](Self::evaluate) where some pairs are ties; margins of those do not count.
    ///
    /// # Shapes
    /// - all: `[N]`
    pub fn evaluate_with_ties(
        &self,
        chosen: Tensor<1>,
        rejected: Tensor<1>,
        margins: Tensor<1>,
        ties: Tensor<1, Bool>,
    ) -> Tensor<1> {
        let (expected, got) = (chosen.dims(), ties.dims());
        assert_eq!(got, expected, "ties: expected {expected:?}, got {got:?}");
        let margins = margins.mask_fill(ties.clone(), 0.0);
        // How much of a pair's loss prefers its first side: all, or half of a tie's.
        let first = chosen.clone().detach().ones_like().mask_fill(ties, 0.5);
        let ahead = Self::ahead(chosen.clone(), rejected.clone(), Some(margins));
        let behind = Self::ahead(rejected.clone(), chosen.clone(), None);
        let preferred = ahead * first.clone() + behind * (first.neg() + 1.0);
        preferred + (chosen + rejected).square() * self.center_coef
    }

    /// `-log sigmoid(r_c - r_r - m)`.
    fn ahead(chosen: Tensor<1>, rejected: Tensor<1>, margins: Option<Tensor<1>>) -> Tensor<1> {
        let (expected, got) = (chosen.dims(), rejected.dims());
        assert_eq!(got, expected, "rejected: expected {expected:?}, got {got:?}");
        let difference = chosen - rejected;
        let difference = match margins {
            Some(margins) => {
                let got = margins.dims();
                assert_eq!(got, expected, "margins: expected {expected:?}, got {got:?}");
                difference - margins
            }
            None => difference,
        };
        log_sigmoid(difference).neg()
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

    #[test]
    fn a_tie_pulls_both_sides_together() {
        let (chosen, rejected) = (column(&[2.0, 2.0]).autodiff().require_grad(), column(&[0.0, 0.0]));
        let ties = Tensor::<1, Bool>::from_bool([true, false].as_slice(), &burn::tensor::Device::default());
        let loss = BradleyTerry { center_coef: 0.1 };
        let margins = column(&[5.0, 1.0]);
        let losses = loss.evaluate_with_ties(chosen.clone(), rejected.clone(), margins, ties);
        let gradients = losses.clone().sum().backward();
        let right = |x: f32| (1.0 + (-x).exp()).ln();
        let numbers = |tensor: Tensor<1>| tensor.into_data().try_to_vec::<f32>().unwrap();
        assert_close(&numbers(losses), &[0.5 * (right(2.0) + right(-2.0)) + 0.4, right(1.0) + 0.4]);
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        let gradient = numbers(chosen.grad(&gradients).unwrap());
        // (sigmoid(d) - sigmoid(-d)) / 2: 0 where both are worth the same.
        assert_close(&gradient, &[0.5 * (sigmoid(2.0) - sigmoid(-2.0)) + 0.4, -sigmoid(-1.0) + 0.4]);
    }
}
