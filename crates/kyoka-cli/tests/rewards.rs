//! Rewards through the command: programs, gates, schedules, rules named by rows; `kyoka reward score` and `check`.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{fs, path::Path};

use support::{errors, kyoka, newest_weights, small_data};

const RECIPE: &str = r#"
[data]
dataset = "data"
[model]
config = "tiny"
[sft]
data = "train"
steps = 4
batch_size = 2
learning_rate = { peak = 1e-3 }
[rl]
data = "train"
steps = 2
prompts_per_step = 2
group_size = 4
sampling = { max_new_tokens = 6 }
learning_rate = { peak = 1e-3 }
[eval]
splits = ["test"]
max_new_tokens = 6
samples = 2
[checkpoints]
every = 1
keep_last = 9
"#;

/// Questions about a picture and a sound, with a column that only the program reads.
fn home(rewards: &str) -> tempfile::TempDir {
    let home = small_data(2);
    let data = home.path().join("data");
    kyoka_testing::write_grey_png(&data.join("a.png"), 28, |x, y| (x * y) as u8);
    kyoka_testing::write_tone(&data.join("a.wav"), 0.1);
    let row = |id: usize| {
        let row = serde_json::json!({
            "id": id, "prompt": "<image><audio> bag", "images": ["a.png"], "audios": ["a.wav"], "answer": "bag",
            "completion": "<think> coat </think> <answer> bag </answer>", "severity": id + 3, "reward": "exact_answer",
        });
        format!("{row}\n")
    };
    for split in ["train", "test"] {
        fs::write(data.join(format!("{split}.jsonl")), row(0) + &row(1)).unwrap();
    }
    fs::write(home.path().join("recipe.toml"), format!("{RECIPE}{rewards}")).unwrap();
    home
}

/// A program that rewards the number of letters `a` in a question, and keeps the last question it was asked.
const JUDGE: &str = r#"while read -r line; do
  printf '%s' "$line" > asked.json
  id=${line#*:}; id=${id%%,*}
  rewards=$(printf '%s' "$line" | sed 's/.*"completions"://' | grep -o '"text":"[^"]*"' | awk '{ n = gsub(/a/, "a"); printf "%s%s", sep, n / 10; sep = "," }')
  echo "{\"id\": $id, \"rewards\": [$rewards]}"
done
"#;

fn run(home: &Path, arguments: &[&str]) -> (String, String) {
    let output = kyoka(home).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", errors(&output));
    (String::from_utf8_lossy(&output.stdout).into_owned(), errors(&output))
}

fn refused(home: &Path, arguments: &[&str]) -> String {
    let output = kyoka(home).args(arguments).output().unwrap();
    assert!(!output.status.success(), "{arguments:?}");
    errors(&output)
}

/// A number of every step of the run's reinforcement learning, from its log.
fn metric(run: &Path, name: &str) -> Vec<f64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter(|line| line["stage"] == "rl").filter_map(|line| line["metrics"][name].as_f64()).collect()
}

const PROGRAM: &str = "[[reward]]\nkind = 'program'\nname = 'judge'\nweight = 1.0\ncommand = ['sh', 'judge.sh']\nconcurrency = 2\n";

#[test]
fn a_program_judges_a_run_that_is_resumed_and_evaluated() {
    let home =
        home(&format!("{PROGRAM}[[reward]]\nkind = 'format'\ngate = true\nform = {{ regex = '.' }}\n"));
    let home = home.path();
    fs::write(home.join("judge.sh"), JUDGE).unwrap();
    run(home, &["train", "recipe.toml", "--quiet", "--out", "halves"]);
    assert_eq!(metric(&home.join("halves"), "reward/judge").len(), 2);
    let asked: serde_json::Value =
        serde_json::from_slice(&fs::read(home.join("asked.json")).unwrap()).unwrap();
    let sample = &asked["sample"];
    assert!(sample["severity"].as_u64().is_some_and(|severity| severity >= 3), "{sample}");
    for (sense, name) in [("images", "a.png"), ("audios", "a.wav")] {
        let path = sample[sense][0].as_str().unwrap();
        assert!(Path::new(path).is_absolute() && path.ends_with(name) && Path::new(path).is_file(), "{path}");
    }
    assert!(asked["completions"][0]["token_ids"].is_array() && asked["progress"]["step"].is_u64());
    // Bits hold: a run in two halves is the run in one.
    run(home, &["train", "--resume", "halves", "--quiet", "--set", "rl.steps=4"]);
    run(home, &["train", "recipe.toml", "--quiet", "--out", "whole", "--set", "rl.steps=4"]);
    assert!(newest_weights(&home.join("halves")) == newest_weights(&home.join("whole")));
    let (evaluated, _) = run(home, &["eval", "whole", "--split", "test"]);
    assert!(evaluated.contains("judge"), "{evaluated}");
}

