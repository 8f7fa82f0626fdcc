//! Spoken words from `espeak-ng`, brought to 16 kHz mono by `sox` (both Debian packages).

use std::{
    io::{Cursor, Write},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use rand::{Rng, RngExt};

/// Sampling rate of the clips.
pub const SAMPLE_RATE_HZ: u32 = 16_000;

/// One way of speaking.
pub struct Voice {
    /// An espeak-ng voice, variant included.
    pub name: &'static str,
    /// Words a minute.
    pub speed: u32,
    /// 0 to 99.
    pub pitch: u32,
}

const fn voice(name: &'static str, speed: u32, pitch: u32) -> Voice {
    Voice { name, speed, pitch }
}

/// Voices of the training rows.
pub const TRAINING: [Voice; 16] = [
    voice("en-us", 150, 50),
    voice("en-us+f2", 140, 60),
    voice("en-us+m3", 170, 40),
    voice("en-gb", 150, 45),
    voice("en-gb+f4", 160, 55),
    voice("en-gb+m1", 130, 50),
    voice("en-gb-scotland", 145, 50),
    voice("en-gb-scotland+f1", 165, 60),
    voice("en-gb-x-rp", 155, 40),
    voice("en-gb-x-rp+f3", 150, 65),
    voice("en-gb-x-gbclan+m2", 160, 55),
    voice("en-gb-x-gbcwmd", 140, 45),
    voice("en-029", 150, 50),
    voice("en-029+f5", 170, 50),
    voice("en-us+m7", 125, 35),
    voice("en-us+f3", 180, 70),
];

/// Voices that only the test of unheard voices uses.
pub const HELD_OUT: [Voice; 7] = [
    voice("en-us+f1", 155, 55),
    voice("en-us+m5", 145, 60),
    voice("en-gb+f5", 135, 45),
    voice("en-gb+m4", 165, 35),
    voice("en-gb-scotland+m6", 150, 65),
    voice("en-gb-x-rp+m8", 140, 55),
    voice("en-029+f2", 160, 40),
];

/// Speaks a word: 16-bit samples, silence at both ends cut away.
pub fn speak(word: &str, voice: &Voice) -> Result<Vec<i16>> {
    let spoken = Command::new("espeak-ng")
        .args(["-v", voice.name, "-s", &voice.speed.to_string(), "-p", &voice.pitch.to_string()])
        .args(["--stdout", word])
        .output()
        .context("espeak-ng: install the Debian package espeak-ng")?;
    ensure!(spoken.status.success(), "espeak-ng: {}", String::from_utf8_lossy(&spoken.stderr));
    let mut sox = Command::new("sox")
        .args([
            "-D",
            "--ignore-length",
            "-t",
            "wav",
            "-",
            "-b",
            "16",
            "-t",
            "wav",
            "-",
            "rate",
            "-v",
            "16000",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("sox: install the Debian package sox")?;
    sox.stdin.take().context("sox takes standard input")?.write_all(&spoken.stdout)?;
    let converted = sox.wait_with_output()?;
    ensure!(converted.status.success(), "sox failed on {word} by {}", voice.name);
    // sox writes to a pipe and cannot go back to set the lengths: the samples follow the 44 bytes of the header.
    let samples: Vec<i16> =
        converted.stdout[44..].chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();
    Ok(trim(&samples))
}

/// Cuts what stays below 1 % of full scale at the ends, with 20 ms kept.
fn trim(samples: &[i16]) -> Vec<i16> {
    let loud = |sample: &i16| sample.unsigned_abs() > 328;
    let margin = SAMPLE_RATE_HZ as usize / 50;
    let first = samples.iter().position(loud).unwrap_or(0).saturating_sub(margin);
    let last =
        samples.iter().rposition(loud).map_or(samples.len(), |last| (last + margin).min(samples.len()));
    samples[first..last].to_vec()
}

/// Adds white noise `snr_db` below the clip's power.
pub fn add_noise(samples: &[i16], snr_db: f64, rng: &mut impl Rng) -> Vec<i16> {
    let power = samples.iter().map(|&s| f64::from(s).powi(2)).sum::<f64>() / samples.len() as f64;
    // A uniform draw in [-a, a] has power a² / 3.
    let amplitude = (3.0 * power / 10_f64.powf(snr_db / 10.0)).sqrt();
    let noisy = samples.iter().map(|&s| f64::from(s) + rng.random_range(-amplitude..=amplitude));
    noisy.map(|s| s.clamp(-32768.0, 32767.0) as i16).collect()
}

/// Samples as a WAV file.
pub fn wav(samples: &[i16]) -> Result<Vec<u8>> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: SAMPLE_RATE_HZ,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut bytes = Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec)?;
    for &sample in samples {
        writer.write_sample(sample)?;
    }
    writer.finalize()?;
    Ok(bytes.into_inner())
}
