//! Learning from pairs, from the recipe to the checkpoint: preference training, a reward model, and the model as reward.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

const GOOD: &str = "<think> bag </think> <answer> 1 </answer>";
const BAD: &str = "<think> coat </think> <answer> 0 </answer>";

/// A dataset of pairs and of questions, both about nothing but text.
fn write_data(home: &Path, pairs: &str) {
    let data = home.join("mine");
    fs::create_dir_all(&data).unwrap();
    let tokenizer = include_bytes!("../../kyoka-text/tests/tiny_tokenizer.json");
    fs::write(data.join("tokenizer.json"), tokenizer).unwrap();
    fs::write(data.join("pairs.jsonl"), pairs).unwrap();
    let question = |id: usize| format!("{{\"id\": \"q{id}\", \"prompt\": \"bag\", \"answer\": \"1\"}}\n");
    fs::write(data.join("test.jsonl"), (0..3).map(question).collect::<String>()).unwrap();
}

fn pair(id: usize, chosen: &str, rejected: &str) -> String {
    let row =
        serde_json::json!({"id": id.to_string(), "prompt": "bag", "chosen": chosen, "rejected": rejected});
    format!("{row}\n")
}

/// Trains `recipe`, with lines for the head of the file and a folder for the run.
fn train(home: &Path, recipe: &str, (head, out): (&str, &str)) -> Output {
    let common =
        "[data]\ndataset = 'mine'\n[model]\nconfig = 'tiny'\n[eval]\nsplits = ['test']\nmax_new_tokens = 6\n";
    fs::write(home.join("recipe.toml"), format!("{head}{common}{recipe}")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kyoka"));
    command.env("KYOKA_DATA_DIR", home.join("data")).current_dir(home);
    command.args(["train", "recipe.toml", "--quiet", "--out", out]).output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A number of the last step of a stage, from the run's log.
fn last_metric(run: &Path, stage: &str, name: &str) -> f64 {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let mut of_stage = lines.filter(|line| line["stage"] == stage && line["metrics"].is_object());
    of_stage.next_back().unwrap()["metrics"][name].as_f64().unwrap()
}

const REWARD: &str = "[[reward]]\nkind = 'exact_answer'\nweight = 1.0\n";

#[test]
fn pairs_train_a_policy_and_a_reward_model_that_rewards_the_next_run() {
    let home = tempfile::tempdir().unwrap();
    let pairs: String = (0..4).map(|id| pair(id, GOOD, BAD)).collect();
    write_data(home.path(), &pairs);
    let stages = "[preference]\ndata = 'pairs'\nsteps = 6\nbatch_size = 2\nalgorithm = 'dpo'\nlearning_rate = { peak = 1e-3 }\n\
                  [reward_model]\ndata = 'pairs'\nsteps = 8\nbatch_size = 2\nlearning_rate = { peak = 1e-3 }\n";
    let output = train(home.path(), &format!("{stages}{REWARD}"), ("", "pairs"));
    assert!(output.status.success(), "{}", errors(&output));
    let run = home.path().join("pairs");
    assert_eq!(last_metric(&run, "preference", "preference/accuracy"), 1.0);
    assert_eq!(last_metric(&run, "reward_model", "preference/accuracy"), 1.0);
    let rl = "[rl]\ndata = 'test'\nsteps = 1\nprompts_per_step = 2\ngroup_size = 4\nlearning_rate = { peak = 1e-3 }\n\
              sampling = { max_new_tokens = 6 }\n";
    let learned = "[[reward]]\nkind = 'learned'\nweight = 1.0\nmodel = 'pairs'\n";
    let output = train(home.path(), &format!("{rl}{learned}"), ("", "rl"));
    assert!(output.status.success(), "{}", errors(&output));
    assert!(last_metric(&home.path().join("rl"), "rl", "reward/learned").is_finite());
}

/// A policy that has learned to spell placeholders: a reward model reads the tokens that were drawn.
#[test]
fn a_completion_that_spells_placeholders_is_rewarded_like_any_other() {
    let home = tempfile::tempdir().unwrap();
    write_data(home.path(), &pair(0, "<image> bag", "coat"));
    let row = serde_json::json!({"id": "s", "prompt": "bag", "completion": "<image><audio>"});
    fs::write(home.path().join("mine/sft.jsonl"), format!("{row}\n")).unwrap();
    let stages = "[sft]\ndata = 'sft'\nsteps = 60\nbatch_size = 1\nlearning_rate = { peak = 3e-3 }\n\
                  [reward_model]\ndata = 'pairs'\nsteps = 2\nbatch_size = 1\nlearning_rate = { peak = 1e-3 }\n";
    let output = train(home.path(), &format!("{stages}{REWARD}"), ("", "speller"));
    assert!(output.status.success(), "{}", errors(&output));
    let rl = "[rl]\ndata = 'test'\nsteps = 1\nprompts_per_step = 2\ngroup_size = 4\nlearning_rate = { peak = 1e-3 }\n\
              sampling = { max_new_tokens = 24 }\n[[reward]]\nkind = 'learned'\nweight = 1.0\nmodel = 'speller'\n";
    let recipe_path = home.path().join("recipe.toml");
    let common = "[data]\ndataset = 'mine'\n[model]\nconfig = 'tiny'\nstart = 'speller'\n\
                  [eval]\nsplits = ['test']\nmax_new_tokens = 24\n";
    fs::write(&recipe_path, format!("{common}{rl}")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kyoka"));
    let output = command
        .current_dir(home.path())
        .args(["train", "recipe.toml", "--quiet", "--out", "rl"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", errors(&output));
    let run = home.path().join("rl");
    let samples = fs::read_to_string(run.join("samples.jsonl")).unwrap();
    assert!(samples.contains("\"completion\":\"<image><audio>\""), "it has not learned to spell: {samples}");
    assert!(last_metric(&run, "rl", "reward/learned").is_finite());
}

/// The command in `home`; what it says on standard error.
fn kyoka(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kyoka"));
    command.env("KYOKA_DATA_DIR", home.join("data")).current_dir(home).args(arguments).output().unwrap()
}

#[test]
fn a_reward_model_stays_beside_a_critic_through_the_stages_after_it() {
    let home = tempfile::tempdir().unwrap();
    write_data(home.path(), &pair(0, GOOD, BAD));
    let rate = "learning_rate = { peak = 1e-3 }\n";
    let stages = format!(
        "[checkpoints]\nevery = 1\nkeep_last = 9\n\
         [[stage]]\nkind = 'reward_model'\ndata = 'pairs'\nsteps = 2\nbatch_size = 1\n{rate}\
         [[stage]]\nkind = 'rl'\nname = 'ppo'\ndata = 'test'\nsteps = 2\nprompts_per_step = 2\ngroup_size = 4\n\
         algorithm = 'ppo'\nsampling = {{ max_new_tokens = 6 }}\n{rate}"
    );
    let output = train(home.path(), &format!("{stages}{REWARD}"), ("", "run"));
    assert!(output.status.success(), "{}", errors(&output));
    let checkpoints = home.path().join("run/checkpoints");
    let model =
        |checkpoint: &str| fs::read(checkpoints.join(checkpoint).join("reward_model.safetensors")).unwrap();
    let trained = model("0-reward_model-000002");
    assert!(trained != model("0-reward_model-000001"), "it learns");
    assert!(trained == model("1-ppo-000002"), "and stays as it is");
    assert!(checkpoints.join("1-ppo-000002/critic.safetensors").is_file());
    let whole = fs::read(checkpoints.join("1-ppo-000002/model.safetensors")).unwrap();
    fs::remove_dir_all(checkpoints.join("1-ppo-000002")).unwrap();
    let output = kyoka(home.path(), &["train", "--resume", "run", "--quiet"]);
    assert!(output.status.success(), "{}", errors(&output));
    assert!(trained == model("1-ppo-000002"));
    assert!(whole == fs::read(checkpoints.join("1-ppo-000002/model.safetensors")).unwrap());
}

/// The frozen reference has scored the pairs of the steps that were asked for, and the policy that it was has gone.
#[test]
fn more_steps_than_the_reference_has_scored_are_refused_with_the_row() {
    let home = tempfile::tempdir().unwrap();
    write_data(home.path(), &(0..4).map(|id| pair(id, GOOD, BAD)).collect::<String>());
    let stage = "[preference]\ndata = 'pairs'\nsteps = 1\nbatch_size = 1\nlearning_rate = { peak = 1e-3 }\n";
    let output = train(home.path(), &format!("{stage}{REWARD}"), ("", "run"));
    assert!(output.status.success(), "{}", errors(&output));
    let output = kyoka(home.path(), &["train", "--resume", "run", "--quiet", "--set", "preference.steps=2"]);
    let said = errors(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("pairs.jsonl:") && said.contains("the run was begun with fewer steps"), "{said}");
    assert!(said.contains("the run can go on from"), "{said}");
}

/// Pairs of questions about a picture and a sound: gradients of both stages are the same when layers are recomputed.
#[test]
fn recomputed_layers_give_pairs_the_same_gradients() {
    let home = tempfile::tempdir().unwrap();
    write_data(home.path(), "");
    let data = home.path().join("mine");
    kyoka_testing::write_grey_png(&data.join("a.png"), 28, |x, y| (x * y) as u8);
    kyoka_testing::write_tone(&data.join("a.wav"), 0.1);
    let row = serde_json::json!({"id": "p", "prompt": "<image><audio>bag", "images": ["a.png"], "audios": ["a.wav"],
        "chosen": GOOD, "rejected": BAD});
    fs::write(data.join("pairs.jsonl"), format!("{row}\n")).unwrap();
    let stages = "[preference]\ndata = 'pairs'\nsteps = 2\nbatch_size = 1\nlearning_rate = { peak = 1e-3 }\n\
                  [reward_model]\ndata = 'pairs'\nsteps = 2\nbatch_size = 1\nlearning_rate = { peak = 1e-3 }\n";
    let losses = |head: &str, out: &str| {
        let output = train(home.path(), &format!("{stages}{REWARD}"), (head, out));
        assert!(output.status.success(), "{}", errors(&output));
        ["preference", "reward_model"].map(|stage| last_metric(&home.path().join(out), stage, "loss"))
    };
    let (kept, recomputed) = (losses("", "kept"), losses("gradient_checkpointing = true\n", "recomputed"));
    for (kept, recomputed) in kept.into_iter().zip(recomputed) {
        assert!((kept - recomputed).abs() < 1e-5, "{kept} and {recomputed}");
        assert!(kept < 0.69, "the second step sees what the first has learned: {kept}");
    }
}

#[test]
fn faulty_pairs_and_settings_are_refused_with_their_place() {
    let home = tempfile::tempdir().unwrap();
    let stage = |algorithm: &str| {
        format!(
            "[preference]\ndata = 'pairs'\nsteps = 1\nbatch_size = 2\nalgorithm = {algorithm}\nlearning_rate = {{ peak = 1e-3 }}\n{REWARD}"
        )
    };
    let refused = |pairs: &str, recipe: &str| {
        write_data(home.path(), pairs);
        let output = train(home.path(), recipe, ("", "run"));
        assert!(!output.status.success() && !home.path().join("run").exists(), "{recipe}");
        errors(&output)
    };
    let good = pair(0, GOOD, BAD);
    let message = refused(&format!("{good}{}", pair(1, GOOD, "")), &stage("'dpo'"));
    assert!(message.contains("mine/pairs.jsonl:2: rejected: expected a completion"), "{message}");
    let message = refused(&pair(0, &"bag ".repeat(600), BAD), &stage("'dpo'"));
    assert!(message.contains("pairs.jsonl:1: chosen") && message.contains("512 positions"), "{message}");
    let message = refused(&good, &stage("'ktoo'"));
    assert!(message.contains("did you mean `kto`?"), "{message}");
    let message = refused(&good, &stage("{ preset = 'kto', beta = 0.0 }"));
    assert!(
        message.contains("preference.algorithm.beta: expected a finite number above 0, got 0"),
        "{message}"
    );
    let message = refused(&good, &stage("{ preset = 'kto', label_smoothing = 0.1 }"));
    assert!(
        message.contains("preference.algorithm.label_smoothing") && message.contains("got loss = \"kto\""),
        "{message}"
    );
    let message = refused(&good, &stage("'dpo'").replace("batch_size = 2", "batch_size = 0"));
    assert!(message.contains("preference.batch_size: expected at least 1, got 0"), "{message}");
    let homeless = stage("'dpo'").replace("exact_answer", "learned");
    let message = refused(&good, &homeless);
    assert!(message.contains("reward.0.model: missing"), "{message}");
    let gone = homeless.replace("weight = 1.0", "weight = 1.0\nmodel = 'nowhere'");
    let message = refused(&good, &gone);
    assert!(message.contains("nowhere"), "{message}");
}
