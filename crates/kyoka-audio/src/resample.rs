//! Change of the sampling rate.

use rubato::{FftFixedIn, Resampler};

use crate::{AudioError, Waveform};

/// Fewest frames a chunk; the last one is padded.
const MIN_CHUNK: usize = 1024;

/// Samples that `num_samples` at one rate become at another, rounded up, as librosa has it.
pub fn resampled_len(num_samples: u64, source_hz: u32, target_hz: u32) -> usize {
    let samples = u128::from(num_samples) * u128::from(target_hz);
    samples.div_ceil(u128::from(source_hz.max(1))).try_into().unwrap_or(usize::MAX)
}

/// Refuses rates that no sound has.
pub(crate) fn check_rate(sample_rate_hz: u32) -> Result<(), AudioError> {
    match sample_rate_hz {
        1_000..=768_000 => Ok(()),
        got => Err(AudioError::SampleRate { got }),
    }
}

/// Brings a sound to `target_hz`; alignment follows the ratio of the rates, the length is that of [`resampled_len`].
///
/// # Errors
/// If the source rate is outside 1,000 to 768,000 Hz.
pub fn resample(waveform: Waveform, target_hz: u32) -> Result<Waveform, AudioError> {
    let source_hz = waveform.sample_rate_hz;
    check_rate(source_hz)?;
    if source_hz == target_hz {
        return Ok(waveform);
    }
    let fail = |error: &dyn std::fmt::Display| AudioError::Resample(error.to_string());
    // An even number of periods a chunk: the filter's delay is then a whole number of samples.
    let period = (source_hz / greatest_common_divisor(source_hz, target_hz)) as usize;
    let chunk = period * MIN_CHUNK.div_ceil(period).next_multiple_of(2);
    let mut resampler =
        FftFixedIn::<f32>::new(source_hz as usize, target_hz as usize, chunk, 1, 1).map_err(|e| fail(&e))?;
    let length = resampled_len(waveform.samples.len() as u64, source_hz, target_hz);
    let delay = resampler.output_delay();
    let mut output: Vec<f32> = Vec::with_capacity(length + delay);
    let mut rest = waveform.samples.as_slice();
    while output.len() < length + delay {
        let wanted = resampler.input_frames_next();
        let produced = if rest.len() >= wanted {
            let (chunk, after) = rest.split_at(wanted);
            rest = after;
            resampler.process(&[chunk], None)
        } else {
            let last = (!rest.is_empty()).then_some([std::mem::take(&mut rest)]);
            resampler.process_partial(last.as_ref().map(<[_; 1]>::as_slice), None)
        };
        output.extend_from_slice(&produced.map_err(|e| fail(&e))?[0]);
    }
    let samples = output[delay..delay + length].to_vec();
    Ok(Waveform { samples, sample_rate_hz: target_hz })
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sine(rate_hz: u32, seconds: f64) -> Waveform {
        let count = (f64::from(rate_hz) * seconds) as usize;
        let sample =
            |i: usize| (2.0 * std::f64::consts::PI * 440.0 * i as f64 / f64::from(rate_hz)).sin() as f32;
        Waveform { samples: (0..count).map(sample).collect(), sample_rate_hz: rate_hz }
    }

    #[test]
    fn a_tone_stays_the_same_tone_at_the_same_place() {
        for rate_hz in [8_000, 22_050, 44_100, 48_000] {
            let got = resample(sine(rate_hz, 0.5), 16_000).unwrap();
            let expected = sine(16_000, 0.5);
            assert_eq!(got.samples.len(), 8_000);
            for i in 500..7_500 {
                assert!((got.samples[i] - expected.samples[i]).abs() < 2e-3, "{rate_hz} Hz, sample {i}");
            }
        }
    }

    #[test]
    fn impossible_rates_are_refused() {
        let sound = Waveform { samples: vec![0.0; 10], sample_rate_hz: 1 };
        assert!(matches!(resample(sound, 16_000), Err(AudioError::SampleRate { got: 1 })));
    }
}
