//! Decoding of sounds, their resampling, and log-mel features.

use anyhow::{Context, Result, ensure};
use kyoka::audio::{LogMel, LogMelConfig, Recording, SAMPLE_RATE_HZ, mel_filters, resample};
use kyoka_core::AudioInput;
use serde_json::Value;

use super::{Folder, Tensors};
use crate::parity::report::{Checks, Precision, Report};

const FOLDER: &str = "golden_audio";

pub fn run(folder: &Folder, report: &mut Report) {
    for (file, about) in folder.section("audio") {
        report.checks("preprocess sound", &file, false, |checks| sound(folder, &file, &about, checks));
    }
    let features = folder.section("audio_features");
    if features.is_empty() {
        return;
    }
    let path = format!("{FOLDER}/whisper_features.safetensors");
    let goldens = match folder.tensors(&path) {
        Ok(goldens) => goldens,
        Err(error) => return report.broken("preprocess features", &path, &format!("{error:#}")),
    };
    for (key, about) in features {
        report.checks("preprocess features", &key, false, |checks| {
            log_mel(folder, &goldens, (&key, &about), checks)
        });
    }
    let names = match goldens.names("_filters") {
        Ok(names) => names,
        Err(error) => return report.broken("preprocess filters", &path, &format!("{error:#}")),
    };
    for name in names {
        report.checks("preprocess filters", &name, false, |checks| filters(&goldens, &name, checks));
    }
}

/// Samples as the file holds them, and as 16 kHz mono.
fn sound(folder: &Folder, file: &str, about: &Value, checks: &mut Checks) -> Result<()> {
    let goldens = folder.tensors(&format!("{FOLDER}/decoded.safetensors"))?;
    let recording = Recording::decode(&folder.bytes(&format!("audio/{file}"))?)?;
    let golden = goldens.get(&format!("{file}/wave"))?;
    let frames = recording.samples.len() / recording.channels;
    checks.shape("wave shape", &[frames, recording.channels], &golden.shape);
    checks.within("wave", &recording.samples, &golden.floats(), 1e-6);
    if let Some(ideal) = about["ideal"].as_str() {
        let got = resample(recording.mono(), SAMPLE_RATE_HZ)?.samples;
        let mut expected = goldens.get(ideal)?.floats();
        ensure!(
            got.len().abs_diff(expected.len()) <= 2,
            "expected about {} samples at 16 kHz, got {}",
            expected.len(),
            got.len()
        );
        expected.truncate(got.len());
        let bound = if about["format"] == "u8" { 1.2e-2 } else { 2e-3 };
        checks.within("16 kHz mono", &got[..expected.len()], &expected, bound);
    }
    Ok(())
}

fn log_mel(
    folder: &Folder,
    goldens: &Tensors,
    (key, about): (&str, &Value),
    checks: &mut Checks,
) -> Result<()> {
    let mut waves = Vec::new();
    while let Some(wave) = goldens.find(&format!("{key}/wave{}", waves.len()))? {
        waves.push(wave.floats());
    }
    let parts = ["", "_head250", "_tail5"].map(|part| format!("{key}/input_features{part}"));
    let mut shape = None;
    for part in &parts {
        shape = shape.or(goldens.find(part)?.map(|golden| golden.shape));
    }
    let num_mels = shape.context("no input_features")?[1];
    let number = |name: &str, default: u64| about[name].as_u64().unwrap_or(default);
    let window_s = about["chunk_length"].as_u64();
    let log_mel = LogMel::new(LogMelConfig {
        n_fft: number("n_fft", 400) as usize,
        hop_length: number("hop_length", 160) as usize,
        sample_rate_hz: number("sampling_rate", 16_000) as u32,
        do_normalize: is_true(&about["call"]["do_normalize"]),
        ..LogMelConfig::new(num_mels, window_s.unwrap_or(30) as f64)
    });
    let waves: Vec<&[f32]> = waves.iter().map(Vec::as_slice).collect();
    let got = match window_s {
        Some(_) => waves.iter().map(|wave| log_mel.process(wave)).collect(),
        None => log_mel.process_to_longest(&waves),
    };
    for (part, name) in parts.iter().zip(["input_features", "first 250 frames", "last 5 frames"]) {
        if let Some(golden) = goldens.find(part)? {
            let kept = golden.shape[2];
            let from_end = name.starts_with("last");
            let own: Vec<f32> = got.iter().flat_map(|input| frames(input, kept, from_end)).collect();
            checks.shape(&format!("{name} shape"), &[got.len(), num_mels, kept], &golden.shape);
            checks.within(name, &own, &golden.floats(), 1e-4);
        }
    }
    compare_sum(&got, about, checks);
    if let Some(golden) = goldens.find(&format!("{key}/attention_mask"))? {
        let mask = |input: &AudioInput| {
            let valid = input.valid_frames;
            (0..input.frames).map(move |frame| f64::from(u8::from(frame < valid))).collect::<Vec<_>>()
        };
        let own: Vec<f64> = got.iter().flat_map(mask).collect();
        checks.compare("attention_mask", &own, &golden.values, Precision::Exact);
    }
    match key.strip_prefix("file:") {
        Some(file) => same_from_file(folder, (file, waves[0]), checks),
        None => Ok(()),
    }
}

/// A flag, which the manifest may write as Python does.
fn is_true(value: &Value) -> bool {
    value == true || value == "True"
}

/// The first or last frames of every band.
fn frames(input: &AudioInput, kept: usize, from_end: bool) -> Vec<f32> {
    let first = if from_end { input.frames.saturating_sub(kept) } else { 0 };
    let row = |row: &[f32]| row.iter().skip(first).take(kept).copied().collect::<Vec<_>>();
    input.input_features.chunks_exact(input.frames.max(1)).flat_map(row).collect()
}

/// Where not all features are stored their sum is: compared as a mean.
fn compare_sum(got: &[AudioInput], about: &Value, checks: &mut Checks) {
    if let Some(sum) = about["sum"].as_f64() {
        let values = got.iter().flat_map(|input| input.input_features.iter());
        let (own, count) =
            (values.clone().map(|&value| f64::from(value)).sum::<f64>(), values.count() as f64);
        checks.within("mean of all features", &[(own / count) as f32], &[(sum / count) as f32], 1e-4);
    }
}

/// The wave of the case is what the file decodes to.
fn same_from_file(folder: &Folder, (file, wave): (&str, &[f32]), checks: &mut Checks) -> Result<()> {
    let recording = Recording::decode(&folder.bytes(&format!("audio/{file}"))?)?;
    checks.within("wave of the file", &recording.mono().samples, wave, 1e-6);
    Ok(())
}

fn filters(goldens: &Tensors, name: &str, checks: &mut Checks) -> Result<()> {
    let golden = goldens.get(&format!("{name}_filters"))?;
    let [bins, num_mels] = golden.shape[..] else {
        anyhow::bail!("expected bins and bands, got {:?}", golden.shape)
    };
    let own = mel_filters(num_mels, 2 * (bins - 1), SAMPLE_RATE_HZ);
    let own: Vec<f32> = (0..bins).flat_map(|bin| own.iter().map(move |row| row[bin] as f32)).collect();
    checks.within("filters", &own, &golden.floats(), 1e-7);
    Ok(())
}
