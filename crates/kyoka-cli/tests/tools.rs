//! A policy that learns to call a tool, and rows that are conversations, through the command.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{fs, path::Path};

use support::{errors, kyoka, newest_weights, small_data};

const RECIPE: &str = r#"
[data]
dataset = "data"
[model]
config = "tiny"
[environment]
kind = "tools"
tools = [{ kind = "crop" }]
max_turns = 2
max_observation_tokens = 20
[sft]
data = "train"
steps = 120
batch_size = 2
learning_rate = { peak = 3e-3 }
[rl]
data = "train"
steps = 2
prompts_per_step = 2
group_size = 2
sampling = { max_new_tokens = 200 }
learning_rate = { peak = 1e-5 }
[[reward]]
kind = "box_match"
weight = 1.0
answer = "whole"
[eval]
splits = ["test"]
max_new_tokens = 200
"#;

/// Pictures with the corner that a box marks, and a call that shows it.
fn home() -> tempfile::TempDir {
    let home = small_data(2);
    let data = home.path().join("data");
    let call = r#"<tool_call>{\"name\": \"crop\", \"arguments\": {\"bbox_2d\": [0, 0, 20, 20]}}</tool_call>"#;
    let mut rows = String::new();
    for number in 0..2_u32 {
        let picture = data.join(format!("{number}.png"));
        kyoka_testing::write_grey_png(&picture, 40, |x, y| if x < 20 && y < 20 { 200 } else { number as u8 });
        rows += &format!(
            "{{\"id\": {number}, \"prompt\": \"<image> q\", \"images\": [\"{number}.png\"], \"answer\": [0, 0, 20, 20], \
             \"completion\": \"{call}\"}}\n"
        );
    }
    for split in ["train", "test"] {
        fs::write(data.join(format!("{split}.jsonl")), &rows).unwrap();
    }
    fs::write(home.path().join("recipe.toml"), RECIPE).unwrap();
    home
}

fn run(home: &Path, arguments: &[&str]) -> String {
    let output = kyoka(home).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", errors(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_policy_that_was_shown_calls_makes_them_is_resumed_and_evaluated() {
    let home = home();
    let home = home.path();
    run(home, &["train", "recipe.toml", "--quiet", "--out", "halves"]);
    let log = fs::read_to_string(home.join("halves/metrics.jsonl")).unwrap();
    let turns: Vec<f64> = log
        .split("\"turns\":")
        .skip(1)
        .filter_map(|rest| rest.split([',', '}']).next()?.parse().ok())
        .collect();
    // Drawn at temperature 1, most completions call; the likeliest ones all do, below.
    assert!(turns.len() == 2 && turns.iter().all(|mean| *mean > 1.0), "calls are answered: {turns:?}\n{log}");
    assert!(log.contains("\"reward/box_match\":"), "{log}");
    run(home, &["train", "--resume", "halves", "--quiet", "--set", "rl.steps=3"]);
    run(home, &["train", "recipe.toml", "--quiet", "--out", "whole", "--set", "rl.steps=3"]);
    assert!(newest_weights(&home.join("halves")) == newest_weights(&home.join("whole")));
    let evaluated = run(home, &["eval", "whole", "--split", "test"]);
    let told = |name: &str| {
        let line = evaluated.lines().find(|line| line.contains(name));
        line.and_then(|line| line.split_whitespace().last()?.parse::<f64>().ok())
    };
    assert_eq!((told("turns"), told("box_match").is_some()), (Some(2.0), true), "{evaluated}");
    let planned = run(home, &["plan", "recipe.toml"]);
    assert!(planned.contains("rollout"), "{planned}");
}

#[test]
fn rows_of_messages_are_learned_from_judged_and_written_back() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/found/system_prompt_is_read");
    let recipe = fs::read_to_string(case.join("recipe.toml")).unwrap();
    let recipe =
        recipe.replace("\"ckpt\"", &format!("{:?}", case.join("ckpt"))).replace("steps = 250", "steps = 2");
    fs::write(home.join("recipe.toml"), recipe.replace("exact_answer", "math_answer")).unwrap();
    fs::create_dir(home.join("told")).unwrap();
    let row = |id: usize, more: &str| {
        format!(
            "{{\"id\": {id}, \"messages\": [{{\"role\": \"system\", \"content\": \"Be brief.\"}}, {{\"role\": \"user\", \
             \"content\": \"1 + 1?\"}}, {{\"role\": \"assistant\", \"content\": \"2\"}}, {{\"role\": \"user\", \"content\": \
             \"and 1?\"}}{more}], \"answer\": \"\\\\frac{{6}}{{2}}\"}}\n"
        )
    };
    let answered = ", {\"role\": \"assistant\", \"content\": \"x</think> <answer>3</answer>\"}";
    fs::write(home.join("told/train.jsonl"), row(1, answered) + &row(2, answered)).unwrap();
    run(home, &["train", "recipe.toml", "--quiet", "--out", "run"]);
    let samples = fs::read_to_string(home.join("run/samples.jsonl")).unwrap();
    assert!(samples.contains("[assistant] 2\\n[user] and 1?"), "{samples}");
    run(home, &["train", "--resume", "run", "--quiet", "--set", "sft.steps=3"]);
    let evaluated = run(home, &["eval", "run", "--split", "train", "--max-new-tokens", "8"]);
    assert!(evaluated.contains("accuracy"), "{evaluated}");
    run(home, &["export", "run", "--to", "out"]);
    assert!(home.join("out/model.safetensors").is_file());
    // A conversation without an answer of the policy is no worked completion.
    fs::write(home.join("told/train.jsonl"), row(1, "")).unwrap();
    let output = kyoka(home).args(["train", "recipe.toml", "--quiet", "--out", "none"]).output().unwrap();
    let said = errors(&output);
    assert!(!output.status.success() && said.contains("train.jsonl:1: completion"), "{said}");
}
