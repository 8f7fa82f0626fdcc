//! Wrong settings and broken files: a clear message, the right exit code, nothing half-written.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{fs, path::Path};

use support::{errors, kyoka, tiny_run};

/// Runs `kyoka train` with settings over the tiny recipe; returns exit code and message.
fn train(home: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = kyoka(home);
    command.args(["train", "spoken-count", "--quiet", "--out", "run"]);
    let output = tiny_run(&mut command).args(arguments).output().unwrap();
    (output.status.code().unwrap(), errors(&output))
}

#[test]
fn wrong_settings_are_refused_before_anything_runs() {
    let home = tempfile::tempdir().unwrap();
    for (arguments, code, expected) in [
        (vec!["--device", "tpu"], 2, "device tpu: expected auto, cpu, cuda, cuda:N or wgpu"),
        (vec!["--device", "cpu:1"], 2, "only cuda devices are numbered"),
        (vec!["--set", "augment.audio.max_gain_db=-3"], 2, "expected a finite number of at least 0, got -3"),
        (vec!["--device", "cuda:x"], 2, "expected a number after the colon"),
        (vec!["--set", "rl.grop_size=4"], 2, "did you mean `group_size`?"),
        (vec!["--set", "rl.group_size=1"], 2, "expected group_size of at least 2, got 1"),
        (vec!["--set", "rl.prompts_per_step=0"], 2, "rl.prompts_per_step: expected at least 1"),
        (vec!["--set", "rl.sampling.top_p=0"], 2, "top_p: expected a number in (0, 1], got 0"),
        (
            vec!["--set", "rl.data=trian"],
            2,
            "splits there: sft, sft_384, test, test_more, test_voice, train, val",
        ),
        (vec!["--set", "eval.max_new_tokens=5000"], 1, "exceed the model's 512 positions"),
        (vec!["--set", "model.config=tny"], 2, "did you mean tiny?"),
        (vec!["--set", "data.dataset=spoken"], 1, "no such folder and no bundled dataset"),
    ] {
        let (got, message) = train(home.path(), &arguments);
        assert!(message.contains(expected), "{arguments:?}: {message}");
        assert_eq!(got, code, "{arguments:?}: {message}");
        assert!(!message.contains("panicked"), "{message}");
        assert!(!home.path().join("run").exists(), "{arguments:?} must leave nothing behind");
    }
}

#[test]
fn a_loss_that_is_no_number_stops_with_step_rows_and_checkpoint() {
    let home = tempfile::tempdir().unwrap();
    let (code, message) = train(home.path(), &["--set", "sft.learning_rate.peak=1e38"]);
    assert_eq!(code, 1, "{message}");
    assert!(message.contains("sft, step") && message.contains("not finite"), "{message}");
    assert!(message.contains("sft-0") && message.contains("checkpoints"), "{message}");
}

#[test]
fn an_occupied_folder_is_not_overwritten() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("run")).unwrap();
    fs::write(home.path().join("run/config.toml"), "").unwrap();
    let (_, message) = train(home.path(), &[]);
    assert!(message.contains("holds a run already"), "{message}");
}

#[test]
fn data_check_lists_every_fault_with_file_line_and_field() {
    let home = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(home.path().join(name), bytes).unwrap();
    kyoka_testing::write_grey_png(&home.path().join("good.png"), 8, |x, _| x as u8);
    kyoka_testing::write_tone(&home.path().join("good.wav"), 0.1);
    let png = fs::read(home.path().join("good.png")).unwrap();
    write("cut.png", &png[..png.len() / 2]);
    write("empty.wav", b"");
    write("text.png", b"not a picture");
    let rows = [
        r#"{"id": "a", "prompt": "<image><audio>?", "images": ["good.png"], "audios": ["good.wav"]}"#,
        r#"{"id": "b", "prompt": "<image>?", "images": ["cut.png"]}"#,
        r#"{"id": "c", "prompt": "<audio>?", "audios": ["empty.wav"]}"#,
        r#"{"id": "d", "prompt": "<image>?", "images": ["text.png"]}"#,
        r#"{"id": "e", "prompt": "<image>?", "images": ["missing.png"]}"#,
    ];
    write("rows.jsonl", rows.join("\n").as_bytes());
    let output = kyoka(home.path()).args(["data", "check", "rows.jsonl"]).output().unwrap();
    let message = errors(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(message.contains("4 faulty place(s)"), "{message}");
    for line in [
        "rows.jsonl:2: images: cut.png",
        "rows.jsonl:3: audios: empty.wav",
        "rows.jsonl:4: images",
        "rows.jsonl:5: images",
    ] {
        assert!(message.contains(line), "{line}: {message}");
    }
    write("rows.jsonl", rows[0].as_bytes());
    let output = kyoka(home.path()).args(["data", "check", "rows.jsonl", "--json"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), r#"{"audios":1,"images":1,"rows":1}"#);
}

#[test]
fn a_broken_medium_in_training_names_file_row_and_field() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("mine");
    fs::create_dir(&data).unwrap();
    let tokenizer = include_bytes!("../../kyoka-text/tests/tiny_tokenizer.json");
    fs::write(data.join("tokenizer.json"), tokenizer).unwrap();
    fs::write(data.join("bad.png"), b"nothing").unwrap();
    let row = r#"{"id": "x", "prompt": "<image>?", "images": ["bad.png"], "answer": "1", "steps": ["bag"], "completion": "<think> bag </think> <answer> 1 </answer>"}"#;
    for split in ["sft", "train", "val", "test", "test_voice", "test_more"] {
        fs::write(data.join(format!("{split}.jsonl")), row).unwrap();
    }
    let (code, message) = train(home.path(), &["--set", "data.dataset=mine"]);
    assert_eq!(code, 1);
    assert!(message.contains("sft.jsonl:1: images: ") && message.contains("bad.png"), "{message}");
    // A head that can be read promises no body: it is met at the step that draws the row.
    kyoka_testing::write_grey_png(&data.join("bad.png"), 40, |x, y| (x * y) as u8);
    let whole = fs::read(data.join("bad.png")).unwrap();
    fs::write(data.join("bad.png"), &whole[..whole.len() / 2]).unwrap();
    let (code, message) = train(home.path(), &["--set", "data.dataset=mine"]);
    assert_eq!(code, 1);
    assert!(message.contains("sft.jsonl:1: row x") && message.contains("bad.png"), "{message}");
}

#[test]
fn generate_wants_media_and_marks_to_match() {
    let home = tempfile::tempdir().unwrap();
    let (code, message) = train(home.path(), &["--set", "rl.steps=1"]);
    assert_eq!(code, 0, "{message}");
    kyoka_testing::write_grey_png(&home.path().join("a.png"), 40, |x, y| (x + y) as u8);
    let generate = |arguments: &[&str]| {
        kyoka(home.path())
            .args(["generate", "--model", "run", "--max-new-tokens", "4"])
            .args(arguments)
            .output()
            .unwrap()
    };
    assert!(generate(&["--image", "a.png", "--prompt", "How many?"]).status.success());
    let too_many = generate(&["--image", "a.png", "--prompt", "<image><image>?"]);
    assert!(errors(&too_many).contains("the prompt has"), "{}", errors(&too_many));
    let eval = kyoka(home.path())
        .args(["eval", "run", "--split", "test", "--blank", "image", "--max-rows", "4", "--json"])
        .output()
        .unwrap();
    assert!(eval.status.success(), "{}", errors(&eval));
    assert!(String::from_utf8_lossy(&eval.stdout).contains("\"num_rows\":4"));
}
