//! IPO: identity preference optimisation (arXiv 2310.12036, equation 17).
//!
//! `loss = (h - 1 / (2 beta))^2`: the margin is regressed to a constant, so that certain labels do not drive it to
//! infinity. TRL divides the log-ratios by their lengths; the paper and the common DPO code do not, nor is it the
//! default here.

use burn::tensor::Tensor;

use super::Pairs;

/// Identity preference optimisation.
#[derive(Debug, Clone, Copy)]
pub struct Ipo {
    /// Strength of the reference; greater than 0. Default 0.1.
    pub beta: f64,
    /// Whether log-ratios are divided by their lengths. Default no.
    pub length_normalised: bool,
}

impl Default for Ipo {
    fn default() -> Self {
        Self { beta: 0.1, length_normalised: false }
    }
}

impl Ipo {
    /// The loss of each pair.
    ///
    /// # Shapes
    /// - output: `[N]`
    pub fn evaluate(&self, pairs: Pairs) -> Tensor<1> {
        (pairs.margin(self.length_normalised) - 0.5 / self.beta).square()
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
        // h = 2 against 1 / (2 * 0.5) = 1; per token h = 1/2 + 1/4.
        let pair = [-1.0, -3.0, -2.0, -2.0, 2.0, 4.0];
        let ipo = Ipo { beta: 0.5, length_normalised: false };
        let (loss, chosen, rejected) = evaluate(|pairs| ipo.evaluate(pairs), &[pair]);
        assert_close(&[loss[0], chosen[0], rejected[0]], &[1.0, 2.0, -2.0]);
        let ipo = Ipo { length_normalised: true, ..ipo };
        let (loss, chosen, rejected) = evaluate(|pairs| ipo.evaluate(pairs), &[pair]);
        assert_close(&[loss[0], chosen[0], rejected[0]], &[0.0625, -0.25, 0.125]);
    }
}
