//! Stretching rotary frequencies beyond the trained context, as checkpoints ask for it in `rope_parameters`.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// How the frequencies of a rotary embedding are stretched.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RopeScaling {
    /// All frequencies divided by the factor (position interpolation, arXiv 2306.15595).
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// Llama 3.1: long waves divided by the factor, short ones kept, a ramp between.
    Llama3 {
        /// Divides the frequencies of long waves.
        factor: f64,
        /// Waves longer than the context over this number are long.
        low_freq_factor: f64,
        /// Waves shorter than the context over this number are short.
        high_freq_factor: f64,
        /// Context the model was trained with.
        original_max_positions: f64,
    },
    /// YaRN (arXiv 2309.00071): a ramp over the dimensions, and a scale on cosines and sines.
    Yarn {
        /// Divides the frequencies of slow dimensions.
        factor: f64,
        /// Scale of cosines and sines.
        attention_factor: f64,
        /// Turns over the trained context above which a dimension is kept.
        beta_fast: f64,
        /// Turns over the trained context below which a dimension is divided.
        beta_slow: f64,
        /// Context the model was trained with.
        original_max_positions: f64,
        /// Whether the ends of the ramp are rounded outwards to whole dimensions.
        truncate: bool,
    },
}

impl RopeScaling {
    /// The scale on cosines and sines.
    pub fn attention_factor(&self) -> f64 {
        match *self {
            Self::Yarn { attention_factor, .. } => attention_factor,
            Self::Linear { .. } | Self::Llama3 { .. } => 1.0,
        }
    }

    /// The stretched frequency of pair `i` of `d_head / 2`.
    pub fn stretch(&self, frequency: f64, i: usize, d_head: usize, theta: f64) -> f64 {
        match *self {
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                let wave = 2.0 * PI / frequency;
                if wave < original_max_positions / high_freq_factor {
                    return frequency;
                }
                if wave > original_max_positions / low_freq_factor {
                    return frequency / factor;
                }
                let smooth =
                    (original_max_positions / wave - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
            Self::Yarn { factor, beta_fast, beta_slow, original_max_positions, truncate, .. } => {
                let dimension = |turns: f64| {
                    d_head as f64 * (original_max_positions / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln())
                };
                let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(d_head as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                let divided = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                frequency / factor * divided + frequency * (1.0 - divided)
            }
        }
    }
}

/// YaRN's scale where a checkpoint does not name one: `0.1 m ln(factor) + 1`, of two scales their ratio.
pub fn yarn_attention_factor(factor: f64, scales: Option<(f64, f64)>) -> f64 {
    let scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
    scales.map_or_else(|| scale(1.0), |(mscale, mscale_all_dim)| scale(mscale) / scale(mscale_all_dim))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_short_waves_and_divides_long_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 100.0,
        };
        let stretch = |wave: f64| scaling.stretch(2.0 * PI / wave, 0, 8, 100.0) * wave / (2.0 * PI);
        assert_eq!((stretch(24.0), stretch(101.0)), (1.0, 0.125));
        // Half way: 100 / 40 = 2.5 lies in the middle of 1 and 4.
        assert!((stretch(40.0) - (0.5 / 8.0 + 0.5)).abs() < 1e-12);
    }

    #[test]
    fn yarn_keeps_fast_dimensions_and_divides_slow_ones() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            attention_factor: 1.1,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_max_positions: 4096.0,
            truncate: true,
        };
        assert_eq!(scaling.stretch(1.0, 0, 128, 10_000.0), 1.0);
        assert_eq!(scaling.stretch(1e-4, 63, 128, 10_000.0), 0.25e-4);
        assert!((yarn_attention_factor(4.0, None) - (0.1 * 4_f64.ln() + 1.0)).abs() < 1e-12);
        assert_eq!(yarn_attention_factor(0.5, Some((2.0, 1.0))), 1.0);
    }
}
