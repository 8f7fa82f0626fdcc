//! An algorithm as a composition of parts, and the vetted compositions.

use kyoka_core::{AdvantageEstimator, PolicyLoss};
use serde::{Deserialize, Serialize};

use crate::{
    Kl, KlEstimator, Reduction,
    advantage::{DrGrpo, Grpo, ProcessGrpo, Rloo},
    policy_loss::ClippedLoss,
};

/// A named, vetted setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// DeepSeekMath, arXiv 2402.03300.
    Grpo,
    /// GRPO with credit at the steps, after arXiv 2402.03300 section 4.1.3.
    ProcessGrpo,
    /// "Understanding R1-Zero-like training", arXiv 2503.20783.
    DrGrpo,
    /// "Back to basics", arXiv 2402.14740.
    Rloo,
    /// DAPO, arXiv 2503.14476.
    Dapo,
}

/// How credit is assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Credit {
    /// See [`Grpo`].
    Grpo,
    /// See [`ProcessGrpo`].
    ProcessGrpo,
    /// See [`DrGrpo`].
    DrGrpo,
    /// See [`Rloo`].
    Rloo,
}

/// An algorithm as plain data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlgorithmConfig {
    /// How credit is assigned.
    pub advantage: Credit,
    /// Weight of step credit against outcome credit in process supervision; at least 0.
    pub step_weight: f32,
    /// How far the ratio may fall below 1; in (0, 1].
    pub clip_low: f32,
    /// How far the ratio may rise above 1; greater than 0.
    pub clip_high: f32,
    /// The loss's denominator.
    pub reduction: Reduction,
    /// Weight of the divergence from the reference policy; 0 needs no reference.
    pub kl_coef: f32,
    /// Which estimate of it.
    pub kl_estimator: KlEstimator,
    /// Drop groups without spread in reward and sample further prompts in their place.
    pub dynamic_sampling: bool,
    /// Optimizer steps on one batch of rollouts; at least 1.
    pub updates_per_batch: usize,
}

/// Single fields of a preset, overridden.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are those of `AlgorithmConfig`")]
pub struct AlgorithmOverrides {
    pub preset: Option<Preset>,
    pub advantage: Option<Credit>,
    pub step_weight: Option<f32>,
    pub clip_low: Option<f32>,
    pub clip_high: Option<f32>,
    pub reduction: Option<Reduction>,
    pub kl_coef: Option<f32>,
    pub kl_estimator: Option<KlEstimator>,
    pub dynamic_sampling: Option<bool>,
    pub updates_per_batch: Option<usize>,
}

impl AlgorithmOverrides {
    /// The preset (GRPO if none is named) with the fields given here.
    pub fn resolve(&self) -> AlgorithmConfig {
        let preset = AlgorithmConfig::preset(self.preset.unwrap_or(Preset::Grpo));
        AlgorithmConfig {
            advantage: self.advantage.unwrap_or(preset.advantage),
            step_weight: self.step_weight.unwrap_or(preset.step_weight),
            clip_low: self.clip_low.unwrap_or(preset.clip_low),
            clip_high: self.clip_high.unwrap_or(preset.clip_high),
            reduction: self.reduction.unwrap_or(preset.reduction),
            kl_coef: self.kl_coef.unwrap_or(preset.kl_coef),
            kl_estimator: self.kl_estimator.unwrap_or(preset.kl_estimator),
            dynamic_sampling: self.dynamic_sampling.unwrap_or(preset.dynamic_sampling),
            updates_per_batch: self.updates_per_batch.unwrap_or(preset.updates_per_batch),
        }
    }
}

/// An algorithm ready to run.
pub struct Algorithm {
    /// Rewards to credit.
    pub advantage: Box<dyn AdvantageEstimator>,
    /// Credit to per-token loss.
    pub loss: Box<dyn PolicyLoss>,
    /// Per-token loss to one number.
    pub reduction: Reduction,
    /// Penalty for leaving the reference policy.
    pub kl: Option<Kl>,
    /// Drop groups without spread and refill.
    pub dynamic_sampling: bool,
    /// Optimizer steps on one batch of rollouts.
    pub updates_per_batch: usize,
}

