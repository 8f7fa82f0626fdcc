//! DPO: direct preference optimisation (arXiv 2305.18290, equation 7).
//!
//! `loss = -log sigmoid(beta h)`, `h = log p(c) / p_ref(c) - log p(r) / p_ref(r)`
//!
//! Forms for labels that are wrong with probability `e`: conservative (`(1 - e) l(h) + e l(-h)`, the paper's appendix
//! and TRL's label smoothing) and robust (`((1 - e) l(h) - e l(-h)) / (1 - 2 e)`, arXiv 2403.00409, equation 12); the
//! hinge `max(0, 1 - beta h)` is SLiC's (arXiv 2305.10425). `h` can be length-normalised (as in Tulu 3, arXiv
//! 2411.15124, equation 6) or free of the reference.

use burn::tensor::{Tensor, activation::log_sigmoid};
use serde::{Deserialize, Serialize};

use super::Pairs;

/// How `beta h` becomes a loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DpoForm {
    /// Logistic, with label smoothing.
    #[default]
    Sigmoid,
    /// Logistic, unbiased under label noise.
    Robust,
    /// `max(0, 1 - beta h)`.
    Hinge,
}

/// Direct preference optimisation.
#[derive(Debug, Clone, Copy)]
pub struct Dpo {
    /// Strength of the reference; greater than 0. Default 0.1.
    pub beta: f64,
    /// Form of the loss.
    pub form: DpoForm,
    /// Chance that a label is wrong, in [0, 0.5). Default 0.
    pub label_smoothing: f64,
    /// Whether log-ratios are divided by their lengths. Default no.
    pub length_normalised: bool,
    /// Whether the reference is left out. Default no.
    pub reference_free: bool,
}

impl Default for Dpo {
    fn default() -> Self {
        Self {
            beta: 0.1,
            form: DpoForm::Sigmoid,
            label_smoothing: 0.0,
            length_normalised: false,
            reference_free: false,
        }
    }
}

impl Dpo {
    /// The loss of each pair.
    ///
    /// # Shapes
    /// - output: `[N]`
    pub fn evaluate(&self, mut pairs: Pairs) -> Tensor<1> {
        pairs.check();
        if self.reference_free {
            pairs.reference_chosen = pairs.reference_chosen.zeros_like();
            pairs.reference_rejected = pairs.reference_rejected.zeros_like();
        }
        let x = pairs.margin(self.length_normalised) * self.beta;
        let e = self.label_smoothing;
        let right = |x: Tensor<1>| log_sigmoid(x).neg();
        match self.form {
            DpoForm::Hinge => (x.neg() + 1.0).clamp_min(0.0),
            DpoForm::Sigmoid if e == 0.0 => right(x),
            DpoForm::Sigmoid => right(x.clone()) * (1.0 - e) + right(x.neg()) * e,
            DpoForm::Robust => (right(x.clone()) * (1.0 - e) - right(x.neg()) * e) * (1.0 / (1.0 - 2.0 * e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{Pair, assert_close, evaluate},
        *,
    };

    // h = (-1 + 2) - (-3 + 2) = 2
    const PAIR: Pair = [-1.0, -3.0, -2.0, -2.0, 2.0, 4.0];

    #[test]
    fn hand_case() {
        let dpo = Dpo { beta: 0.5, ..Dpo::default() };
        let (loss, chosen, rejected) = evaluate(|pairs| dpo.evaluate(pairs), &[PAIR]);
        let wrong = 1.0 / (1.0 + 1.0_f32.exp());
        assert_close(&loss, &[(1.0 + (-1.0_f32).exp()).ln()]);
        assert_close(&chosen, &[-0.5 * wrong]);
        assert_close(&rejected, &[0.5 * wrong]);
    }

    #[test]
    fn forms_by_hand() {
        let right = (1.0 + (-1.0_f32).exp()).ln();
        let base = Dpo { beta: 0.5, label_smoothing: 0.1, ..Dpo::default() };
        let at = |dpo: Dpo| evaluate(move |pairs| dpo.evaluate(pairs), &[PAIR]).0[0];
        assert_close(&[at(base)], &[0.9 * right + 0.1 * (right + 1.0)]);
        let robust = (0.9 * right - 0.1 * (right + 1.0)) / 0.8;
        assert_close(&[at(Dpo { form: DpoForm::Robust, ..base })], &[robust]);
        assert_close(&[at(Dpo { form: DpoForm::Hinge, beta: 0.25, ..base })], &[0.5]);
        // 1/2 + 1/4, then -1 + 3
        let hinge = Dpo { form: DpoForm::Hinge, ..base };
        assert_close(&[at(Dpo { length_normalised: true, ..hinge })], &[1.0 - 0.375]);
        assert_close(&[at(Dpo { reference_free: true, beta: 0.25, ..hinge })], &[0.5]);
    }
}