#[test]
fn a_program_that_fails_is_told_of_and_ends_the_run_where_too_little_is_left() {
    let home = home(PROGRAM);
    let home = home.path();
    // Every third question goes wrong.
    let flaky = JUDGE.replace(
        "id=${line#*:}",
        "n=$((n + 1)); [ $((n % 3)) = 0 ] && echo oh no >&2 && exit 1; id=${line#*:}",
    );
    fs::write(home.join("judge.sh"), flaky).unwrap();
    let once = ["--set", "reward.judge.retries=0", "--set", "reward.judge.concurrency=1"];
    let arguments = [&["train", "recipe.toml", "--out", "run", "--set", "rl.steps=4"][..], &once].concat();
    let (_, said) = run(home, &arguments);
    assert!(!said.contains("nothing reads"), "the program is handed every column: {said}");
    assert!(
        said.contains("judging failed for 4 of 8 completions") && said.contains("it wrote: oh no"),
        "{said}"
    );
    let ungraded = metric(&home.join("run"), "ungraded");
    assert!(!ungraded.is_empty() && ungraded.iter().all(|&count| count == 4.0), "{ungraded:?}");
    let arguments =
        [&["train", "recipe.toml", "--quiet", "--out", "strict", "--set", "rl.max_ungraded=0.1"][..], &once]
            .concat();
    let said = refused(home, &arguments);
    assert!(said.contains("expected at most a share of 0.1 of the completions without a reward (rl.max_ungraded), got 4 of 8"), "{said}");
    assert!(said.contains("the run can go on from"), "{said}");
    // With a judge that works it goes on.
    fs::write(home.join("judge.sh"), JUDGE).unwrap();
    run(home, &["train", "--resume", "strict", "--quiet"]);
    assert_eq!(metric(&home.join("strict"), "reward/judge").len(), 2);
    let evaluate =
        ["eval", "strict", "--split", "test", "--recipe", "recipe.toml", "--set", "reward.judge.retries=0"];
    fs::write(home.join("judge.sh"), "exit 1").unwrap();
    let said = refused(home, &evaluate);
    assert!(
        said.contains("judging failed for 4 of 4 completions, the first time with: program sh judge.sh: row"),
        "{said}"
    );
    let said =
        refused(home, &["train", "recipe.toml", "--quiet", "--set", "reward.judge.command=['./nobody']"]);
    assert!(said.contains("reward.0.command: expected a program that is there, got \"./nobody\""), "{said}");
}

