//! Low-rank adapters, from recipe to PEFT's files and back: what is trained, what is exported, what a run can begin with.
#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "support/golden.rs"]
mod golden_checkpoints;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use golden_checkpoints::{PROCESSORS, golden, kyoka, setup, setup_of, text, train, with_processor};

/// The tensors of a safetensors file, or of a folder's.
fn tensors(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = match path.is_dir() {
        true => kyoka::nn::CheckpointFiles::open(path).unwrap(),
        false => kyoka::nn::CheckpointFiles::open_file(path).unwrap(),
    };
    files.names().map(|name| (name.to_owned(), files.bytes(name).unwrap().to_vec())).collect()
}

fn newest(run: &Path) -> PathBuf {
    let entries = fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| !path.ends_with("best")).max().unwrap()
}

/// Parameters that two checkpoints both have and that differ.
fn moved(before: &Path, after: &Path) -> Vec<String> {
    let (before, after) = (tensors(before), tensors(after));
    before
        .into_iter()
        .filter(|(name, value)| after.get(name).is_some_and(|new| new != value))
        .map(|(name, _)| name)
        .collect()
}

fn run(folder: &Path, arguments: &[&str]) -> String {
    let output = kyoka(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    text(&output)
}

fn refused(folder: &Path, arguments: &[&str]) -> String {
    let output = kyoka(folder, arguments);
    let said = text(&output);
    assert!(!output.status.success() && !said.contains("panicked"), "{arguments:?}: {said}");
    said
}

fn answer(folder: &Path, model: &[&str]) -> String {
    let ask = ["--prompt", "t5 t6 t7", "--max-new-tokens", "6", "--device", "cpu"];
    run(folder, &[&["generate"], model, &ask].concat())
}

/// `lora` and further settings of the model in a recipe's folder that has none yet.
fn set_model(folder: &Path, model: &str) {
    let recipe = fs::read_to_string(folder.join("recipe.toml")).unwrap();
    let (head, tail) = recipe.split_once("[model]\n").unwrap();
    let (checkpoint, tail) = tail.split_once('\n').unwrap();
    let (_, rest) = tail.split_once("[sft]").unwrap();
    fs::write(folder.join("recipe.toml"), format!("{head}[model]\n{checkpoint}\n{model}\n[sft]{rest}"))
        .unwrap();
}

/// Rows of the recipe's folder that show and sound what the checkpoint takes.
fn add_media(folder: &Path, image: bool, audio: bool) {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let data = folder.join("data");
    fs::copy(crates.join("kyoka-image/tests/golden/images/rgb_37x26.png"), data.join("a.png")).unwrap();
    fs::copy(crates.join("kyoka-audio/tests/golden/tone.flac"), data.join("a.flac")).unwrap();
    let rows = fs::read_to_string(data.join("rows.jsonl")).unwrap();
    let (image_mark, images) = if image { ("<image>", "\"images\": [\"a.png\"],") } else { ("", "") };
    let (audio_mark, audios) = if audio { ("<audio>", "\"audios\": [\"a.flac\"],") } else { ("", "") };
    let with_media =
        rows.replace("\"prompt\": \"", &format!("{images} {audios} \"prompt\": \"{image_mark}{audio_mark}"));
    fs::write(data.join("rows.jsonl"), with_media).unwrap();
}

/// Adapters, a part trained whole, and nothing else; the export is read back and answers as the run.
#[test]
fn every_family_trains_adapters_and_what_is_named_and_nothing_else() {
    let plain = ["llama_yarn", "qwen3", "qwen2_untied"].map(|name| (name, None));
    let with_media = PROCESSORS.into_iter().map(|(name, processor)| (name, Some(processor)));
    for (name, processor) in plain.into_iter().chain(with_media) {
        let own = processor.map(|processor| with_processor(name, processor));
        let checkpoint = own.as_ref().map_or_else(|| golden(name), |folder| folder.path().to_owned());
        let word = if processor.is_some() { 85 } else { 5 };
        let audio = name.contains("audio") || name.contains("omni");
        let image = processor.is_some() && name != "qwen2_audio";
        let whole = match (image, audio) {
            (true, true) => "\"image.projector\", \"audio.projector\"",
            (true, false) => "\"image.projector\"",
            (false, true) => "\"audio.projector\"",
            (false, false) => "\"embed_tokens\", \"model.norm\"",
        };
        let lora = format!(
            "lora = {{ rank = 2, alpha = 4.0, targets = [\"q_proj\", \"down_proj\"], modules_to_save = [{whole}] }}"
        );
        let folder = setup_of((&checkpoint, word), 0.05, &lora);
        // Tiles are written in tokens that these tokenizers lack; `cargo xtask matrix` shows such models pictures.
        add_media(folder.path(), image && !name.ends_with("tiles"), audio);
        train(folder.path());
        run(folder.path(), &["export", "run", "--to", "adapter"]);
        run(folder.path(), &["export", "run", "--to", "half", "--dtype", "bf16"]);
        run(folder.path(), &["export", "run", "--to", "whole", "--merge"]);
        let names: Vec<String> =
            tensors(&folder.path().join("adapter/adapter_model.safetensors")).into_keys().collect();
        let changed = moved(&checkpoint, &folder.path().join("whole"));
        for module in &changed {
            let last = module.rsplit('.').nth(1).unwrap();
            let adapted = ["q_proj", "down_proj"].contains(&last);
            let saved = ["embed_tokens", "norm", "0", "2", "proj", "linear"].contains(&last);
            assert!(adapted || saved, "{name}: {module} moved");
        }
        assert!(names.iter().any(|name| name.ends_with("q_proj.lora_A.weight")), "{name}: {names:?}");
        assert!(names.iter().any(|name| !name.contains(".lora_")), "{name}: {names:?}");
        let half = tensors(&folder.path().join("half/adapter_model.safetensors"));
        let full = tensors(&folder.path().join("adapter/adapter_model.safetensors"));
        assert!(
            half.iter().all(|(name, value)| 2 * value.len() == full[name].len()),
            "{name}: bf16 takes half"
        );
        let ask = if processor.is_some() { "t85 t86 t87" } else { "t5 t6 t7" };
        let answer = |model: &[&str]| {
            let ask = ["--prompt", ask, "--max-new-tokens", "6", "--device", "cpu"];
            run(folder.path(), &[&["generate"], model, &ask].concat())
        };
        let trained = answer(&["--model", "run"]);
        assert_eq!(
            answer(&["--model", checkpoint.to_str().unwrap(), "--adapter", "adapter"]),
            trained,
            "{name}"
        );
        assert_eq!(answer(&["--model", "whole"]), trained, "{name}");
    }
}

#[test]
fn an_export_that_lacks_what_was_trained_is_no_export() {
    let folder = setup("llama_yarn", 0.05, "");
    train(folder.path());
    fs::rename(folder.path().join("run"), folder.path().join("first")).unwrap();
    set_model(folder.path(), "start = \"first\"\nlora = { rank = 2 }");
    train(folder.path());
    // The adapters stand beside the weights of the first run, which are not those of the checkpoint.
    let said = refused(folder.path(), &["export", "run", "--to", "out"]);
    assert!(said.contains("decoder.embedding") && said.contains("--merge"), "{said}");
    assert!(!folder.path().join("out").exists(), "what does not count is removed");
    run(folder.path(), &["export", "run", "--to", "out", "--merge"]);
    assert_eq!(answer(folder.path(), &["--model", "out"]), answer(folder.path(), &["--model", "run"]));
    let first = newest(&folder.path().join("first")).join("model.safetensors");
    let kept = tensors(&newest(&folder.path().join("run")).join("model.safetensors"));
    let start = tensors(&first);
    assert!(start.iter().all(|(name, value)| kept[name] == *value), "LoRA moves nothing beside its adapters");
}

#[test]
fn a_checkpoint_that_changed_since_is_told_from_the_one_that_was_trained() {
    let base = tempfile::tempdir().unwrap();
    for entry in
        fs::read_dir(golden("qwen3")).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file())
    {
        fs::copy(entry.path(), base.path().join(entry.file_name())).unwrap();
    }
    let folder = setup_of((base.path(), 5), 0.05, "lora = { rank = 2 }");
    train(folder.path());
    let weights = base.path().join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 0x40;
    fs::write(&weights, bytes).unwrap();
    let said = refused(folder.path(), &["export", "run", "--to", "out"]);
    assert!(said.contains("is not the policy that was trained"), "{said}");
    fs::remove_file(weights).unwrap();
    let said = refused(folder.path(), &["export", "run", "--to", "out"]);
    assert!(said.contains("model.safetensors"), "{said}");
    assert!(!folder.path().join("out").exists());
}

