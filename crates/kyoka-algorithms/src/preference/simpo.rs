//! SimPO: length-normalised log-probabilities, a margin, no reference (arXiv 2405.14734, equation 6).
//!
//! `loss = -log sigmoid(beta (log p(c) / |c| - log p(r) / |r|) - gamma)`

use burn::tensor::{Tensor, activation::log_sigmoid};

use super::Pairs;

/// Simple preference optimisation.
#[derive(Debug, Clone, Copy)]
pub struct Simpo {
    /// Scale of the difference; greater than 0. Default 2.
    pub beta: f64,
    /// Margin that the difference must exceed. Default 0.5.
    pub gamma: f64,
}

impl Default for Simpo {
    fn default() -> Self {
        Self { beta: 2.0, gamma: 0.5 }
    }
}

impl Simpo {
    /// The loss of each pair.
    ///
    /// # Shapes
    /// - output: `[N]`
    pub fn evaluate(&self, pairs: Pairs) -> Tensor<1> {
        pairs.check();
        let chosen = pairs.chosen_logprobs / pairs.chosen_lengths;
        let rejected = pairs.rejected_logprobs / pairs.rejected_lengths;
        log_sigmoid((chosen - rejected) * self.beta - self.gamma).neg()
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
        // 2 (-1/2 + 3/4) - 0.5 = 0
        let pair = [-1.0, -3.0, 0.0, 0.0, 2.0, 4.0];
        let (loss, chosen, rejected) = evaluate(|pairs| Simpo::default().evaluate(pairs), &[pair]);
        assert_close(&[loss[0], chosen[0], rejected[0]], &[2.0_f32.ln(), -0.5, 0.25]);
    }
}