#[test]
fn weights_move_gates_close_and_rows_name_their_rules() {
    let rewards = "[[reward]]\nkind = 'per_row'\nweight = 1.0\n\
        [[reward]]\nkind = 'repetition'\nweight = { from = 4.0, to = 1.0 }\nngram = 1\n\
        [[reward]]\nkind = 'adaptive_length'\nweight = 0.5\n\
        [[reward]]\nkind = 'format'\ngate = true\nform = 'boxed'\n";
    let home = home(rewards);
    let home = home.path();
    let (_, said) = run(home, &["train", "recipe.toml", "--out", "run"]);
    let log = fs::read_to_string(home.join("run/metrics.jsonl")).unwrap();
    for part in ["per_row", "repetition", "adaptive_length", "format"] {
        assert!(log.contains(&format!("\"reward/{part}\":")), "{part}: {log}");
    }
    // Nothing it draws holds a box, so the gate is shut: the total is 0, whatever the parts are.
    assert!(metric(&home.join("run"), "reward/total").iter().all(|total| *total == 0.0));
    assert!(
        said.contains("warning: rewards: every completion scores 0"),
        "the quick look before the run: {said}"
    );
    run(home, &["train", "--resume", "run", "--quiet", "--set", "rl.steps=3"]);
    for (setting, expected) in [
        (
            "reward.repetition.weight={ from = 1.0, to = 0.0, start = 0.9, end = 0.1 }",
            "reward.1.weight.end: expected a number above start = 0.9",
        ),
        ("reward.repetition.weight={ from = 1.0 }", "weight.to: missing"),
        ("reward.format.name=total", "reward.3.name: expected another name"),
        (
            "reward.adaptive_length.weight={ from = 1.0, to = 0.0, by = 'accuracy' }",
            "reward.2.weight.by: expected a reward that reports `accuracy`",
        ),
        ("reward.format.weight=1.0", "reward.3.weight: expected none beside gate = true"),
        ("reward.format.form={ tags = [] }", "reward.3.form.tags: expected at least one name, got none"),
        ("reward.per_row.rules={ a = { kind = 'exact' } }", "did you mean \"exact_answer\"?"),
    ] {
        let said = refused(home, &["train", "recipe.toml", "--quiet", "--set", setting]);
        assert!(said.contains(expected), "{setting}: {said}");
    }
    let rows = fs::read_to_string(home.join("data/train.jsonl")).unwrap();
    fs::write(home.join("data/train.jsonl"), rows.replace("exact_answer", "exakt")).unwrap();
    let said = refused(home, &["train", "recipe.toml", "--quiet"]);
    assert!(
        said.contains("train.jsonl:1: reward: expected a rule (") && said.contains("got \"exakt\""),
        "{said}"
    );
}

#[test]
fn completions_in_a_file_are_scored() {
    let home = home("[[reward]]\nkind = 'exact_answer'\nweight = 1.0\n");
    let home = home.path();
    let rows = [
        serde_json::json!({"id": "a", "answer": "1/2", "completions": ["<answer>0.5</answer>", "<answer>2</answer>"]}),
        serde_json::json!({"id": "b", "prompt": "?", "answer": "7", "completion": "\\boxed{7}"}),
    ];
    fs::write(home.join("in.jsonl"), rows.map(|row| format!("{row}\n")).concat()).unwrap();
    let (_, said) =
        run(home, &["reward", "score", "--kind", "math_answer", "--in", "in.jsonl", "--out", "out.jsonl"]);
    assert_eq!(said.trim(), "2 rows, 3 completions, mean reward 0.6667, 0 ungraded");
    let scored = fs::read_to_string(home.join("out.jsonl")).unwrap();
    let scored: Vec<serde_json::Value> =
        scored.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(scored[0]["id"], "a");
    assert_eq!(
        scored[0]["rewards"][1],
        serde_json::json!({"total": 0.0, "parts": {"accuracy": 0.0}, "right": false})
    );
    assert_eq!(scored[1]["rewards"][0]["total"], 1.0);
    let (text, _) = run(home, &["reward", "score", "--recipe", "recipe.toml", "--in", "in.jsonl"]);
    assert_eq!(text.lines().count(), 2);
    let (text, _) = run(
        home,
        &[
            "reward",
            "score",
            "--kind",
            "numeric_answer",
            "--set",
            "relative_tolerance=0.9",
            "--in",
            "in.jsonl",
        ],
    );
    assert!(text.contains("\"total\":1.0"), "{text}");
    let refused = |arguments: &[&str]| refused(home, &[&["reward", "score"], arguments].concat());
    assert!(refused(&["--kind", "math_anser", "--in", "in.jsonl"]).contains("did you mean `math_answer`?"));
    assert!(refused(&["--kind", "math_answer", "--in", "no.jsonl"]).contains("no.jsonl"));
    assert!(
        refused(&["--kind", "math_answer", "--set", "decimals=99", "--in", "in.jsonl"])
            .contains("decimals: expected at most 12, got 99")
    );
    assert!(refused(&["--in", "in.jsonl"]).contains("--kind"));
    fs::write(
        home.join("bad.jsonl"),
        "{\"id\": 1, \"answer\": \"1\"}\n{\"id\": 2, \"answer\": \"1\", \"completions\": [5]}\n",
    )
    .unwrap();
    let scores = fs::read_to_string(home.join("out.jsonl")).unwrap();
    for (out, expected) in [
        ("in.jsonl", "is the file with the rows"),
        ("data", "got a folder"),
        ("no/out.jsonl", "expected a folder that is there"),
    ] {
        let said = refused(&["--kind", "math_answer", "--in", "in.jsonl", "--out", out]);
        assert!(said.contains(expected), "{out}: {said}");
    }
    assert!(fs::read_to_string(home.join("in.jsonl")).unwrap().contains("1/2"));
    std::os::unix::fs::symlink("out.jsonl", home.join("link.jsonl")).unwrap();
    run(home, &["reward", "score", "--kind", "math_answer", "--in", "in.jsonl", "--out", "link.jsonl"]);
    assert!(
        home.join("link.jsonl").is_symlink() && fs::read_to_string(home.join("out.jsonl")).unwrap() == scores
    );
    run(home, &["reward", "score", "--kind", "math_answer", "--in", "in.jsonl", "--out", "/dev/null"]);
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
    let said = refused(&[
        "--kind",
        "program",
        "--set",
        "command=['false']",
        "--set",
        "retries=0",
        "--in",
        "in.jsonl",
    ]);
    assert!(said.contains("mean reward none, 3 ungraded") && said.contains("expected an answer"), "{said}");
    let said = refused(&["--kind", "exact_answer", "--in", "bad.jsonl"]);
    assert!(
        said.contains("bad.jsonl:1: completions: expected a completion")
            && said.contains("bad.jsonl:2: completions: expected texts, got 5"),
        "{said}"
    );
}