#[test]
fn a_run_begins_with_the_adapters_of_another_as_the_user_says() {
    const LORA: &str = "lora = { rank = 2, alpha = 4.0, targets = [\"q_proj\", \"v_proj\"] }";
    let folder = setup("llama_yarn", 0.05, LORA);
    let folder = folder.path();
    train(folder);
    run(folder, &["export", "run", "--to", "adapter"]);
    fs::rename(folder.join("run"), folder.join("first")).unwrap();
    let first = newest(&folder.join("first")).join("model.safetensors");
    let again = |model: &str| {
        let _ = fs::remove_dir_all(folder.join("run"));
        set_model(folder, model);
        kyoka(folder, &["train", "recipe.toml", "--out", "run", "--quiet", "--device", "cpu"])
    };
    let trained = |model: &str| {
        let output = again(model);
        assert!(output.status.success(), "{model}: {}", text(&output));
        newest(&folder.join("run")).join("model.safetensors")
    };
    let denied = |model: &str| {
        let output = again(model);
        assert!(!output.status.success() && !text(&output).contains("panicked"), "{model}");
        text(&output)
    };

    // The same adapters go on: they move, and nothing else does.
    for how in [
        format!("start = \"first\"\n{LORA}"),
        "start = \"first\"\nexisting_adapters = \"continue\"".to_owned(),
        "adapter = \"adapter\"".to_owned(),
        format!("adapter = \"adapter\"\n{LORA}"),
    ] {
        let moved = moved(&first, &trained(&how));
        assert!(
            !moved.is_empty() && moved.iter().all(|name| name.contains(".adapters.")),
            "{how}: {moved:?}"
        );
    }
    // Folded in, with fresh ones beside: what was adapted has moved once, and the run can be exported.
    for start in ["start = \"first\"", "adapter = \"adapter\""] {
        let merged = trained(&format!(
            "{start}\nexisting_adapters = \"merge\"\nlora = {{ rank = 3, targets = [\"o_proj\"] }}"
        ));
        let moved = moved(&first, &merged);
        assert!(moved.iter().all(|name| name.ends_with(".qkv.weight")) && !moved.is_empty(), "{moved:?}");
        let fresh: Vec<String> =
            tensors(&merged).into_keys().filter(|name| name.contains(".adapters.")).collect();
        assert!(fresh.iter().all(|name| name.contains(".out.adapters.")), "{fresh:?}");
        run(folder, &["export", "run", "--to", "whole", "--merge"]);
        assert_eq!(answer(folder, &["--model", "whole"]), answer(folder, &["--model", "run"]));
        fs::remove_dir_all(folder.join("whole")).unwrap();
    }
    // Whole training from merged adapters.
    trained("start = \"first\"\nexisting_adapters = \"merge\"");
    run(folder, &["export", "run", "--to", "whole"]);

    for (model, words) in [
        ("start = \"first\"", &["existing_adapters", "continue", "merge"][..]),
        (
            "start = \"first\"\nlora = { rank = 4, alpha = 4.0, targets = [\"q_proj\", \"v_proj\"] }",
            &["rank (2 there, 4 here", "merge"],
        ),
        (
            "start = \"first\"\nlora = { rank = 2, alpha = 8.0, targets = [\"q_proj\", \"v_proj\"] }",
            &["alpha (4 there, 8 here"],
        ),
        (
            "adapter = \"adapter\"\nlora = { rank = 2, alpha = 4.0, targets = [\"q_proj\"] }",
            &["targets", "v_proj"],
        ),
        (
            "start = \"first\"\nlora = { rank = 2, alpha = 4.0, targets = [\"q_proj\", \"v_proj\"], modules_to_save = [\"embed_tokens\"] }",
            &["modules_to_save (none there, decoder.embedding here"],
        ),
        ("start = \"adapter\"\nlora = { rank = 2 }", &["model.adapter"]),
        ("start = \"first\"\nadapter = \"adapter\"", &["one of start and adapter"]),
        ("existing_adapters = \"merge\"\nlora = { rank = 2 }", &["existing_adapters"]),
        ("lora = { rank = 2, modules_to_save = [\"lm_hed\"] }", &["modules_to_save", "lm_hed", "lm_head"]),
        ("lora = { rank = 2, modules_to_save = [\"q_proj\"] }", &["modules_to_save", "together"]),
        ("lora = { rank = 2, targets = [\"lm_head\"] }", &["targets", "lm_head", "modules_to_save"]),
        ("lora = { rank = 2, targets = [\"q_prj\"] }", &["targets", "did you mean q_proj?"]),
    ] {
        let said = denied(model);
        assert!(words.iter().all(|word| said.contains(word)), "{model}: {said}");
    }
}

