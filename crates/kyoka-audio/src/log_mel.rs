//! Whisper's log-mel features (arXiv 2212.04356, section 2.2, and its released code).

use std::sync::Arc;

use kyoka_core::AudioInput;
use realfft::{RealFftPlanner, RealToComplex};
use serde::{Deserialize, Serialize};

use crate::SAMPLE_RATE_HZ;

/// Samples of a Fourier window: 25 ms.
const N_FFT: usize = 400;
/// Samples between windows: 10 ms.
const HOP: usize = 160;

/// What the features look like.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogMelConfig {
    /// Number of mel bands, 80 or 128.
    pub num_mels: usize,
    /// Length every sound is padded or cut to, in seconds. Whisper's is 30.
    pub window_s: f64,
}

/// Computes log-mel features; keeps its window, transform and filters.
#[derive(Clone)]
pub struct LogMel {
    config: LogMelConfig,
    window: Vec<f32>,
    transform: Arc<dyn RealToComplex<f32>>,
    /// First bin and weights of each band; the weights are 0 elsewhere.
    filters: Vec<(usize, Vec<f32>)>,
}

impl std::fmt::Debug for LogMel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogMel").field("config", &self.config).finish_non_exhaustive()
    }
}

impl LogMel {
    /// Prepares window, transform and filters.
    pub fn new(config: LogMelConfig) -> Self {
        // Periodic Hann window.
        let angle = |i: usize| 2.0 * std::f64::consts::PI * i as f64 / N_FFT as f64;
        let window = (0..N_FFT).map(|i| (0.5 - 0.5 * angle(i).cos()) as f32).collect();
        let transform = RealFftPlanner::new().plan_fft_forward(N_FFT);
        let filters = mel_filters(config.num_mels);
        let sparse = |row: &Vec<f64>| {
            let first = row.iter().position(|&weight| weight > 0.0).unwrap_or(0);
            let last = row.iter().rposition(|&weight| weight > 0.0).unwrap_or(0);
            (first, row[first..=last].iter().map(|&weight| weight as f32).collect())
        };
        let filters = filters.iter().map(sparse).collect();
        Self { config, window, transform, filters }
    }

    /// Frames of every sound.
    pub fn num_frames(&self) -> usize {
        (self.config.window_s * f64::from(SAMPLE_RATE_HZ)) as usize / HOP
    }

    /// Features of 16 kHz mono samples: log10 of the mel power, floored 8 below the loudest, then `(x + 4) / 4`.
    ///
    /// # Shapes
    /// - output: `[num_mels, frames]`
    pub fn process(&self, samples: &[f32]) -> AudioInput {
        let frames = self.num_frames();
        let mut padded = samples.to_vec();
        padded.resize(frames * HOP, 0.0);
        let padded = reflect(&padded, N_FFT / 2);
        let mut features = vec![0.0; self.config.num_mels * frames];
        let mut windowed = self.transform.make_input_vec();
        let mut spectrum = self.transform.make_output_vec();
        for frame in 0..frames {
            let source = &padded[frame * HOP..frame * HOP + N_FFT];
            for ((out, sample), weight) in windowed.iter_mut().zip(source).zip(&self.window) {
                *out = sample * weight;
            }
            self.transform
                .process(&mut windowed, &mut spectrum)
                .expect("the buffers have the transform's lengths");
            let power: Vec<f32> = spectrum.iter().map(|bin| bin.norm_sqr()).collect();
            for (mel, (first, filter)) in self.filters.iter().enumerate() {
                let energy: f32 =
                    filter.iter().zip(&power[*first..]).map(|(weight, power)| weight * power).sum();
                features[mel * frames + frame] = energy.max(1e-10).log10();
            }
        }
        let floor = features.iter().copied().fold(f32::NEG_INFINITY, f32::max) - 8.0;
        for value in &mut features {
            *value = (value.max(floor) + 4.0) / 4.0;
        }
        AudioInput {
            input_features: features.into(),
            num_mels: self.config.num_mels,
            frames,
            valid_frames: samples.len().div_ceil(HOP).min(frames),
        }
    }
}