#[test]
fn a_checkpoint_in_this_process_judges() {
    let home = home("[[reward]]\nkind = 'exact_answer'\nweight = 1.0\n");
    let home = home.path();
    let judge = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/found/system_prompt_is_read/ckpt");
    fs::write(home.join("in.jsonl"), "{\"id\": 1, \"prompt\": \"?\", \"completion\": \"a cup\"}\n").unwrap();
    fs::write(home.join("rubric.md"), "Be short.").unwrap();
    let checkpoint = format!("checkpoint={judge:?}");
    let settings = ["--set", checkpoint.as_str(), "--set", "rubric=rubric.md", "--set", "max_new_tokens=8"];
    let said =
        refused(home, &[&["reward", "score", "--kind", "judge", "--in", "in.jsonl"][..], &settings].concat());
    // It has not learned to judge, and what it says is no verdict, or too long.
    assert!(said.contains("row 1: expected a"), "{said}");
    let said = refused(
        home,
        &["reward", "score", "--kind", "judge", "--set", "checkpoint=nowhere", "--in", "in.jsonl"],
    );
    assert!(said.contains("nowhere"), "{said}");
}

#[test]
fn a_recipes_rewards_are_looked_at_before_a_run() {
    let home =
        home("[[reward]]\nkind = 'exact_answer'\nweight = 1.0\n[[reward]]\nkind = 'format'\nweight = 0.1\n");
    let home = home.path();
    let rows = fs::read_to_string(home.join("data/train.jsonl")).unwrap();
    let other = rows.lines().next().unwrap().replace("bag", "shoe");
    fs::write(home.join("data/train.jsonl"), format!("{rows}{other}\n")).unwrap();
    let (table, _) = run(home, &["reward", "check", "recipe.toml"]);
    let line = |name: &str| {
        table
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert!(table.starts_with("3 rows of train") && table.ends_with("nothing odd\n"), "{table}");
    assert_eq!(line("gold  "), "gold 1.000 1.000 1.100");
    assert_eq!(line("wrong  "), "wrong 0.000 1.000 0.100");
    assert_eq!(line("empty"), "empty 0.000 0.000 0.000");
    let (json, _) = run(home, &["reward", "check", "recipe.toml", "--rows", "2", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["rows"], &json["probes"][0]["means"]["accuracy"]), (&2.into(), &1.0.into()));
    let odd =
        fs::read_to_string(home.join("data/train.jsonl")).unwrap().replace("<answer> bag", "<answer> a bag");
    fs::write(home.join("data/train.jsonl"), odd).unwrap();
    let (table, _) = run(home, &["reward", "check", "recipe.toml"]);
    assert!(table.contains("warning: the gold completion does not score as right (row 0)"), "{table}");
}
