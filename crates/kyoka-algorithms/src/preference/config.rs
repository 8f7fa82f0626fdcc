//! Preference algorithms as plain data, and the vetted settings.

use serde::{Deserialize, Serialize};

use crate::algorithm::{AlgorithmError, in_range};

/// A named, vetted setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PreferencePreset {
    /// Direct preference optimisation, arXiv 2305.18290.
    Dpo,
    /// Identity preference optimisation, arXiv 2310.12036.
    Ipo,
    /// Kahneman-Tversky optimisation, arXiv 2402.01306.
    Kto,
    /// Mixed preference optimisation, arXiv 2411.10442.
    Mpo,
}

/// Which loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PreferenceKind {
    /// See [`super::Dpo`], logistic.
    Dpo,
    /// See [`super::Dpo`], robust.
    DpoRobust,
    /// See [`super::Dpo`], hinge.
    DpoHinge,
    /// See [`super::Ipo`].
    Ipo,
    /// See [`super::Simpo`].
    Simpo,
    /// See [`super::Kto`].
    Kto,
    /// See [`super::Mpo`].
    Mpo,
}

/// A preference algorithm as plain data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreferenceConfig {
    /// Which loss.
    pub loss: PreferenceKind,
    /// Strength of the reference (scale of the difference in SimPO); greater than 0.
    pub beta: f64,
    /// DPO: chance that a label is wrong, in [0, 0.5).
    pub label_smoothing: f64,
    /// DPO and IPO: whether log-ratios are divided by their lengths.
    pub length_normalised: bool,
    /// DPO: whether the reference is left out.
    pub reference_free: bool,
    /// SimPO: margin.
    pub gamma: f64,
    /// KTO: weight of desirable completions, at least 0.
    pub desirable_weight: f64,
    /// KTO: weight of undesirable completions, at least 0.
    pub undesirable_weight: f64,
    /// MPO: weight of DPO, at least 0.
    pub preference_weight: f64,
    /// MPO: weight of BCO, at least 0.
    pub quality_weight: f64,
    /// MPO: weight of the likelihood of the preferred completion, at least 0.
    pub generation_weight: f64,
}

/// Single fields of a preset, overridden.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of `PreferenceConfig`")]
pub struct PreferenceOverrides {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<PreferencePreset>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<PreferenceKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_smoothing: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length_normalised: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_free: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gamma: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desirable_weight: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undesirable_weight: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preference_weight: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality_weight: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation_weight: Option<f64>,
}

impl PreferenceOverrides {
    /// The preset (DPO if none is named) with the fields given here.
    pub fn resolve(&self) -> PreferenceConfig {
        let preset = PreferenceConfig::preset(self.preset.unwrap_or(PreferencePreset::Dpo));
        PreferenceConfig {
            loss: self.loss.unwrap_or(preset.loss),
            beta: self.beta.unwrap_or(preset.beta),
            label_smoothing: self.label_smoothing.unwrap_or(preset.label_smoothing),
            length_normalised: self.length_normalised.unwrap_or(preset.length_normalised),
            reference_free: self.reference_free.unwrap_or(preset.reference_free),
            gamma: self.gamma.unwrap_or(preset.gamma),
            desirable_weight: self.desirable_weight.unwrap_or(preset.desirable_weight),
            undesirable_weight: self.undesirable_weight.unwrap_or(preset.undesirable_weight),
            preference_weight: self.preference_weight.unwrap_or(preset.preference_weight),
            quality_weight: self.quality_weight.unwrap_or(preset.quality_weight),
            generation_weight: self.generation_weight.unwrap_or(preset.generation_weight),
        }
    }
}

impl PreferenceConfig {
    /// The vetted setting of a paper.
    pub fn preset(preset: PreferencePreset) -> Self {
        let dpo = Self {
            loss: PreferenceKind::Dpo,
            beta: 0.1,
            label_smoothing: 0.0,
            length_normalised: false,
            reference_free: false,
            gamma: 0.5,
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
            preference_weight: 0.8,
            quality_weight: 0.2,
            generation_weight: 1.0,
        };
        let loss = match preset {
            PreferencePreset::Dpo => PreferenceKind::Dpo,
            PreferencePreset::Ipo => PreferenceKind::Ipo,
            PreferencePreset::Kto => PreferenceKind::Kto,
            PreferencePreset::Mpo => PreferenceKind::Mpo,
        };
        Self { loss, ..dpo }
    }

    /// Checks the ranges, and that no field is set which the loss does not read.
    pub fn validate(&self) -> Result<(), AlgorithmError> {
        in_range(self.beta > 0.0, "beta", "a number above 0", self.beta)?;
        let smoothing = self.label_smoothing;
        in_range((0.0..0.5).contains(&smoothing), "label_smoothing", "a number in [0, 0.5)", smoothing)?;
        for (field, weight) in [
            ("desirable_weight", self.desirable_weight),
            ("undesirable_weight", self.undesirable_weight),
            ("preference_weight", self.preference_weight),
            ("quality_weight", self.quality_weight),
            ("generation_weight", self.generation_weight),
        ] {
            in_range(weight >= 0.0, field, "at least 0", weight)?;
        }
        let smooths = matches!(self.loss, PreferenceKind::Dpo | PreferenceKind::DpoRobust);
        if smoothing > 0.0 && !smooths {
            let reason = format!("{:?} has no label_smoothing; expected 0, got {smoothing}", self.loss);
            return Err(AlgorithmError::NoMeaning { reason });
        }
        let is_dpo = smooths || self.loss == PreferenceKind::DpoHinge;
        for (field, set, read) in [
            ("reference_free", self.reference_free, is_dpo),
            ("length_normalised", self.length_normalised, is_dpo || self.loss == PreferenceKind::Ipo),
        ] {
            if set && !read {
                let reason = format!("{:?} has no {field}; expected false, got true", self.loss);
                return Err(AlgorithmError::NoMeaning { reason });
            }
        }
        in_range(self.gamma.is_finite(), "gamma", "a finite number", self.gamma)
    }

    /// Whether the trainer must keep a reference policy.
    pub fn needs_reference(&self) -> bool {
        !self.reference_free && self.loss != PreferenceKind::Simpo
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_change_single_fields_and_ranges_are_checked() {
        let overrides = PreferenceOverrides {
            preset: Some(PreferencePreset::Ipo),
            beta: Some(0.3),
            ..PreferenceOverrides::default()
        };
        let config = overrides.resolve();
        assert_eq!((config.loss, config.beta), (PreferenceKind::Ipo, 0.3));
        assert!(config.validate().is_ok() && config.needs_reference());
        let bad = PreferenceConfig { beta: 0.0, ..config.clone() }.validate().unwrap_err();
        assert_eq!(bad.to_string(), "algorithm: beta: expected a number above 0, got 0");
        let free = PreferenceConfig { reference_free: true, ..config.clone() }.validate().unwrap_err();
        assert_eq!(free.to_string(), "algorithm: Ipo has no reference_free; expected false, got true");
        let smoothed = PreferenceConfig { label_smoothing: 0.1, ..config }.validate().unwrap_err();
        assert_eq!(smoothed.to_string(), "algorithm: Ipo has no label_smoothing; expected 0, got 0.1");
    }
}