/// `samples` with `margin` mirrored samples at both ends, the end sample itself not repeated.
fn reflect(samples: &[f32], margin: usize) -> Vec<f32> {
    let last = samples.len() - 1;
    let head = (1..=margin).rev().map(|i| samples[i.min(last)]);
    let tail = (1..=margin).map(|i| samples[last.saturating_sub(i)]);
    head.chain(samples.iter().copied()).chain(tail).collect()
}

/// Slaney's mel filters over 0 to 8 kHz, each of unit area.
///
/// # Shapes
/// - output: `num_mels` rows of 201 weights
pub fn mel_filters(num_mels: usize) -> Vec<Vec<f64>> {
    let bins = N_FFT / 2 + 1;
    let nyquist = f64::from(SAMPLE_RATE_HZ) / 2.0;
    let top = hz_to_mel(nyquist);
    let edges: Vec<f64> =
        (0..num_mels + 2).map(|i| mel_to_hz(top * i as f64 / (num_mels + 1) as f64)).collect();
    edges
        .windows(3)
        .map(|edge| {
            let norm = 2.0 / (edge[2] - edge[0]);
            (0..bins)
                .map(|bin| {
                    let hz = nyquist * bin as f64 / (bins - 1) as f64;
                    let rise = (hz - edge[0]) / (edge[1] - edge[0]);
                    let fall = (edge[2] - hz) / (edge[2] - edge[1]);
                    norm * rise.min(fall).max(0.0)
                })
                .collect()
        })
        .collect()
}

/// Slaney's scale: linear below 1 kHz, logarithmic above.
fn hz_to_mel(hz: f64) -> f64 {
    if hz < 1_000.0 { hz * 3.0 / 200.0 } else { 15.0 + (hz / 1_000.0).ln() * 27.0 / 6.4_f64.ln() }
}

fn mel_to_hz(mel: f64) -> f64 {
    if mel < 15.0 { mel * 200.0 / 3.0 } else { 1_000.0 * ((mel - 15.0) * 6.4_f64.ln() / 27.0).exp() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_lights_up_the_band_it_lies_in() {
        let hz = 1_000.0;
        let tone: Vec<f32> = (0..16_000)
            .map(|i| (2.0 * std::f64::consts::PI * hz * i as f64 / 16_000.0).sin() as f32)
            .collect();
        let input = LogMel::new(LogMelConfig { num_mels: 80, window_s: 1.0 }).process(&tone);
        assert_eq!((input.num_mels, input.frames), (80, 100));
        let loudest = (0..80).max_by(|&a, &b| {
            input.input_features[a * 100 + 50].total_cmp(&input.input_features[b * 100 + 50])
        });
        let filters = mel_filters(80);
        let bin = (hz / 40.0) as usize;
        let expected = (0..80).max_by(|&a, &b| filters[a][bin].total_cmp(&filters[b][bin]));
        assert_eq!(loudest, expected);
    }

    #[test]
    fn silence_and_short_sounds_give_finite_features() {
        let log_mel = LogMel::new(LogMelConfig { num_mels: 80, window_s: 1.0 });
        for samples in [vec![], vec![0.0; 10], vec![0.5; 40_000]] {
            let input = log_mel.process(&samples);
            assert_eq!(input.input_features.len(), 8_000);
            assert!(input.input_features.iter().all(|value| value.is_finite()));
        }
        assert!(log_mel.process(&[]).input_features.iter().all(|&value| (value + 1.5).abs() < 1e-6));
    }

    #[test]
    fn mel_scale_and_its_inverse_agree() {
        for hz in [0.0, 440.0, 999.0, 1_000.0, 7_999.0] {
            assert!((mel_to_hz(hz_to_mel(hz)) - hz).abs() < 1e-6);
        }
    }
}
