//! A Hugging Face checkpoint goes in, is trained, and comes out as it went in.
#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "support/golden.rs"]
mod golden_checkpoints;

use std::{
    fs,
    path::{Path, PathBuf},
};

use golden_checkpoints::{PROCESSORS, golden, kyoka, setup, setup_of, text, train, with_processor};

#[test]
fn an_untouched_checkpoint_comes_out_as_it_went_in() {
    for name in ["llama_yarn", "qwen3", "qwen2_untied"] {
        comes_out_as_it_went_in(&golden(name), 5);
    }
    for (name, processor) in PROCESSORS {
        comes_out_as_it_went_in(with_processor(name, processor).path(), 85);
    }
}

fn comes_out_as_it_went_in(checkpoint: &Path, word: usize) {
    let folder = setup_of((checkpoint, word), 0.0, "");
    train(folder.path());
    let saved = folder.path().join("run/checkpoints/0-sft-000002");
    let mode = |file: &str| fs::metadata(saved.join(file)).unwrap().permissions();
    assert_eq!(
        mode("model.safetensors"),
        mode("state.json"),
        "whoever may read the state may read the weights"
    );
    let output = kyoka(folder.path(), &["export", "run", "--to", "out"]);
    assert!(output.status.success(), "{}", text(&output));
    let tensors = |folder: &Path| {
        let files = kyoka::nn::CheckpointFiles::open(folder).unwrap();
        let names: Vec<String> = files.names().map(str::to_owned).collect();
        let tensor =
            |name: &String| (files.info(name).cloned().unwrap(), files.bytes(name).unwrap().to_vec());
        names.iter().map(|name| (name.clone(), tensor(name))).collect::<Vec<_>>()
    };
    let out = folder.path().join("out");
    assert!(tensors(checkpoint) == tensors(&out), "{}", checkpoint.display());
    let files = fs::read_dir(checkpoint).unwrap().map(|entry| entry.unwrap().path());
    // Shards may be cut in other places.
    let kept = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.ends_with(".json") && !name.ends_with(".index.json")
    };
    for path in files.filter(kept) {
        let written = out.join(path.file_name().unwrap());
        let same = fs::read(&written).is_ok_and(|text| text == fs::read(&path).unwrap());
        assert!(same, "{} is not as in {}", written.display(), path.display());
    }
    let again = kyoka(folder.path(), &["export", "run", "--to", "out"]);
    assert!(!again.status.success() && text(&again).contains("new or an empty folder"), "{}", text(&again));
}

/// Rows are measured by the heads of their files: a picture whose pixels are broken is met when its row is drawn.
#[test]
fn no_pixel_is_read_before_its_row_is_drawn() {
    let checkpoint = with_processor("qwen2_vl", PROCESSORS[2].1);
    let folder = setup_of((checkpoint.path(), 85), 0.0, "");
    let data = folder.path().join("data");
    let whole = data.join("whole.png");
    kyoka_testing::write_grey_png(&whole, 56, |x, y| (x * 31 + y * 17) as u8);
    let bytes = fs::read(&whole).unwrap();
    fs::write(data.join("cut.png"), &bytes[..bytes.len() / 2]).unwrap();
    let row = |id: usize, picture: &str| {
        format!(
            "{{\"id\": \"{id}\", \"prompt\": \"<image>t85\", \"images\": \"{picture}\", \"completion\": \"t86\", \"answer\": \"t86\"}}\n"
        )
    };
    fs::rename(data.join("rows.jsonl"), data.join("val.jsonl")).unwrap();
    let recipe = fs::read_to_string(folder.path().join("recipe.toml")).unwrap();
    fs::write(folder.path().join("recipe.toml"), recipe.replace("splits = [\"rows\"]", "splits = [\"val\"]"))
        .unwrap();
    let run = |picture: &str| {
        fs::write(data.join("rows.jsonl"), row(1, picture) + &row(2, picture)).unwrap();
        let _ = fs::remove_dir_all(folder.path().join("run"));
        kyoka(folder.path(), &["train", "recipe.toml", "--out", "run", "--quiet", "--device", "cpu"])
    };
    assert!(run("whole.png").status.success());
    let output = run("cut.png");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("cut.png: "), "{}", text(&output));
    let log = fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
    assert!(log.contains("\"step\":0"), "the policy was evaluated before the row was drawn: {log}");
}

#[test]
fn an_adapter_is_trained_written_read_and_merged() {
    let folder =
        setup("llama_yarn", 0.05, "[model.lora]\nrank = 2\nalpha = 4.0\ntargets = [\"q_proj\", \"*mlp*\"]");
    train(folder.path());
    let base = golden("llama_yarn");
    for arguments in
        [&["export", "run", "--to", "adapter"][..], &["export", "run", "--to", "whole", "--merge"]]
    {
        let output = kyoka(folder.path(), arguments);
        assert!(output.status.success(), "{}", text(&output));
    }
    let answer = |arguments: &[&str]| {
        let asked =
            [arguments, &["--prompt", "t5 t6 t7", "--max-new-tokens", "6", "--device", "cpu"]].concat();
        let output = kyoka(folder.path(), &[&["generate"], asked.as_slice()].concat());
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    };
    let base = base.to_str().unwrap();
    let trained = answer(&["--model", "run"]);
    assert_eq!(answer(&["--model", base, "--adapter", "adapter"]), trained);
    assert_eq!(answer(&["--model", "whole"]), trained);
    assert_ne!(answer(&["--model", base]), trained, "training changed nothing");
    let other = kyoka(
        folder.path(),
        &["generate", "--model", golden("qwen3").to_str().unwrap(), "--adapter", "adapter", "--prompt", "t5"],
    );
    assert!(
        !other.status.success() && text(&other).contains("adapter_model.safetensors"),
        "{}",
        text(&other)
    );
}

