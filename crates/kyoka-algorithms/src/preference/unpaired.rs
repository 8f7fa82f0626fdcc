//! Losses over single completions that people took or did not take, as plain data.

use burn::tensor::{Bool, Tensor};
use serde::{Deserialize, Serialize};

use super::{Bco, Kto, KtoInput};
use crate::algorithm::{AlgorithmError, in_range};

/// Which loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnpairedKind {
    /// See [`Kto`].
    Kto,
    /// See [`Bco`].
    Bco,
}

/// Settings of the loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UnpairedConfig {
    /// Which loss. Default: `bco` where no completion of the split has more than three words, as `pass` and `reject`, else `kto`. KTO
    /// compares with what the policy makes of completions that do not belong to the prompt; among a few words there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<UnpairedKind>,
    /// Strength of the reference; a finite number above 0. Default 0.1.
    pub beta: f64,
    /// Weight of desirable completions, a finite number of at least 0. Default 1.
    pub desirable_weight: f64,
    /// Weight of undesirable completions, a finite number of at least 0; one of the two above 0. Default 1.
    pub undesirable_weight: f64,
}

impl Default for UnpairedConfig {
    fn default() -> Self {
        Self { loss: None, beta: 0.1, desirable_weight: 1.0, undesirable_weight: 1.0 }
    }
}

impl UnpairedConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// Names the field, its range and the value.
    pub fn check(&self) -> Result<(), AlgorithmError> {
        in_range(self.beta.is_finite() && self.beta > 0.0, "beta", "a finite number above 0", self.beta)?;
        let weights =
            [("desirable_weight", self.desirable_weight), ("undesirable_weight", self.undesirable_weight)];
        for (field, weight) in weights {
            in_range(weight.is_finite() && weight >= 0.0, field, "a finite number of at least 0", weight)?;
        }
        if weights.iter().all(|(_, weight)| *weight == 0.0) {
            let reason = "the weights: expected one above 0, got none".to_owned();
            return Err(AlgorithmError::NoMeaning { reason });
        }
        Ok(())
    }

    /// The loss for a split whose longest completion has so many words.
    pub fn build(&self, most_words: usize) -> UnpairedLoss {
        let Self { loss, beta, desirable_weight, undesirable_weight } = *self;
        let few = if most_words <= FEW_WORDS { UnpairedKind::Bco } else { UnpairedKind::Kto };
        match loss.unwrap_or(few) {
            UnpairedKind::Kto => UnpairedLoss::Kto(Kto { beta, desirable_weight, undesirable_weight }),
            UnpairedKind::Bco => {
                UnpairedLoss::Bco(Bco { beta, desirable_weight, undesirable_weight, reward_shift: 0.0 })
            }
        }
    }
}

/// Words up to which completions are few.
const FEW_WORDS: usize = 3;

/// A loss ready to run.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the structs are documented under the same names")]
pub enum UnpairedLoss {
    Kto(Kto),
    Bco(Bco),
}

impl UnpairedLoss {
    /// The strength of the reference: `beta` times a log-ratio is the implicit reward.
    pub fn beta(&self) -> f64 {
        match self {
            Self::Kto(kto) => kto.beta,
            Self::Bco(bco) => bco.beta,
        }
    }

    /// Whether it reads log-ratios of mismatched completions.
    pub fn needs_mismatched(&self) -> bool {
        matches!(self, Self::Kto(_))
    }

    /// The loss of each completion.
    ///
    /// # Shapes
    /// - `log_ratios`, `desirable`: `[N]`
    /// - `mismatched_log_ratios`: `[M]`, of the whole batch
    /// - output: `[N]`
    pub fn evaluate(
        &self,
        log_ratios: Tensor<1>,
        desirable: Tensor<1, Bool>,
        mismatched_log_ratios: Tensor<1>,
    ) -> Tensor<1> {
        match self {
            Self::Kto(kto) => kto.evaluate(KtoInput { log_ratios, desirable, mismatched_log_ratios }),
            Self::Bco(bco) => bco.evaluate(log_ratios, desirable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_few_words_are_told_apart_by_a_classifier() {
        let kind = |config: UnpairedConfig, words| match config.build(words) {
            UnpairedLoss::Kto(_) => UnpairedKind::Kto,
            UnpairedLoss::Bco(_) => UnpairedKind::Bco,
        };
        let default = UnpairedConfig::default();
        assert_eq!((kind(default, 1), kind(default, 4)), (UnpairedKind::Bco, UnpairedKind::Kto));
        let named = UnpairedConfig { loss: Some(UnpairedKind::Kto), ..default };
        assert_eq!(kind(named, 1), UnpairedKind::Kto);
    }

    #[test]
    fn ranges_are_checked() {
        let said = |config: UnpairedConfig| config.check().unwrap_err().to_string();
        let default = UnpairedConfig::default();
        assert!(default.check().is_ok());
        let expected = "algorithm.beta: expected a finite number above 0, got 0";
        assert_eq!(said(UnpairedConfig { beta: 0.0, ..default }), expected);
        let none = UnpairedConfig { desirable_weight: 0.0, undesirable_weight: 0.0, ..default };
        assert!(said(none).ends_with("expected one above 0, got none"));
    }
}
