//! Three published checkpoints give the numbers of transformers: SmolLM2-135M-Instruct, Whisper tiny.en, a ViT-S/14.
//!
//! They are not in the repository: `KYOKA_PRETRAINED` names a folder that holds `smollm2-135m-instruct`, `whisper-tiny-en`
//! and `dinov2-small`, and `golden/golden_*.safetensors` beside them. Without it the tests say that they are skipped.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::PathBuf;

use burn::tensor::{Device, Tensor};
use kyoka::{
    audio::{LogMel, LogMelConfig},
    core::{
        CausalLm, ImageInput, ModalityEncoder, Prompt, RolloutEngine, RolloutPrompt, RolloutRequest,
        SamplingConfig,
    },
    image::ImageEncoder,
    load_audio_encoder, load_image_encoder, load_pretrained,
    nn::CheckpointFiles,
    rollout::LocalEngine,
};

/// A checkpoint's folder and its golden file.
fn files(checkpoint: &str, golden: &str) -> Option<(PathBuf, CheckpointFiles)> {
    let Some(folder) = std::env::var_os("KYOKA_PRETRAINED").map(PathBuf::from) else {
        eprintln!("SKIPPED: KYOKA_PRETRAINED names no folder with {checkpoint}");
        return None;
    };
    let golden = folder.join("golden").join(format!("golden_{golden}.safetensors"));
    let folder = folder.join(checkpoint);
    if let Some(absent) = [&folder, &golden].into_iter().find(|path| !path.exists()) {
        eprintln!("SKIPPED: {} is absent", absent.display());
        return None;
    }
    Some((folder, CheckpointFiles::open_file(&golden).unwrap()))
}

fn floats(golden: &CheckpointFiles, name: &str) -> Vec<f32> {
    golden.read_f32(name).unwrap().try_into_vec().unwrap()
}

/// Within 1e-4 of the largest value.
fn assert_near<const D: usize>(got: Tensor<D>, expected: &[f32], what: &str) {
    let got: Vec<f32> = got.into_data().try_into_vec().unwrap();
    assert_eq!(got.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let furthest = got.iter().zip(expected).fold(0.0_f32, |furthest, (a, b)| furthest.max((a - b).abs()));
    assert!(furthest <= 1e-4 * largest, "{what}: {furthest} apart, the largest value is {largest}");
}

#[test]
fn smollm2_goes_on_as_in_transformers() {
    let Some((folder, golden)) = files("smollm2-135m-instruct", "smollm2") else { return };
    let policy = load_pretrained(&folder, &Device::flex()).unwrap().policy;
    let ids = golden.read_i64("prompt_ids").unwrap();
    let prompt = Prompt { token_ids: ids.iter().map(|&id| id as u32).collect(), ..Prompt::default() };
    let trace = policy.trace(&[&prompt]);
    let hidden = trace.hidden.last().unwrap().clone();
    assert_near(hidden, &floats(&golden, "f32.prompt_last_hidden"), "last hidden rows");
    let last = policy.prefill(&[&prompt]).logits;
    assert_near(last, &floats(&golden, "f32.prompt_last_logits"), "logits");
    let engine = LocalEngine::new(u32::MAX, Vec::new()).with_model(&policy);
    let request = RolloutRequest {
        prompts: &RolloutPrompt::numbered(std::slice::from_ref(&prompt)),
        group_size: 1,
        sampling: &SamplingConfig::greedy(16),
        seed: 0,
        episodes: None,
    };
    let generated = engine.generate_all(request).unwrap().remove(0).rollouts.remove(0).token_ids;
    let expected = golden.read_i64("f32.generated_ids").unwrap();
    assert_eq!(generated.iter().map(|&id| i64::from(id)).collect::<Vec<_>>(), expected);
}

#[test]
fn whisper_hears_as_in_transformers() {
    let Some((folder, golden)) = files("whisper-tiny-en", "whisper") else { return };
    let waveform = floats(&golden, "waveform");
    let input = LogMel::new(LogMelConfig::new(80, 30.0)).process(&waveform);
    let mel = floats(&golden, "mel");
    let furthest = input.input_features.iter().zip(&mel).fold(0.0_f32, |far, (a, b)| far.max((a - b).abs()));
    assert!(furthest <= 1e-4, "log-mel: {furthest} apart");
    let encoder = load_audio_encoder(&folder, &Device::flex()).unwrap().encoder;
    let features = encoder.encode(&[&input], &Device::flex()).embeddings;
    assert_near(features, &floats(&golden, "encoder_last_hidden"), "encoder");
}

#[test]
fn dinov2_sees_as_in_transformers() {
    let Some((folder, golden)) = files("dinov2-small", "dinov2") else { return };
    let ImageEncoder::Vit(encoder) = load_image_encoder(&folder, &Device::flex()).unwrap().encoder else {
        panic!("a vision transformer")
    };
    let input = ImageInput::one_view(floats(&golden, "pixel_values").into(), [3, 224, 224]);
    let hidden = encoder.hidden_states(&[&input], &Device::flex());
    assert_near(hidden, &floats(&golden, "last_hidden"), "last hidden rows");
}
