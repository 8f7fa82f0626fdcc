//! Whisper's log-mel features (arXiv 2212.04356, section 2.2, and its released code).

use std::sync::Arc;

use kyoka_core::AudioInput;
use realfft::{RealFftPlanner, RealToComplex};
use serde::{Deserialize, Serialize};

use crate::SAMPLE_RATE_HZ;

/// Highest frequency of the mel bands in Hz, whatever the sampling rate.
const MAX_HZ: f64 = 8_000.0;

/// What the features look like; the fields of a `WhisperFeatureExtractor`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogMelConfig {
    /// Number of mel bands, 80 or 128.
    pub num_mels: usize,
    /// Length every sound is padded or cut to, in seconds. Whisper's is 30.
    pub window_s: f64,
    /// Samples of a Fourier window. Default 400: 25 ms.
    #[serde(default = "default_n_fft")]
    pub n_fft: usize,
    /// Samples between Fourier windows. Default 160: 10 ms.
    #[serde(default = "default_hop_length")]
    pub hop_length: usize,
    /// Samples a second. Default 16,000.
    #[serde(default = "default_sample_rate_hz")]
    pub sample_rate_hz: u32,
    /// Bring each sound to mean 0 and variance 1 first. Default false.
    #[serde(default)]
    pub do_normalize: bool,
}

fn default_n_fft() -> usize {
    400
}

fn default_hop_length() -> usize {
    160
}

fn default_sample_rate_hz() -> u32 {
    SAMPLE_RATE_HZ
}

impl LogMelConfig {
    /// Whisper's features at 16 kHz.
    pub fn new(num_mels: usize, window_s: f64) -> Self {
        Self {
            num_mels,
            window_s,
            n_fft: default_n_fft(),
            hop_length: default_hop_length(),
            sample_rate_hz: default_sample_rate_hz(),
            do_normalize: false,
        }
    }

    /// Samples that every sound is padded or cut to.
    pub fn num_samples(&self) -> usize {
        (self.window_s * f64::from(self.sample_rate_hz)) as usize
    }
}

/// Computes log-mel features; keeps its window, transform and filters.
#[derive(Clone)]
pub struct LogMel {
    config: LogMelConfig,
    window: Vec<f64>,
    transform: Arc<dyn RealToComplex<f64>>,
    /// First bin and weights of each band; the weights are 0 elsewhere.
    filters: Vec<(usize, Vec<f64>)>,
}

impl std::fmt::Debug for LogMel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogMel").field("config", &self.config).finish_non_exhaustive()
    }
}

impl LogMel {
    /// Prepares window, transform and filters.
    pub fn new(config: LogMelConfig) -> Self {
        let n_fft = config.n_fft;
        // Periodic Hann window.
        let angle = |i: usize| 2.0 * std::f64::consts::PI * i as f64 / n_fft as f64;
        let window = (0..n_fft).map(|i| 0.5 - 0.5 * angle(i).cos()).collect();
        let transform = RealFftPlanner::new().plan_fft_forward(n_fft);
        let filters = mel_filters(config.num_mels, n_fft, config.sample_rate_hz);
        let sparse = |row: &Vec<f64>| {
            let first = row.iter().position(|&weight| weight > 0.0).unwrap_or(0);
            let last = row.iter().rposition(|&weight| weight > 0.0).unwrap_or(0);
            (first, row[first..=last].to_vec())
        };
        let filters = filters.iter().map(sparse).collect();
        Self { config, window, transform, filters }
    }

    /// What the features look like.
    pub fn config(&self) -> &LogMelConfig {
        &self.config
    }

    /// Frames of every sound.
    pub fn num_frames(&self) -> usize {
        self.config.num_samples() / self.config.hop_length
    }

    /// Frames that a sound of this many samples fills, at most [`num_frames`](Self::num_frames).
    pub fn valid_frames(&self, num_samples: usize) -> usize {
        num_samples.div_ceil(self.config.hop_length).min(self.num_frames())
    }

    /// Features of mono samples, padded with silence or cut to the window.
    ///
    /// They are log10 of the mel power, floored 8 below the loudest, then `(x + 4) / 4`. Sums are in double precision:
    /// in single precision the noise of the transform shows above the floor, by up to 1e-4.
    ///
    /// # Shapes
    /// - output: `[num_mels, frames]`
    pub fn process(&self, samples: &[f32]) -> AudioInput {
        self.process_padded(samples, self.config.num_samples())
    }

    /// Features of several sounds, padded with silence to the longest and not cut.
    ///
    /// # Shapes
    /// - each output: `[num_mels, frames]`, `frames` the same for all
    pub fn process_to_longest(&self, sounds: &[&[f32]]) -> Vec<AudioInput> {
        let longest = sounds.iter().map(|samples| samples.len()).max().unwrap_or(0);
        sounds.iter().map(|samples| self.process_padded(samples, longest)).collect()
    }

    /// Features of mono samples, padded with silence or cut to `num_samples`.
    ///
    /// # Shapes
    /// - output: `[num_mels, num_samples / hop_length]`
    pub fn process_padded(&self, samples: &[f32], num_samples: usize) -> AudioInput {
        let LogMelConfig { num_mels, hop_length, do_normalize, .. } = self.config;
        let frames = num_samples / hop_length;
        let samples = &samples[..samples.len().min(num_samples)];
        let mut padded: Vec<f64> = samples.iter().map(|&sample| f64::from(sample)).collect();
        if do_normalize {
            normalize(&mut padded);
        }
        padded.resize(num_samples.max(1), 0.0);
        let mut features = self.log_power(&reflect(&padded, self.config.n_fft / 2), frames);
        let floor = features.iter().copied().fold(f32::NEG_INFINITY, f32::max) - 8.0;
        for value in &mut features {
            *value = (value.max(floor) + 4.0) / 4.0;
        }
        let valid_frames = samples.len().div_ceil(hop_length).min(frames);
        AudioInput { input_features: features.into(), num_mels, frames, valid_frames }
    }