/// A run goes on from its second step as if it had not stopped, critic and reward model too, and their trunks learn no more
/// than the policy does.
#[test]
fn after_a_resume_what_is_frozen_in_critic_and_reward_model_stays_so() {
    let folder = setup("llama_yarn", 0.05, "lora = { rank = 2, targets = [\"q_proj\"] }");
    let folder = folder.path();
    let pair = |id: usize| {
        format!(
            "{{\"id\": \"{id}\", \"prompt\": \"t5 t6 t{id}\", \"chosen\": \"t{id} t9\", \"rejected\": \"t6 t7\"}}\n"
        )
    };
    fs::write(folder.join("data/pairs.jsonl"), (7..11).map(pair).collect::<String>()).unwrap();
    let recipe = fs::read_to_string(folder.join("recipe.toml")).unwrap();
    let (model, rest) = recipe.split_once("[sft]").unwrap();
    let (_, rest) = rest.split_once("[[reward]]").unwrap();
    let reward_model =
        "[reward_model]\ndata = \"pairs\"\nsteps = 4\nbatch_size = 2\nlearning_rate = { peak = 0.05 }\n";
    let ppo = "[rl]\ndata = \"rows\"\nsteps = 4\nprompts_per_step = 2\ngroup_size = 4\nalgorithm = \"ppo\"\n\
               sampling = { max_new_tokens = 6 }\nlearning_rate = { peak = 0.05 }\n";
    for (stage, name, file) in
        [(reward_model, "reward_model", "reward_model.safetensors"), (ppo, "rl", "critic.safetensors")]
    {
        let text = format!("{model}[checkpoints]\nevery = 1\nkeep_last = 9\n{stage}[[reward]]{rest}");
        fs::write(folder.join("recipe.toml"), text).unwrap();
        let _ = fs::remove_dir_all(folder.join("run"));
        train(folder);
        let last = folder.join(format!("run/checkpoints/0-{name}-000004"));
        let straight = tensors(&last.join(file));
        for step in [3, 4] {
            fs::remove_dir_all(folder.join(format!("run/checkpoints/0-{name}-00000{step}"))).unwrap();
        }
        run(folder, &["train", "--resume", "run", "--quiet", "--device", "cpu"]);
        let resumed = tensors(&last.join(file));
        let differing: Vec<&String> =
            straight.keys().filter(|name| straight[*name] != resumed[*name]).collect();
        assert!(differing.is_empty(), "{name}: {differing:?}");
        let second = folder.join(format!("run/checkpoints/0-{name}-000002/{file}"));
        let moved = moved(&second, &last.join(file));
        let learns = |name: &String| name.contains(".adapters.") || name.starts_with("head.");
        assert!(
            moved.iter().any(|name| name.contains(".adapters.")) && moved.iter().all(learns),
            "{name}: {moved:?}"
        );
    }
}
