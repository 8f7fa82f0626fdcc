//! Sounds decode to their samples and become the features that `WhisperFeatureExtractor` of transformers computes.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{fs, path::Path};

use kyoka_audio::{LogMel, LogMelConfig, Recording, SAMPLE_RATE_HZ, resample};
use safetensors::SafeTensors;
use serde_json::{Map, Value};

fn golden(name: &str) -> Vec<u8> {
    fs::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/whisper")).join(name)).unwrap()
}

/// A part of the manifest, which is never empty.
fn listed(part: &str) -> Map<String, Value> {
    let mut manifest: Value = serde_json::from_slice(&golden("manifest.json")).unwrap();
    let Value::Object(listed) = manifest[part].take() else { panic!("manifest.json: {part} is no object") };
    assert!(!listed.is_empty(), "manifest.json: {part} is empty");
    listed
}

fn floats(tensors: &SafeTensors<'_>, name: &str) -> Option<Vec<f32>> {
    let data = tensors.tensor(name).ok()?;
    Some(data.data().chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect())
}

fn largest_difference(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn every_kind_of_wav_holds_its_samples_and_resamples_to_the_ideal() {
    let bytes = golden("golden_audio/decoded.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for (file, about) in listed("audio") {
        let recording = Recording::decode(&golden(&format!("audio/{file}"))).unwrap();
        assert_eq!(recording.channels as u64, about["channels"].as_u64().unwrap(), "{file}");
        assert_eq!(u64::from(recording.sample_rate_hz), about["rate"].as_u64().unwrap(), "{file}");
        let expected = floats(&tensors, &format!("{file}/wave")).unwrap();
        assert!(largest_difference(&recording.samples, &expected) < 1e-6, "{file}");
        let ideal = floats(&tensors, about["ideal"].as_str().unwrap()).unwrap();
        let mono = resample(recording.mono(), SAMPLE_RATE_HZ).unwrap();
        let bound = if about["format"] == "u8" { 1e-2 } else { 1e-4 };
        let difference = largest_difference(&mono.samples, &ideal);
        assert!(difference < bound, "{file}: {difference}");
    }
}

#[test]
fn wav_files_cut_short_are_errors() {
    for file in listed("audio").keys() {
        let whole = golden(&format!("audio/{file}"));
        for cut in [5, 30, 45, whole.len() / 2, whole.len() - 5] {
            assert!(Recording::decode(&whole[..cut]).is_err(), "{file} cut after {cut} of {}", whole.len());
        }
    }
}

#[test]
fn features_and_valid_frames_are_those_of_transformers() {
    let bytes = golden("golden_audio/whisper_features.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for (key, about) in listed("audio_features") {
        let waves = (0..).map_while(|number| floats(&tensors, &format!("{key}/wave{number}")));
        let waves: Vec<Vec<f32>> = waves.collect();
        let waves: Vec<&[f32]> = waves.iter().map(Vec::as_slice).collect();
        let num_mels = tensors.tensor(&format!("{key}/input_features")).unwrap().shape()[1];
        let number = |name: &str, default: u64| about[name].as_u64().unwrap_or(default) as usize;
        let log_mel = LogMel::new(LogMelConfig {
            n_fft: number("n_fft", 400),
            hop_length: number("hop_length", 160),
            do_normalize: about["call"]["do_normalize"] == true,
            ..LogMelConfig::new(num_mels, number("chunk_length", 1) as f64)
        });
        let inputs = match about["chunk_length"].as_u64() {
            Some(_) => waves.iter().map(|wave| log_mel.process(wave)).collect(),
            None => log_mel.process_to_longest(&waves),
        };
        let got: Vec<f32> = inputs.iter().flat_map(|input| input.input_features.to_vec()).collect();
        let expected = floats(&tensors, &format!("{key}/input_features")).unwrap();
        let difference = largest_difference(&got, &expected);
        assert!(difference < 1e-5, "{key}: {difference}");
        let mask = tensors.tensor(&format!("{key}/attention_mask")).unwrap();
        let frames = inputs[0].frames;
        for (input, row) in inputs.iter().zip(mask.data().chunks_exact(4 * frames)) {
            let valid = row.chunks_exact(4).filter(|four| four[0] == 1).count();
            assert_eq!(input.valid_frames, valid, "{key}");
        }
    }
}