    /// log10 of the power in each band and frame, at least -10.
    ///
    /// # Shapes
    /// - output: `[num_mels, frames]`
    fn log_power(&self, padded: &[f64], frames: usize) -> Vec<f32> {
        let LogMelConfig { num_mels, n_fft, hop_length, .. } = self.config;
        let mut features = vec![-10.0; num_mels * frames];
        let mut windowed = self.transform.make_input_vec();
        let mut spectrum = self.transform.make_output_vec();
        let mut scratch = self.transform.make_scratch_vec();
        let mut power = vec![0.0; spectrum.len()];
        for frame in 0..frames {
            let source = &padded[frame * hop_length..frame * hop_length + n_fft];
            if source.iter().all(|&sample| sample == 0.0) {
                continue;
            }
            for ((out, sample), weight) in windowed.iter_mut().zip(source).zip(&self.window) {
                *out = sample * weight;
            }
            self.transform
                .process_with_scratch(&mut windowed, &mut spectrum, &mut scratch)
                .expect("the buffers have the transform's lengths");
            for (power, bin) in power.iter_mut().zip(&spectrum) {
                *power = bin.norm_sqr();
            }
            for (mel, (first, filter)) in self.filters.iter().enumerate() {
                let energy: f64 =
                    filter.iter().zip(&power[*first..]).map(|(weight, power)| weight * power).sum();
                features[mel * frames + frame] = energy.max(1e-10).log10() as f32;
            }
        }
        features
    }
}

/// Brings samples to mean 0 and variance 1.
fn normalize(samples: &mut [f64]) {
    let count = samples.len().max(1) as f64;
    let mean = samples.iter().sum::<f64>() / count;
    let variance = samples.iter().map(|sample| (sample - mean) * (sample - mean)).sum::<f64>() / count;
    for sample in samples {
        *sample = (*sample - mean) / (variance + 1e-7).sqrt();
    }
}

/// `samples` with `margin` mirrored samples at both ends, the end sample itself not repeated.
fn reflect(samples: &[f64], margin: usize) -> Vec<f64> {
    let last = samples.len() - 1;
    let head = (1..=margin).rev().map(|i| samples[i.min(last)]);
    let tail = (1..=margin).map(|i| samples[last.saturating_sub(i)]);
    head.chain(samples.iter().copied()).chain(tail).collect()
}

/// Slaney's mel filters over 0 to 8 kHz, each of unit area.
///
/// # Shapes
/// - output: `num_mels` rows of `n_fft / 2 + 1` weights
pub fn mel_filters(num_mels: usize, n_fft: usize, sample_rate_hz: u32) -> Vec<Vec<f64>> {
    let bins = n_fft / 2 + 1;
    let nyquist = f64::from(sample_rate_hz) / 2.0;
    let top = hz_to_mel(MAX_HZ);
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
        let input = LogMel::new(LogMelConfig::new(80, 1.0)).process(&tone);
        assert_eq!((input.num_mels, input.frames, input.valid_frames), (80, 100, 100));
        let loudest = (0..80).max_by(|&a, &b| {
            input.input_features[a * 100 + 50].total_cmp(&input.input_features[b * 100 + 50])
        });
        let filters = mel_filters(80, 400, 16_000);
        let bin = (hz / 40.0) as usize;
        let expected = (0..80).max_by(|&a, &b| filters[a][bin].total_cmp(&filters[b][bin]));
        assert_eq!(loudest, expected);
    }

    #[test]
    fn silence_and_short_sounds_give_finite_features() {
        let log_mel = LogMel::new(LogMelConfig::new(80, 1.0));
        for (samples, valid) in [(vec![], 0), (vec![0.0; 10], 1), (vec![0.5; 40_000], 100)] {
            let input = log_mel.process(&samples);
            assert_eq!((input.input_features.len(), input.valid_frames), (8_000, valid));
            assert_eq!(log_mel.valid_frames(samples.len()), valid);
            assert!(input.input_features.iter().all(|value| value.is_finite()));
        }
        assert!(log_mel.process(&[]).input_features.iter().all(|&value| (value + 1.5).abs() < 1e-6));
        assert!(log_mel.process_to_longest(&[&[], &[]]).iter().all(|input| input.frames == 0));
    }

    #[test]
    fn sounds_of_a_batch_are_padded_to_the_longest() {
        let log_mel = LogMel::new(LogMelConfig::new(80, 1.0));
        let (short, long) = (vec![0.1; 1_601], vec![0.1; 20_800]);
        let batch = log_mel.process_to_longest(&[&short, &long]);
        let frames: Vec<_> = batch.iter().map(|input| (input.frames, input.valid_frames)).collect();
        assert_eq!(frames, [(130, 11), (130, 130)]);
    }

    #[test]
    fn configurations_of_old_checkpoints_still_read() {
        let read: LogMelConfig = serde_json::from_str(r#"{ "num_mels": 80, "window_s": 1.0 }"#).unwrap();
        assert_eq!(read, LogMelConfig::new(80, 1.0));
    }

    #[test]
    fn mel_scale_and_its_inverse_agree() {
        for hz in [0.0, 440.0, 999.0, 1_000.0, 7_999.0] {
            assert!((mel_to_hz(hz_to_mel(hz)) - hz).abs() < 1e-6);
        }
    }
}
