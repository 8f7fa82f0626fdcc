//! Compressed sounds decode to the tone they hold, whatever their rate and channels.

use kyoka_audio::{SAMPLE_RATE_HZ, Waveform};

/// Share of the sound's power that a tone of `hz` explains.
fn tone_share(samples: &[f32], hz: f64) -> f64 {
    let angle = |i: usize| 2.0 * std::f64::consts::PI * hz * i as f64 / f64::from(SAMPLE_RATE_HZ);
    let project = |wave: fn(f64) -> f64| -> f64 {
        samples.iter().enumerate().map(|(i, &s)| f64::from(s) * wave(angle(i))).sum()
    };
    let power: f64 = samples.iter().map(|&s| f64::from(s).powi(2)).sum();
    (project(f64::sin).powi(2) + project(f64::cos).powi(2)) * 2.0 / (samples.len() as f64 * power)
}

#[test]
fn flac_ogg_and_mp3_hold_the_tone() {
    for name in ["tone.flac", "tone.ogg", "tone.mp3"] {
        let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
        let sound = Waveform::decode(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(sound.sample_rate_hz, SAMPLE_RATE_HZ);
        let seconds = sound.samples.len() as f64 / f64::from(SAMPLE_RATE_HZ);
        assert!((0.29..0.42).contains(&seconds), "{name}: {seconds} s");
        let middle = &sound.samples[1_600..4_000];
        assert!(tone_share(middle, 440.0) > 0.98, "{name}: {}", tone_share(middle, 440.0));
    }
}

#[test]
fn compressed_files_cut_short_do_not_panic() {
    for name in ["tone.flac", "tone.ogg", "tone.mp3"] {
        let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
        let whole = std::fs::read(path).unwrap();
        for cut in [1, 10, 50, whole.len() / 2] {
            // What was read before the cut may be sound; anything else is an error.
            if let Ok(sound) = Waveform::decode(&whole[..cut]) {
                assert!(sound.samples.iter().all(|sample| sample.is_finite()), "{name} cut after {cut}");
            }
        }
    }
}