#[test]
fn frozen_parts_stay_and_wrong_names_are_refused() {
    let folder = setup("llama_yarn", 0.05, "freeze = [\"decoder.layers\"]");
    train(folder.path());
    let output = kyoka(folder.path(), &["export", "run", "--to", "out"]);
    assert!(output.status.success(), "{}", text(&output));
    let open = |folder: &Path| kyoka::nn::CheckpointFiles::open(folder).unwrap();
    let (before, after) = (open(&golden("llama_yarn")), open(&folder.path().join("out")));
    let same = |name: &str| before.bytes(name) == after.bytes(name);
    assert!(same("model.layers.0.self_attn.q_proj.weight") && !same("model.embed_tokens.weight"));
    let wrong = setup("llama_yarn", 0.05, "freeze = [\"decoder.leyers\"]");
    let output = kyoka(wrong.path(), &["train", "recipe.toml", "--out", "run", "--device", "cpu"]);
    assert!(text(&output).contains("decoder.leyers") && !output.status.success(), "{}", text(&output));
}

/// A policy made of three checkpoints, whose placeholders lie behind the decoder's vocabulary.
#[test]
fn parts_of_three_checkpoints_are_composed_and_trained() {
    let folder = setup("llama_yarn", 0.05, "");
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (from, to) in [
        ("kyoka-image/tests/golden/images/grey_15x15.png", "a.png"),
        ("kyoka-audio/tests/golden/tone.flac", "a.flac"),
    ] {
        fs::copy(crates.join(from), folder.path().join("data").join(to)).unwrap();
    }
    let row = |id: usize, prompt: &str| {
        format!(
            "{{\"id\": \"{id}\", \"prompt\": \"{prompt} t5\", \"images\": [\"a.png\"], \"audios\": [\"a.flac\"], \
             \"answer\": \"t9\", \"completion\": \"t7 t9\"}}\n"
        )
    };
    fs::write(
        folder.path().join("data/rows.jsonl"),
        row(1, "<image> t6 <audio>") + &row(2, "<audio> <image>"),
    )
    .unwrap();
    let recipe = fs::read_to_string(folder.path().join("recipe.toml")).unwrap();
    let checkpoint = format!("checkpoint = {:?}", golden("llama_yarn"));
    let parts = format!(
        "decoder = {:?}\nimage = {:?}\naudio = {:?}\nimage_side = 12\nimage_fold = 9\naudio_fold = 4\n\
         freeze = [\"image.encoder\", \"audio.encoder\"]\nfreeze_in = {{ sft = [\"decoder\"] }}\n\
         lora = {{ rank = 2, alpha = 4.0, targets = [\"q_proj\"], \
         modules_to_save = [\"image.projector\", \"audio.projector\"] }}",
        golden("llama_yarn"),
        golden("dinov2"),
        golden("whisper_learned")
    );
    let rl = "[rl]\ndata = \"rows\"\nsteps = 1\nprompts_per_step = 2\ngroup_size = 32\nalgorithm = \"grpo\"\n\
              sampling = { max_new_tokens = 12 }\nlearning_rate = { peak = 0.05 }\n\
              [[reward]]\nkind = \"soft_overlong\"\nbuffer_tokens = 10\nweight = 1.0\n[[reward]]";
    let recipe = recipe.replace("max_new_tokens = 3", "max_new_tokens = 12");
    let recipe = recipe.replace(&checkpoint, &parts).replacen("[[reward]]", rl, 1);
    fs::write(folder.path().join("recipe.toml"), recipe).unwrap();
    train(folder.path());
    let ask = ["generate", "--model", "run", "--prompt", "<image> t6 <audio> t5", "--max-new-tokens", "3"];
    let media = ["--image", "data/a.png", "--audio", "data/a.flac", "--device", "cpu"];
    let output = kyoka(folder.path(), &[&ask[..], &media[..]].concat());
    let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(output.status.success() && !answer.is_empty(), "{}", text(&output));

    // Between the last step of SFT and the end of RL the projectors and the adapters move, and the towers do not.
    let tensors = |checkpoint: &str| {
        let path = folder.path().join("run/checkpoints").join(checkpoint).join("model.safetensors");
        let files = kyoka::nn::CheckpointFiles::open_file(&path).unwrap();
        let names: Vec<String> = files.names().map(str::to_owned).collect();
        names.into_iter().map(|name| (files.bytes(&name).unwrap().to_vec(), name)).collect::<Vec<_>>()
    };
    let mut checkpoints: Vec<String> = fs::read_dir(folder.path().join("run/checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "best")
        .collect();
    checkpoints.sort();
    let [sft, rl] = [&checkpoints[0], checkpoints.last().unwrap()].map(|name| tensors(name));
    assert_ne!(checkpoints.first(), checkpoints.last(), "{checkpoints:?}");
    let moved: Vec<&str> = sft
        .iter()
        .zip(&rl)
        .filter(|(before, after)| before != after)
        .map(|((_, name), _)| name.as_str())
        .collect();
    for part in ["image.projector", "audio.projector", ".adapters."] {
        assert!(moved.iter().any(|name| name.contains(part)), "{part} did not move: {moved:?}");
    }
    assert!(
        moved.iter().all(|name| name.contains(".projector.") || name.contains(".adapters.")),
        "a frozen part moved: {moved:?}"
    );
}
