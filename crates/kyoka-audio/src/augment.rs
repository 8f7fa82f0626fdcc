//! Small changes that leave a sound's meaning alone.

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::SAMPLE_RATE_HZ;

/// Random start, gain and noise; nothing unless asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AudioAugment {
    /// Longest silence put before the sound, in seconds. Default 0.
    pub max_delay_s: f64,
    /// Largest change of loudness, up or down, in decibel. Default 0.
    pub max_gain_db: f64,
    /// Loudest white noise, as a share of the sound's root mean square. Default 0.
    pub max_noise: f64,
}

impl AudioAugment {
    /// Whether every sound stays as it is.
    pub fn changes_nothing(&self) -> bool {
        self.max_delay_s == 0.0 && self.max_gain_db == 0.0 && self.max_noise == 0.0
    }

    /// The longest silence that is put before a sound, in samples at 16 kHz.
    pub fn max_delay_samples(&self) -> usize {
        (self.max_delay_s * f64::from(SAMPLE_RATE_HZ)) as usize
    }

    /// A changed copy of 16 kHz samples.
    pub fn apply(&self, samples: &[f32], rng: &mut impl Rng) -> Vec<f32> {
        let delay = (rng.random_range(0.0..=self.max_delay_s) * f64::from(SAMPLE_RATE_HZ)) as usize;
        let gain = 10_f64.powf(rng.random_range(-self.max_gain_db..=self.max_gain_db) / 20.0) as f32;
        let power = samples.iter().map(|&s| f64::from(s * s)).sum::<f64>() / samples.len().max(1) as f64;
        // A uniform draw in [-a, a] has power a² / 3.
        let amplitude = (rng.random_range(0.0..=self.max_noise) * (3.0 * power).sqrt()) as f32;
        let silence = std::iter::repeat_n(0.0, delay);
        let sound = silence.chain(samples.iter().copied());
        sound.map(|sample| gain * (sample + amplitude * rng.random_range(-1.0..=1.0_f32))).collect()
    }
}

#[cfg(test)]
mod tests {
    use kyoka_core::{Stream, stream_rng};

    use super::*;

    #[test]
    fn a_changed_sound_keeps_its_samples_behind_the_delay() {
        let samples: Vec<f32> = (0..1_600).map(|i| (i as f32 * 0.1).sin()).collect();
        let quiet = AudioAugment { max_delay_s: 0.15, ..AudioAugment::default() };
        for seed in 0..10 {
            let changed = quiet.apply(&samples, &mut stream_rng(seed, Stream::Augment, &[]));
            let delay = changed.len() - samples.len();
            assert!(delay <= 2_400);
            assert_eq!(&changed[delay..], &samples[..]);
        }
    }

    #[test]
    fn an_empty_sound_stays_finite() {
        let loud = AudioAugment { max_delay_s: 0.15, max_gain_db: 6.0, max_noise: 0.2 };
        let changed = loud.apply(&[], &mut stream_rng(1, Stream::Augment, &[]));
        assert!(changed.iter().all(|sample| sample.is_finite()));
    }
}
