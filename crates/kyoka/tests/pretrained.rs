//! Hugging Face checkpoints are refused by name where they do not fit; that those that fit give the right numbers is
//! held by `cargo xtask parity crates/kyoka/tests/golden`, which `xtask/tests/golden.rs` runs.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{collections::BTreeMap, fs, path::Path};

use burn::tensor::Device;
use kyoka::{
    load_adapted, load_pretrained,
    nn::{CheckpointFiles, DiskTensor, write_tensors},
};
use serde_json::Value;

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden")).join(name)
}

/// The error of a golden checkpoint whose configuration was changed.
fn refused(name: &str, change: impl Fn(&mut Value)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(golden(name).join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    change(&mut config);
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    fs::copy(golden(name).join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    load_pretrained(folder.path(), &Device::flex()).err().unwrap().to_string()
}

#[test]
fn every_tensor_that_does_not_fit_is_listed() {
    let deeper = refused("smolvlm_tiles", |config| config["text_config"]["num_hidden_layers"] = 3.into());
    assert!(deeper.contains("layers.2") && deeper.contains("missing"), "{deeper}");
    assert!(deeper.lines().count() > 5, "all at once: {deeper}");
    let wider = refused("smolvlm_tiles", |config| config["text_config"]["vocab_size"] = 4_000.into());
    assert!(wider.contains("embed_tokens.weight") && wider.contains("[4000, "), "{wider}");
    let vast = refused("llama_yarn", |config| config["vocab_size"] = 1_000_000_000_000_u64.into());
    assert!(vast.contains("embed_tokens.weight"), "nothing of that size is ever taken: {vast}");
}

#[test]
fn what_is_wrong_with_a_configuration_is_named() {
    for (name, field, value, expected) in [
        ("llama_yarn", "hidden_size", Value::from(0), "hidden_size"),
        ("llama_yarn", "num_attention_heads", Value::from(-2), "num_attention_heads"),
        ("llama_yarn", "vocab_size", Value::Null, "vocab_size"),
        ("llama_yarn", "model_type", Value::from("llamma"), "did you mean llama?"),
        ("llama_yarn", "hidden_act", Value::from("relu"), "hidden_act"),
        ("qwen2_vl", "vision_config", Value::Null, "vision_config"),
        ("smolvlm_tiles", "image_token_id", Value::from("x"), "image_token_id"),
    ] {
        let error = refused(name, |config| config[field] = value.clone());
        assert!(error.contains("config.json") && error.contains(expected), "{field}: {error}");
    }
}

/// Layers and tables are made before tensors are compared: as many as ten to the twelfth would fill any memory.
#[test]
fn sizes_beyond_what_the_weights_hold_are_refused_before_anything_is_made() {
    for (name, pointer) in [
        ("llama_yarn", "/num_hidden_layers"),
        ("llama_yarn", "/hidden_size"),
        ("smolvlm_tiles", "/text_config/num_hidden_layers"),
        ("smolvlm_tiles", "/vision_config/num_hidden_layers"),
        ("smolvlm_tiles", "/vision_config/hidden_size"),
        ("qwen2_vl", "/vision_config/depth"),
        ("qwen2_vl", "/vision_config/embed_dim"),
        ("qwen2_5_vl", "/vision_config/hidden_size"),
        ("qwen2_audio", "/audio_config/encoder_layers"),
        ("qwen2_audio", "/audio_config/d_model"),
        ("qwen2_5_omni", "/thinker_config/vision_config/depth"),
    ] {
        let error = refused(name, |config| {
            *config.pointer_mut(pointer).unwrap() = 1_000_000_000_000_u64.into();
        });
        let field = pointer[1..].replace('/', ".");
        assert!(error.contains("config.json") && error.contains(&field), "{name} {pointer}: {error}");
    }
}

#[test]
fn a_folder_and_a_file_are_not_confused() {
    let error = |path: &Path| load_pretrained(path, &Device::flex()).err().unwrap().to_string();
    assert!(error(Path::new("no/such/folder")).contains("no/such/folder"));
    assert!(error(&golden("llama_yarn").join("config.json")).contains("config.json"));
}

#[test]
fn an_adapter_for_another_base_names_its_modules() {
    let adapter = golden("peft/smolvlm_everywhere");
    let error = load_adapted(&golden("llama_yarn"), &adapter, &Device::flex()).err().unwrap().to_string();
    assert!(
        error.contains("adapter_model.safetensors") && error.contains("not a module of the base model"),
        "{error}"
    );
    let narrower = golden("peft/llama_one_layer");
    let error = load_adapted(&golden("qwen3"), &narrower, &Device::flex()).err().unwrap().to_string();
    assert!(error.contains("adapter_model.safetensors"), "{error}");
}

/// A copy of a folder with its tensors under other names; `rename` gives every name a tensor has in the copy.
fn renamed(folder: &Path, file: &str, rename: impl Fn(&str) -> Vec<String>) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        if entry.path().extension().is_none_or(|end| end != "safetensors") {
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    let files = CheckpointFiles::open_file(&folder.join(file)).unwrap();
    let tensors = files.names().flat_map(|name| {
        let tensor = files.disk_tensor(name).unwrap();
        rename(name).into_iter().map(move |name| {
            let mut copy: DiskTensor<'_> = tensor.clone();
            copy.name = name;
            copy
        })
    });
    write_tensors(&copy.path().join(file), tensors.collect()).unwrap();
    copy
}

fn parameters(policy: &kyoka::Policy) -> BTreeMap<String, Vec<f32>> {
    let named = kyoka::core::named_parameters(policy).into_iter();
    named.map(|(name, (_, value))| (name, value.try_into_vec().unwrap())).collect()
}

#[test]
fn one_matrix_for_embedding_and_output_lies_under_either_name_or_both() {
    let [embedding, output] = ["model.embed_tokens.weight", "lm_head.weight"].map(str::to_owned);
    let expected = parameters(&load_pretrained(&golden("qwen3"), &Device::flex()).unwrap().policy);
    for names in [vec![output.clone()], vec![embedding.clone(), output.clone()]] {
        let folder = renamed(&golden("qwen3"), "model.safetensors", |name| match name == embedding {
            true => names.clone(),
            false => vec![name.to_owned()],
        });
        let loaded = load_pretrained(folder.path(), &Device::flex()).unwrap();
        assert!(loaded.config.decoder.tie_embeddings && parameters(&loaded.policy) == expected, "{names:?}");
    }
}

#[test]
fn adapters_of_all_times_fit_checkpoints_of_all_times() {
    let (base, adapter) = (golden("qwen2_5_vl"), golden("peft/qwen2_5_vl_patches"));
    let expected = load_adapted(&base, &adapter, &Device::flex()).unwrap();
    let expected = parameters(&expected.policy);
    let newer_base = renamed(&base, "model.safetensors", |name| {
        let within = name.replacen("model.", "model.language_model.", 1);
        vec![if name.starts_with("visual.") { format!("model.{name}") } else { within }]
    });
    let weights = "adapter_model.safetensors";
    let older = renamed(&adapter, weights, |name| {
        let name = name.replace("model.model.language_model.", "model.model.");
        vec![name.replace("model.model.visual.", "model.visual.")]
    });
    let with_name = renamed(&adapter, weights, |name| {
        vec![name.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.other.")]
    });
    for base in [base.as_path(), newer_base.path()] {
        for adapter in [adapter.as_path(), older.path(), with_name.path()] {
            let loaded = load_adapted(base, adapter, &Device::flex()).unwrap();
            assert!(parameters(&loaded.policy) == expected, "{} {}", base.display(), adapter.display());
        }
    }
    let alone = renamed(&adapter, weights, |name| match name.ends_with("proj.lora_B.weight") {
        true => vec![],
        false => vec![name.to_owned()],
    });
    let error = load_adapted(&base, alone.path(), &Device::flex()).err().unwrap().to_string();
    assert!(
        error.contains("expected lora_A and lora_B, got") && error.contains("lora_A.weight alone"),
        "{error}"
    );
}
