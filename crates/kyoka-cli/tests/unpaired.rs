//! Learning from single judgements, from the recipe to the checkpoint, with pictures and sounds.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[expect(dead_code, reason = "each test file uses some of these helpers")]
#[path = "support/golden.rs"]
mod golden_checkpoints;
mod support;

use std::{fs, path::Path};

use golden_checkpoints::{PROCESSORS, with_processor};
use support::{errors, kyoka, newest_weights, small_data};

const RECIPE: &str = r#"
[data]
dataset = "data"
[model]
config = "tiny"
[unpaired_preference]
data = "judged"
steps = 12
batch_size = 4
learning_rate = { peak = 1e-3 }
[[reward]]
kind = "exact_answer"
weight = 1.0
answer = "whole"
[eval]
splits = ["test"]
max_new_tokens = 6
"#;

/// Two pictures; of a light one people want to read `good`, of a dark one `bad`.
fn home(words: [&str; 2]) -> tempfile::TempDir {
    let home = small_data(2);
    let data = home.path().join("data");
    kyoka_testing::write_tone(&data.join("a.wav"), 0.1);
    let (mut rows, mut questions) = (String::new(), String::new());
    for (light, right) in words.iter().enumerate() {
        let name = format!("{light}.png");
        kyoka_testing::write_grey_png(&data.join(&name), 28, |_, _| if light == 1 { 230 } else { 20 });
        let row = |id: String| serde_json::json!({"id": id, "prompt": "<image><audio> q", "images": [name], "audios": ["a.wav"], "answer": right});
        questions += &format!("{}\n", row(format!("q{light}")));
        for word in words {
            let mut row = row(format!("{light}{word}"));
            row["completion"] = (*word).into();
            row["label"] = (word == *right).into();
            rows += &format!("{row}\n");
        }
    }
    fs::write(data.join("judged.jsonl"), rows).unwrap();
    fs::write(data.join("test.jsonl"), questions).unwrap();
    fs::write(home.path().join("recipe.toml"), RECIPE).unwrap();
    home
}

fn run(home: &Path, arguments: &[&str]) -> String {
    let output = kyoka(home).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", errors(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A number of every step, from the run's log.
fn metric(run: &Path, name: &str) -> Vec<f64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter_map(|line| line["metrics"][name].as_f64()).collect()
}

#[test]
fn labels_pull_both_kinds_of_completions_apart_under_both_losses() {
    let home = home(["coat", "bag"]);
    let home = home.path();
    for (algorithm, number) in [("kto", "preference/reference_point"), ("bco", "preference/reward_shift")] {
        let setting = format!("unpaired_preference.algorithm={algorithm}");
        run(home, &["train", "recipe.toml", "--quiet", "--out", algorithm, "--set", &setting]);
        let margins = metric(&home.join(algorithm), "preference/margin");
        assert!(margins[0].abs() < 1e-6, "policy and reference are one at first: {margins:?}");
        assert!(margins.last().is_some_and(|margin| *margin > 0.05), "{algorithm}: {margins:?}");
        assert_eq!(metric(&home.join(algorithm), number).len(), 12);
    }
    // Answers of one word are told apart by a classifier unless the recipe says otherwise.
    run(home, &["train", "recipe.toml", "--quiet", "--out", "default"]);
    assert!(newest_weights(&home.join("default")) == newest_weights(&home.join("bco")));
    let long = home_of_long_answers();
    run(long.path(), &["train", "recipe.toml", "--quiet", "--out", "run"]);
    assert_eq!(metric(&long.path().join("run"), "preference/reference_point").len(), 12, "KTO");
}

fn home_of_long_answers() -> tempfile::TempDir {
    home(["coat bag coat bag", "bag coat bag coat"])
}

#[test]
fn a_run_is_resumed_bit_for_bit_planned_and_evaluated() {
    let home = home(["coat", "bag"]);
    let home = home.path();
    for algorithm in ["kto", "bco"] {
        let setting = format!("unpaired_preference.algorithm={algorithm}");
        let half = format!("{algorithm}-half");
        let first = ["train", "recipe.toml", "--quiet", "--set", &setting];
        let out = |name: &'_ str, steps: &'_ str| -> Vec<String> {
            first.iter().copied().chain(["--out", name, "--set", steps]).map(str::to_owned).collect()
        };
        let whole: Vec<String> = out(algorithm, "unpaired_preference.steps=6");
        let begun: Vec<String> = out(&half, "unpaired_preference.steps=3");
        run(home, &whole.iter().map(String::as_str).collect::<Vec<_>>());
        run(home, &begun.iter().map(String::as_str).collect::<Vec<_>>());
        run(home, &["train", "--resume", &half, "--quiet", "--set", "unpaired_preference.steps=6"]);
        assert!(newest_weights(&home.join(algorithm)) == newest_weights(&home.join(&half)), "{algorithm}");
    }
    assert!(run(home, &["plan", "recipe.toml"]).contains("unpaired_preference"));
    assert!(run(home, &["eval", "bco", "--split", "test"]).contains("accuracy"));
}

