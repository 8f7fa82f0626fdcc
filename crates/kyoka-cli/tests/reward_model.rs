//! Reward models from every kind of judgement, from the recipe to the reward of the next run, with pictures in them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{fs, path::Path};

use support::{errors, kyoka, small_data};

const RECIPE: &str = r#"
[data]
dataset = "data"
[model]
config = "tiny"
[reward_model]
data = "pairs"
steps = 20
batch_size = 4
learning_rate = { peak = 2e-3 }
[[reward]]
kind = "exact_answer"
weight = 1.0
[eval]
splits = ["test"]
max_new_tokens = 6
"#;

/// A light and a dark picture; people like `bag` beside the light one and `coat` beside the dark one.
fn home() -> tempfile::TempDir {
    let home = small_data(2);
    let data = home.path().join("data");
    let (mut pairs, mut labels, mut scores, mut test) =
        (String::new(), String::new(), String::new(), String::new());
    for (light, [good, bad]) in [["coat", "bag"], ["bag", "coat"]].into_iter().enumerate() {
        let name = format!("{light}.png");
        kyoka_testing::write_grey_png(&data.join(&name), 28, |_, _| if light == 1 { 230 } else { 20 });
        let row = |more: serde_json::Value| {
            let mut row = serde_json::json!({
                "id": light, "prompt": "<image> q", "images": [name], "answer": good, "tag": format!("shade{light}"),
            });
            row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            format!("{row}\n")
        };
        pairs += &row(serde_json::json!({"chosen": good, "rejected": bad, "margin": 0.5}));
        for (word, is_good) in [(good, true), (bad, false)] {
            labels += &row(serde_json::json!({"completion": word, "label": is_good}));
            scores +=
                &row(serde_json::json!({"completion": word, "score": if is_good { 2.0 } else { -1.0 }}));
        }
        test += &row(serde_json::json!({}));
    }
    for (name, rows) in [("pairs", pairs), ("labels", labels), ("scores", scores), ("test", test)] {
        fs::write(data.join(format!("{name}.jsonl")), rows).unwrap();
    }
    fs::write(home.path().join("recipe.toml"), RECIPE).unwrap();
    home
}

fn run(home: &Path, arguments: &[&str]) {
    let output = kyoka(home).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", errors(&output));
}

/// A number of every step that has it, from the run's log.
fn metric(run: &Path, name: &str) -> Vec<f64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter_map(|line| line["metrics"][name].as_f64()).collect()
}

fn model_of(run: &Path) -> Vec<u8> {
    let mut checkpoints: Vec<_> =
        fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    checkpoints.retain(|path| path.join("reward_model.safetensors").is_file() && !path.ends_with("best"));
    checkpoints.sort();
    fs::read(checkpoints.pop().unwrap().join("reward_model.safetensors")).unwrap()
}

#[test]
fn every_kind_of_judgement_trains_a_model_that_says_the_same() {
    let home = home();
    let home = home.path();
    for kind in ["pairs", "labels", "scores"] {
        let settings = [
            format!("reward_model.data={kind}"),
            format!("reward_model.rows={kind}"),
            format!("reward_model.held_out={kind}"),
            "reward_model.eval_every=10".to_owned(),
            "reward_model.steps=60".to_owned(),
        ];
        let mut arguments = vec!["train", "recipe.toml", "--quiet", "--out", kind];
        settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
        run(home, &arguments);
        let run = home.join(kind);
        if kind == "scores" {
            let errors = metric(&run, "held_out/mean_squared_error");
            assert!(errors.len() == 6 && errors[5] < 0.5 && errors[5] < errors[0], "{errors:?}");
            continue;
        }
        let accuracy = metric(&run, "held_out/accuracy");
        assert!(accuracy.len() == 6 && accuracy[5] == 1.0, "{kind}: {accuracy:?}");
        assert_eq!(metric(&run, "held_out/accuracy/shade1").last(), Some(&1.0));
        let ece = metric(&run, "held_out/ece");
        assert!(ece[5] < ece[0], "it grows sure of what is right: {ece:?}");
    }
}

