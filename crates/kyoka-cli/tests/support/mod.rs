//! Runs the built command on small inputs.
#![allow(dead_code, reason = "each test file uses some of these helpers")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The command, with its data under `home`.
pub fn kyoka(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kyoka"));
    command.env("KYOKA_DATA_DIR", home.join("bundled")).current_dir(home);
    command
}

/// Settings that make the main recipe take seconds.
pub fn tiny_run(command: &mut Command) -> &mut Command {
    for setting in [
        "sft.steps=4",
        "sft.batch_size=4",
        "rl.steps=5",
        "rl.prompts_per_step=2",
        "rl.group_size=3",
        "rl.sampling.max_new_tokens=8",
        "rl.eval_every=2",
        "eval.max_rows=3",
        "eval.max_new_tokens=8",
        "checkpoints.every=1",
    ] {
        command.args(["--set", setting]);
    }
    command
}

/// What went to standard error.
pub fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A recipe of two stages over small pictures, whose steps take milliseconds.
const RECIPE: &str = r#"
[data]
dataset = "data"
[model]
config = "tiny"
[sft]
data = "train"
steps = 1
batch_size = 2
learning_rate = { peak = 1e-3 }
[rl]
data = "train"
steps = 2
prompts_per_step = 2
group_size = 2
sampling = { max_new_tokens = 8 }
learning_rate = { peak = 1e-4 }
algorithm = "grpo"
[[reward]]
kind = "exact_answer"
weight = 1.0
[[reward]]
kind = "format"
weight = 0.1
[eval]
splits = ["test"]
max_new_tokens = 8
"#;

/// A folder with `recipe.toml` and `data`: splits `train` and `test` of rows with a picture each.
pub fn small_data(num_rows: usize) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    fs::create_dir(&data).unwrap();
    let tokenizer = include_bytes!("../../../kyoka-text/tests/tiny_tokenizer.json");
    fs::write(data.join("tokenizer.json"), tokenizer).unwrap();
    let mut rows = String::new();
    for number in 0..num_rows {
        kyoka_testing::write_grey_png(&data.join(format!("{number}.png")), 8, |x, y| {
            (number as u32 + x * y) as u8
        });
        let answer = number % 3;
        rows += &format!(
            "{{\"id\": \"r{number}\", \"prompt\": \"<image> q\", \"images\": [\"{number}.png\"], \"answer\": \"{answer}\", \
             \"completion\": \"<think> a </think> <answer> {answer} </answer>\"}}\n"
        );
    }
    for split in ["train", "test"] {
        fs::write(data.join(format!("{split}.jsonl")), &rows).unwrap();
    }
    fs::write(home.path().join("recipe.toml"), RECIPE).unwrap();
    home
}

/// Weights of a run's newest checkpoint.
pub fn newest_weights(run: &Path) -> Vec<u8> {
    let mut checkpoints: Vec<PathBuf> = fs::read_dir(run.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap() != "best")
        .collect();
    checkpoints.sort();
    fs::read(checkpoints.pop().unwrap().join("model.safetensors")).unwrap()
}