/// Why a composition was refused.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum AlgorithmError {
    /// A field is out of range.
    #[error("algorithm: {field}: expected {expected}, got {got}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// Its range.
        expected: &'static str,
        /// The value.
        got: f32,
    },
    /// Group-relative credit needs a group.
    #[error(
        "algorithm: {advantage:?} compares the completions of a prompt: expected group_size of at least {expected}, got {got}"
    )]
    GroupTooSmall {
        /// The estimator.
        advantage: Credit,
        /// Fewest completions.
        expected: usize,
        /// The recipe's group size.
        got: usize,
    },
}

impl AlgorithmConfig {
    /// The vetted setting of a paper.
    pub fn preset(preset: Preset) -> Self {
        let grpo = Self {
            advantage: Credit::Grpo,
            step_weight: 1.0,
            clip_low: 0.2,
            clip_high: 0.2,
            reduction: Reduction::SequenceMeanTokenMean,
            kl_coef: 0.0,
            kl_estimator: KlEstimator::K3,
            dynamic_sampling: false,
            updates_per_batch: 1,
        };
        match preset {
            Preset::Grpo => grpo,
            Preset::ProcessGrpo => Self {
                advantage: Credit::ProcessGrpo,
                reduction: Reduction::TokenMean,
                clip_high: 0.28,
                ..grpo
            },
            Preset::DrGrpo => {
                Self { advantage: Credit::DrGrpo, reduction: Reduction::SequenceMeanTokenSumNorm, ..grpo }
            }
            Preset::Rloo => {
                Self { advantage: Credit::Rloo, reduction: Reduction::SequenceMeanTokenSum, ..grpo }
            }
            Preset::Dapo => {
                Self { clip_high: 0.28, reduction: Reduction::TokenMean, dynamic_sampling: true, ..grpo }
            }
        }
    }

    /// Checks the composition for groups of `group_size` and makes it.
    pub fn build(&self, group_size: usize) -> Result<Algorithm, AlgorithmError> {
        let check = |holds: bool, field, expected, got| {
            if holds { Ok(()) } else { Err(AlgorithmError::OutOfRange { field, expected, got }) }
        };
        check(self.step_weight >= 0.0, "step_weight", "at least 0", self.step_weight)?;
        check(self.clip_low > 0.0 && self.clip_low <= 1.0, "clip_low", "a number in (0, 1]", self.clip_low)?;
        check(self.clip_high > 0.0, "clip_high", "a number above 0", self.clip_high)?;
        check(self.kl_coef >= 0.0, "kl_coef", "at least 0", self.kl_coef)?;
        check(self.updates_per_batch >= 1, "updates_per_batch", "at least 1", self.updates_per_batch as f32)?;
        let advantage: Box<dyn AdvantageEstimator> = match self.advantage {
            Credit::Grpo => Box::new(Grpo::default()),
            Credit::ProcessGrpo => {
                Box::new(ProcessGrpo { step_weight: self.step_weight, ..ProcessGrpo::default() })
            }
            Credit::DrGrpo => Box::new(DrGrpo),
            Credit::Rloo => Box::new(Rloo),
        };
        let expected = advantage.min_group_size();
        if group_size < expected {
            return Err(AlgorithmError::GroupTooSmall {
                advantage: self.advantage,
                expected,
                got: group_size,
            });
        }
        Ok(Algorithm {
            advantage,
            loss: Box::new(ClippedLoss { clip_low: self.clip_low, clip_high: self.clip_high }),
            reduction: self.reduction,
            kl: (self.kl_coef > 0.0).then_some(Kl { kl_coef: self.kl_coef, estimator: self.kl_estimator }),
            dynamic_sampling: self.dynamic_sampling,
            updates_per_batch: self.updates_per_batch,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_change_single_fields_of_the_preset() {
        let overrides =
            AlgorithmOverrides { preset: Some(Preset::Dapo), clip_high: Some(0.4), ..Default::default() };
        let expected = AlgorithmConfig { clip_high: 0.4, ..AlgorithmConfig::preset(Preset::Dapo) };
        assert_eq!(overrides.resolve(), expected);
    }

    #[test]
    fn combinations_without_meaning_are_refused_with_the_reason() {
        let alone = AlgorithmConfig::preset(Preset::Grpo).build(1).err().unwrap();
        assert_eq!(
            alone.to_string(),
            "algorithm: Grpo compares the completions of a prompt: expected group_size of at least 2, got 1"
        );
        let bad = AlgorithmConfig { clip_low: 0.0, ..AlgorithmConfig::preset(Preset::Grpo) };
        assert_eq!(
            bad.build(4).err().unwrap().to_string(),
            "algorithm: clip_low: expected a number in (0, 1], got 0"
        );
    }
}