#[test]
fn an_ensemble_disagrees_is_resumed_bit_for_bit_and_rewards_the_next_run() {
    let home = home();
    let home = home.path();
    let ensemble =
        ["--set", "reward_model.heads=4", "--set", "checkpoints.every=1", "--set", "checkpoints.keep_last=9"];
    let whole = [&["train", "recipe.toml", "--quiet", "--out", "whole"][..], &ensemble].concat();
    run(home, &whole);
    let half = [
        &["train", "recipe.toml", "--quiet", "--out", "half", "--set", "reward_model.steps=8"][..],
        &ensemble,
    ]
    .concat();
    run(home, &half);
    run(home, &["train", "--resume", "half", "--quiet", "--set", "reward_model.steps=20"]);
    assert!(model_of(&home.join("whole")) == model_of(&home.join("half")));
    let deviation = metric(&home.join("whole"), "preference/deviation");
    assert!(deviation[0] == 0.0 && deviation.last().is_some_and(|last| *last > 0.0), "{deviation:?}");
    let rl = RECIPE.split("[reward_model]").next().unwrap().to_owned()
        + "[rl]\ndata = 'test'\nsteps = 2\nprompts_per_step = 2\ngroup_size = 4\nsampling = { max_new_tokens = 6 }\n\
           learning_rate = { peak = 1e-3 }\n[[reward]]\nkind = 'learned'\nweight = 1.0\nmodel = 'whole'\nuncertainty_coef = 1.0\n\
           [eval]\nsplits = ['test']\nmax_new_tokens = 6\n";
    fs::write(home.join("rl.toml"), rl).unwrap();
    run(home, &["train", "rl.toml", "--quiet", "--out", "rl"]);
    for part in ["reward/learned", "reward/learned.deviation"] {
        let values = metric(&home.join("rl"), part);
        assert!(values.len() == 2 && values.iter().all(|value| value.is_finite()), "{part}: {values:?}");
    }
    run(home, &["train", "--resume", "rl", "--quiet", "--set", "rl.steps=3"]);
    run(home, &["plan", "recipe.toml"]);
}

#[test]
fn ties_and_margins_move_the_rewards() {
    let home = home();
    let home = home.path();
    let lead = |name: &str, change: &dyn Fn(String) -> String| {
        let rows = fs::read_to_string(home.join("data/pairs.jsonl")).unwrap();
        fs::write(home.join(format!("data/{name}.jsonl")), change(rows)).unwrap();
        let setting = format!("reward_model.data={name}");
        run(
            home,
            &[
                "train",
                "recipe.toml",
                "--quiet",
                "--out",
                name,
                "--set",
                &setting,
                "--set",
                "reward_model.steps=40",
            ],
        );
        *metric(&home.join(name), "preference/margin").last().unwrap()
    };
    let plain = lead("plain", &|rows| rows.replace("\"margin\":0.5", "\"margin\":0"));
    let wide = lead("wide", &|rows| rows.replace("\"margin\":0.5", "\"margin\":6.0"));
    let tied = lead("tied", &|rows| rows.replace("\"margin\":0.5", "\"margin\":6.0,\"tie\":true"));
    assert!(wide > plain && plain > 1.0 && tied.abs() < 0.05, "{wide} {plain} {tied}");
}

#[test]
fn rows_and_settings_that_cannot_be_are_refused_with_their_place() {
    let home = home();
    let home = home.path();
    let refused = |settings: &[&str]| {
        let mut command = kyoka(home);
        command.args(["train", "recipe.toml", "--quiet", "--out", "no"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let output = command.output().unwrap();
        assert!(!output.status.success() && !home.join("no").exists(), "{settings:?}");
        errors(&output)
    };
    for (settings, expected) in [
        (&["reward_model.heads=0"][..], "reward_model.heads: expected a number from 1 to 16, got 0"),
        (&["reward_model.rows=votes"], "expected one of `pairs`, `labels`, `scores`"),
        (
            &["reward_model.rows=labels", "reward_model.data=scores"],
            "scores.jsonl:1: label: expected true or false, got none, which the stage reward_model needs",
        ),
        (
            &["reward_model.rows=scores", "reward_model.data=labels"],
            "labels.jsonl:1: score: expected a number, got none",
        ),
        (&["reward_model.held_out=labels"], "labels.jsonl:1: chosen: missing"),
        (&["reward_model.held_out=nowhere"], "nowhere"),
        (
            &["reward_model.rows=labels", "reward_model.data=labels", "reward_model.margin=1.0"],
            "reward_model.margin",
        ),
    ] {
        let said = refused(settings);
        assert!(said.contains(expected), "{settings:?}: {said}");
    }
}
