//! The golden cases beside `kyoka-algorithms`, run as a user runs them: through `cargo xtask parity`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn parity(folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command
        .arg("parity")
        .arg(folder)
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("xtask was built for this test")
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/kyoka-algorithms/tests/golden")
}

#[test]
fn every_golden_case_passes() {
    let output = parity(&golden());
    let text = String::from_utf8_lossy(&output.stdout);
    let failed: Vec<&str> = text.lines().filter(|line| line.starts_with("FAIL")).collect();
    assert!(output.status.success() && failed.is_empty(), "{failed:#?}");
    assert!(text.lines().filter(|line| line.starts_with("pass  ")).count() > 500, "{text}");
}

#[test]
fn checkpoints_and_adapters_give_the_numbers_of_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/kyoka/tests/golden");
    let output = parity(&folder);
    let text = String::from_utf8_lossy(&output.stdout);
    let failed: Vec<&str> = text.lines().filter(|line| line.starts_with("FAIL")).collect();
    assert!(output.status.success() && failed.is_empty(), "{failed:#?}");
    assert!(text.lines().filter(|line| line.starts_with("pass  ")).count() > 400, "{text}");
    for family in [
        "llama_yarn",
        "qwen2_untied",
        "qwen3",
        "smolvlm_tiles",
        "idefics3_tiles",
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen2_audio",
        "qwen2_5_omni",
        "qwen2_5_omni_thinker",
    ] {
        let shared =
            |line: &&str| line.contains(&format!(" {family}/")) && line.contains("shared prefix: gradients");
        assert!(text.lines().any(|line| shared(&line)), "{family}: no gradients of a shared prefix");
    }
    for compared in ["dinov2/", "clip_vision/", "siglip_vision/", "whisper_learned/"] {
        let of_tower = |line: &&str| line.contains(compared) && line.contains("grad_input.");
        assert!(
            text.lines().any(|line| of_tower(&line)),
            "{compared}: no gradient with respect to its input"
        );
    }
}

#[test]
fn pictures_and_sounds_pass() {
    for (folder, count) in [("kyoka-image/tests/golden", 300), ("kyoka-audio/tests/golden/whisper", 40)] {
        let output = parity(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates").join(folder));
        let text = String::from_utf8_lossy(&output.stdout);
        let failed: Vec<&str> = text.lines().filter(|line| line.starts_with("FAIL")).collect();
        assert!(output.status.success() && failed.is_empty(), "{failed:#?}");
        assert!(text.lines().filter(|line| line.starts_with("pass  ")).count() > count, "{text}");
    }
}

#[test]
fn a_wrong_number_fails() {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(golden().join("value_loss.json")).unwrap();
    let mut content: serde_json::Value = serde_json::from_str(&text).unwrap();
    let loss = &mut content["cases"][0]["loss"];
    *loss = (loss.as_f64().unwrap() + 1e-6).into();
    fs::write(folder.path().join("value_loss.json"), content.to_string()).unwrap();
    assert_eq!(parity(folder.path()).status.code(), Some(1));
}

#[test]
fn an_unknown_kind_fails() {
    let folder = tempfile::tempdir().unwrap();
    let content = r#"{"cases": [{"id": "one", "kind": "never_heard_of", "value": 1}]}"#;
    fs::write(folder.path().join("new.json"), content).unwrap();
    let output = parity(folder.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("never_heard_of"));
}

#[test]
fn a_folder_without_cases_fails() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(parity(folder.path()).status.code(), Some(1));
}