#[test]
fn a_checkpoint_that_sees_learns_from_labels_is_rewarded_by_a_program_and_written_back() {
    let checkpoint = with_processor(PROCESSORS[0].0, PROCESSORS[0].1);
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    fs::create_dir(home.join("data")).unwrap();
    kyoka_testing::write_grey_png(&home.join("data/a.png"), 24, |x, y| (x * y) as u8);
    let row = |id: usize, label: bool| {
        let row = serde_json::json!({
            "id": id, "prompt": "<image> t5 t6", "images": ["a.png"], "completion": format!("t{}", 7 + id), "label": label,
            "answer": "t8",
        });
        format!("{row}\n")
    };
    fs::write(home.join("data/rows.jsonl"), row(0, false) + &row(1, true)).unwrap();
    let recipe = format!(
        "[data]\ndataset = 'data'\n[model]\ncheckpoint = {:?}\n\
         [unpaired_preference]\ndata = 'rows'\nsteps = 3\nbatch_size = 2\nlearning_rate = {{ peak = 1e-3 }}\n\
         [rl]\ndata = 'rows'\nsteps = 1\nprompts_per_step = 2\ngroup_size = 4\nsampling = {{ max_new_tokens = 3 }}\n\
         learning_rate = {{ peak = 1e-3 }}\n\
         [[reward]]\nkind = 'program'\nweight = 1.0\ncommand = ['sh', 'judge.sh']\n\
         [eval]\nsplits = ['rows']\nmax_new_tokens = 3\n",
        checkpoint.path()
    );
    fs::write(home.join("recipe.toml"), recipe).unwrap();
    let judge = "while read -r line; do id=${line#*:}; id=${id%%,*}; n=$(printf '%s' \"$line\" | grep -o token_ids | wc -l)\n\
                 echo \"{\\\"id\\\": $id, \\\"rewards\\\": [$(seq -s, 1 $n)]}\"; done\n";
    fs::write(home.join("judge.sh"), judge).unwrap();
    run(home, &["train", "recipe.toml", "--quiet", "--out", "run"]);
    assert!(metric(&home.join("run"), "preference/margin").last().is_some_and(|margin| *margin > 0.0));
    assert_eq!(metric(&home.join("run"), "reward/program"), [2.5]);
    run(home, &["train", "--resume", "run", "--quiet", "--set", "rl.steps=2"]);
    run(home, &["export", "run", "--to", "out"]);
    let evaluated = run(
        home,
        &[
            "eval",
            "out",
            "--dataset",
            "data",
            "--split",
            "rows",
            "--reward",
            "exact_answer",
            "--max-new-tokens",
            "3",
        ],
    );
    assert!(evaluated.contains("accuracy"), "{evaluated}");
}

#[test]
fn rows_and_settings_that_cannot_be_are_refused_with_their_place() {
    let home = home(["coat", "bag"]);
    let home = home.path();
    let refused = |arguments: &[&str]| {
        let output = kyoka(home)
            .args(["train", "recipe.toml", "--quiet", "--out", "no"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(!output.status.success() && !home.join("no").exists(), "{arguments:?}");
        errors(&output)
    };
    for (setting, expected) in [
        ("unpaired_preference.algorithm='dpo'", "expected `kto` or `bco`"),
        (
            "unpaired_preference.algorithm={ loss = 'kto', beta = 0.0 }",
            "unpaired_preference.algorithm.beta: expected a finite number above 0, got 0",
        ),
        ("unpaired_preference.batch_size=0", "unpaired_preference.batch_size: expected at least 1, got 0"),
        ("unpaired_preference.algorithm={ gamma = 1.0 }", "gamma"),
    ] {
        let said = refused(&["--set", setting]);
        assert!(said.contains(expected), "{setting}: {said}");
    }
    let file = home.join("data/judged.jsonl");
    let rows = fs::read_to_string(&file).unwrap();
    fs::write(&file, rows.replacen("\"label\":true", "\"label\":\"accept\"", 1)).unwrap();
    let said = refused(&[]);
    assert!(
        said.contains(
            "judged.jsonl:1: label: expected true or false, got \"accept\", which the stage unpaired_preference needs"
        ),
        "{said}"
    );
    fs::write(&file, rows.replacen("\"completion\":\"coat\",", "", 1)).unwrap();
    assert!(refused(&[]).contains("judged.jsonl:1: completion"));
}
