//! Preference algorithms as plain data, and the vetted settings.

use serde::{Deserialize, Serialize};

use super::PreferenceLoss;
use crate::{
    algorithm::{AlgorithmError, in_range},
    readers::one_of,
};

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
    /// Simple preference optimisation, arXiv 2405.14734.
    Simpo,
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

/// Every setting once: the config, its overrides, and the one laid over the other.
macro_rules! settings {
    ($($(#[$doc:meta])* $field:ident: $kind:ty,)*) => {
        /// A preference algorithm as plain data.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct PreferenceConfig {
            $($(#[$doc])* pub $field: $kind,)*
        }

        /// Single fields of a preset, overridden.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        #[expect(missing_docs, reason = "the fields are those of `PreferenceConfig`")]
        pub struct PreferenceOverrides {
            #[serde(skip_serializing_if = "Option::is_none")]
            pub preset: Option<PreferencePreset>,
            $(#[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$kind>,)*
        }

        impl PreferenceOverrides {
            /// The preset with the fields given here; without a preset that of the loss, or DPO.
            pub fn resolve(&self) -> PreferenceConfig {
                let of_loss = self.loss.map_or(PreferencePreset::Dpo, PreferenceKind::preset);
                let preset = PreferenceConfig::preset(self.preset.unwrap_or(of_loss));
                PreferenceConfig { $($field: self.$field.unwrap_or(preset.$field),)* }
            }

            /// Names of the fields that are given here.
            fn given(&self) -> Vec<&'static str> {
                let fields = [$((stringify!($field), self.$field.is_some()),)*];
                fields.into_iter().filter(|(_, given)| *given).map(|(field, _)| field).collect()
            }
        }
    };
}

settings! {
    /// Which loss.
    loss: PreferenceKind,
    /// Strength of the reference (scale of the difference in SimPO); a finite number above 0.
    beta: f64,
    /// DPO: chance that a label is wrong, in [0, 0.5).
    label_smoothing: f64,
    /// DPO and IPO: whether log-ratios are divided by their lengths.
    length_normalised: bool,
    /// DPO: whether the reference is left out.
    reference_free: bool,
    /// SimPO: margin; a finite number of at least 0.
    gamma: f64,
    /// KTO: weight of desirable completions, a finite number of at least 0.
    desirable_weight: f64,
    /// KTO: weight of undesirable completions, a finite number of at least 0; one of the two above 0.
    undesirable_weight: f64,
    /// MPO: weight of DPO, a finite number of at least 0.
    preference_weight: f64,
    /// MPO: weight of BCO, a finite number of at least 0.
    quality_weight: f64,
    /// MPO: weight of the likelihood of the preferred completion, a finite number of at least 0; one of the three above 0.
    generation_weight: f64,
}

const DPO: &[PreferenceKind] = &[PreferenceKind::Dpo, PreferenceKind::DpoRobust, PreferenceKind::DpoHinge];

/// The losses that read a field; all others are read by every loss.
const READERS: [(&str, &[PreferenceKind]); 9] = [
    ("label_smoothing", &[PreferenceKind::Dpo, PreferenceKind::DpoRobust]),
    (
        "length_normalised",
        &[PreferenceKind::Dpo, PreferenceKind::DpoRobust, PreferenceKind::DpoHinge, PreferenceKind::Ipo],
    ),
    ("reference_free", DPO),
    ("gamma", &[PreferenceKind::Simpo]),
    ("desirable_weight", &[PreferenceKind::Kto]),
    ("undesirable_weight", &[PreferenceKind::Kto]),
    ("preference_weight", &[PreferenceKind::Mpo]),
    ("quality_weight", &[PreferenceKind::Mpo]),
    ("generation_weight", &[PreferenceKind::Mpo]),
];

impl PreferenceKind {
    /// The vetted setting of the loss.
    fn preset(self) -> PreferencePreset {
        match self {
            Self::Dpo | Self::DpoRobust | Self::DpoHinge => PreferencePreset::Dpo,
            Self::Ipo => PreferencePreset::Ipo,
            Self::Simpo => PreferencePreset::Simpo,
            Self::Kto => PreferencePreset::Kto,
            Self::Mpo => PreferencePreset::Mpo,
        }
    }
}

impl PreferenceOverrides {
    /// Checks the ranges and that every field given here is read, and makes the loss.
    ///
    /// # Errors
    /// If a field is out of range or is given for a loss that does not read it.
    pub fn build(&self) -> Result<PreferenceLoss, AlgorithmError> {
        let config = self.resolve();
        config.check_ranges()?;
        for field in self.given() {
            let reader = READERS.iter().find(|(name, _)| *name == field);
            if let Some((_, kinds)) = reader.filter(|(_, kinds)| !kinds.contains(&config.loss)) {
                let (expected, got) = (one_of(kinds), one_of(&[config.loss]));
                let (expected, got) = (format!("loss = {expected}"), format!("loss = {got}"));
                return Err(AlgorithmError::Unread { field, expected, got });
            }
        }
        config.build()
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
            PreferencePreset::Simpo => {
                return Self { loss: PreferenceKind::Simpo, beta: 2.0, gamma: 1.0, ..dpo };
            }
        };
        Self { loss, ..dpo }
    }

    /// An error that names the first field out of its range.
    fn check_ranges(&self) -> Result<(), AlgorithmError> {
        let above_0 = self.beta.is_finite() && self.beta > 0.0;
        in_range(above_0, "beta", "a finite number above 0", self.beta)?;
        let smoothing = self.label_smoothing;
        in_range((0.0..0.5).contains(&smoothing), "label_smoothing", "a number in [0, 0.5)", smoothing)?;
        for (field, weight) in [
            ("gamma", self.gamma),
            ("desirable_weight", self.desirable_weight),
            ("undesirable_weight", self.undesirable_weight),
            ("preference_weight", self.preference_weight),
            ("quality_weight", self.quality_weight),
            ("generation_weight", self.generation_weight),
        ] {
            in_range(weight.is_finite() && weight >= 0.0, field, "a finite number of at least 0", weight)?;
        }
        let weights: &[f64] = match self.loss {
            PreferenceKind::Kto => &[self.desirable_weight, self.undesirable_weight],
            PreferenceKind::Mpo => &[self.preference_weight, self.quality_weight, self.generation_weight],
            _ => return Ok(()),
        };
        if weights.iter().all(|&weight| weight == 0.0) {
            let reason = format!("the weights of {:?}: expected one above 0, got none", self.loss);
            return Err(AlgorithmError::NoMeaning { reason });
        }
        Ok(())
    }

    /// Checks the ranges, and that no field is set which the loss does not read.
    pub fn validate(&self) -> Result<(), AlgorithmError> {
        self.check_ranges()?;
        let smoothing = self.label_smoothing;
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
        Ok(())
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
        assert_eq!(bad.to_string(), "algorithm.beta: expected a finite number above 0, got 0");
        let free = PreferenceConfig { reference_free: true, ..config.clone() }.validate().unwrap_err();
        assert_eq!(free.to_string(), "algorithm: Ipo has no reference_free; expected false, got true");
        let smoothed = PreferenceConfig { label_smoothing: 0.1, ..config }.validate().unwrap_err();
        assert_eq!(smoothed.to_string(), "algorithm: Ipo has no label_smoothing; expected 0, got 0.1");
    }

    #[test]
    fn a_field_that_the_loss_does_not_read_is_refused() {
        let overrides = PreferenceOverrides { gamma: Some(0.5), ..Default::default() };
        assert_eq!(
            overrides.build().err().unwrap().to_string(),
            "algorithm.gamma: expected loss = \"simpo\", which reads it, or no gamma; got loss = \"dpo\""
        );
        let simpo = PreferenceOverrides { loss: Some(PreferenceKind::Simpo), ..overrides };
        assert!(simpo.build().is_ok());
    }

    #[test]
    fn a_loss_without_a_preset_has_its_own_vetted_setting() {
        let simpo = PreferenceOverrides { loss: Some(PreferenceKind::Simpo), ..Default::default() };
        assert_eq!(simpo.resolve(), PreferenceConfig::preset(PreferencePreset::Simpo));
        assert_eq!(simpo.resolve().beta, 2.0);
    }

    #[test]
    fn weights_that_leave_nothing_are_refused() {
        let mpo = PreferenceConfig::preset(PreferencePreset::Mpo);
        let none =
            PreferenceConfig { preference_weight: 0.0, quality_weight: 0.0, generation_weight: 0.0, ..mpo };
        assert!(none.validate().unwrap_err().to_string().contains("expected one above 0"));
        let endless =
            PreferenceConfig { gamma: f64::INFINITY, ..PreferenceConfig::preset(PreferencePreset::Simpo) };
        assert!(endless.validate().unwrap_err().to_string().starts_with("algorithm.gamma"));
    }
}
