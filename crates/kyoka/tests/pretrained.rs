//! Hugging Face checkpoints give the numbers that transformers gives.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{fs, path::Path};

use burn::tensor::{Device, TensorData};
use kyoka::{
    core::{CausalLm, ImageInput, Modality, ModalitySpan, PackedGroup, Prompt},
    load_pretrained,
    trainer::unpack,
};

fn golden_folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/smolvlm"))
}

fn values(data: &TensorData) -> Vec<f32> {
    data.clone().try_into_vec().unwrap()
}

fn ids(data: &TensorData) -> Vec<u32> {
    values(data).into_iter().map(|id| id as u32).collect()
}

fn assert_near(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (place, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() <= 1e-4, "{what}, place {place}: expected {expected}, got {got}");
    }
}

#[test]
fn smolvlm_agrees_with_transformers() {
    let golden = unpack(&golden_folder().join("golden.safetensors")).unwrap();
    let pretrained = load_pretrained(golden_folder(), &Device::flex()).unwrap();
    let (token_ids, completion) = (ids(&golden["prompt"]), ids(&golden["completion"]));
    let pixels = values(&golden["pixel_values"]);
    let image =
        |place: usize| ImageInput::one_view(pixels[place * 432..(place + 1) * 432].into(), [3, 12, 12]);
    let span = |positions| ModalitySpan { modality: Modality::Image, positions };
    let prompt = Prompt {
        token_ids,
        spans: vec![span(2..6), span(7..11)],
        images: vec![image(0), image(1)],
        ..Prompt::default()
    };
    let logits = pretrained.policy.prefill(&[&prompt]).logits.into_data();
    assert_near(&values(&logits), &values(&golden["logits"]), "logits");
    let group = PackedGroup { prompt: &prompt, completions: vec![&completion, &completion[..2]] };
    let scored = values(&pretrained.policy.score(&[group]).into_data());
    let expected = values(&golden["logprobs"]);
    assert_near(&scored[..4], &expected, "log-probabilities");
    assert_near(&scored[4..6], &expected[..2], "log-probabilities of a second completion");
}

#[test]
fn what_does_not_fit_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let config = fs::read_to_string(golden_folder().join("config.json")).unwrap();
    let load = |config: &str| {
        fs::write(folder.path().join("config.json"), config).unwrap();
        load_pretrained(folder.path(), &Device::flex()).err().unwrap().to_string()
    };
    fs::copy(golden_folder().join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let other = load(&config.replace("\"smolvlm\"", "\"qwen3\""));
    assert!(other.contains("expected smolvlm or idefics3, got qwen3"), "{other}");
    let deeper = load(&config.replacen("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", 1));
    assert!(deeper.contains("layers.2") && deeper.contains("missing"), "{deeper}");
    let wider = load(&config.replace("\"vocab_size\": 61", "\"vocab_size\": 62"));
    assert!(wider.contains("embed_tokens.weight") && wider.contains("[62, 24]"), "{wider}");
    fs::write(folder.path().join("model.safetensors"), b"\xff\xff\xff\xff\xff\xff\xff\x7f{}").unwrap();
    let truncated = load(&config);
    assert!(truncated.contains("model.safetensors"), "{truncated}");
}
