//! `cargo xtask unchanged`: short runs whose weights and metrics a change of structure must leave as they are.
//!
//! `--before FILE` trains every recipe with that `kyoka` too and wants the same bits in every checkpoint, metric and sample.
//! Bits differ between processors, so without it the metrics are held against recorded ones, within a tolerance.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::Value;

use crate::{
    kyoka_command::KyokaCommand,
    matrix::{Subject, subjects},
    try_all::try_all,
};

/// What is asked.
#[derive(Args)]
pub struct UnchangedArgs {
    /// Recipes to run; all when none is named
    recipes: Vec<String>,
    /// The command of the commit before: bits are compared with its runs
    #[arg(long, value_name = "FILE", conflicts_with = "record")]
    before: Option<PathBuf>,
    /// The command to try [default: the one beside this program, built when it is not there]
    #[arg(long, value_name = "FILE")]
    kyoka: Option<PathBuf>,
    /// Write the metrics down as the ones to hold to: where a change is meant
    #[arg(long)]
    record: bool,
}

/// A short run.
struct Case {
    name: &'static str,
    /// A policy of the matrix, with its rows; none trains `spoken-count` from scratch.
    subject: Option<&'static str>,
    /// Further lines of `[model]`.
    model: &'static str,
    /// The stage after `[sft]`.
    stage: &'static str,
}

/// Eight ways through the trainer; policies from scratch, composed and loaded, whole and with LoRA.
const CASES: [Case; 8] = [
    Case {
        name: "grpo",
        subject: None,
        model: "",
        stage: "[rl]\nalgorithm = { preset = 'grpo', kl_coef = 0.01, mini_batches = 2 }\n",
    },
    Case { name: "process_grpo", subject: None, model: "", stage: "[rl]\nalgorithm = 'process_grpo'\n" },
    Case { name: "dapo", subject: Some("composed"), model: "", stage: "[rl]\nalgorithm = 'dapo'\n" },
    Case {
        name: "gspo",
        subject: Some("smolvlm_tiles"),
        model: "",
        stage: "[rl]\nalgorithm = { preset = 'gspo', mini_batches = 2, updates_per_batch = 2 }\n",
    },
    Case {
        name: "ppo",
        subject: Some("qwen2_audio"),
        model: "lora = { rank = 2 }\n",
        stage: "[rl]\nalgorithm = 'ppo'\n",
    },
    Case {
        name: "vapo",
        subject: None,
        model: "",
        stage: "[rl]\nalgorithm = { preset = 'vapo', critic_pretrain_steps = 2 }\n",
    },
    Case { name: "dpo", subject: Some("qwen2_vl"), model: "", stage: "[preference]\nalgorithm = 'dpo'\n" },
    Case { name: "reward_model", subject: Some("composed"), model: "", stage: "[reward_model]\n" },
];

const SFT: &str = "
[sft]
data = 'TRAIN'
steps = 5
batch_size = 4
learning_rate = { peak = 1e-3, warmup_steps = 2 }
";

const RL: &str = "data = 'TRAIN'
steps = 5
prompts_per_step = 4
group_size = 4
sampling = { max_new_tokens = 10 }
learning_rate = { peak = 1e-3 }
eval_every = 3
";

const PAIRS: &str = "data = 'pairs'
steps = 5
batch_size = 2
learning_rate = { peak = 1e-3 }
";

/// A policy that has learned nothing earns by its completions' lengths, which differ.
const JUDGED: &str = "
[[reward]]
kind = 'soft_overlong'
buffer_tokens = 8
weight = 1.0

[[reward]]
kind = 'exact_answer'
weight = 1.0
";

const STEPS: &str = "
[[reward]]
kind = 'step_accuracy'
weight = 0.1
names = ['heard', 'tile']

[[reward]]
kind = 'running_count'
weight = 0.1
";

const AUGMENT: &str = "
[augment.image]
shift = 2
mirror = true
[augment.audio]
max_delay_s = 0.15
max_gain_db = 6.0
max_noise = 0.2
";

/// Runs the recipes and compares; fails where a run is another than it was.
pub fn run(root: &Path, arguments: &UnchangedArgs) -> Result<()> {
    let kyoka = KyokaCommand::find(root, arguments.kyoka.as_deref())?;
    let before = arguments.before.as_deref().map(|path| KyokaCommand::find(root, Some(path))).transpose()?;
    let named =
        |case: &&Case| arguments.recipes.is_empty() || arguments.recipes.iter().any(|n| n == case.name);
    if let Some(unknown) = arguments.recipes.iter().find(|name| CASES.iter().all(|case| case.name != *name)) {
        bail!("unchanged: no recipe {unknown} (known: {})", CASES.map(|case| case.name).join(", "));
    }
    let cases: Vec<&Case> = CASES.iter().filter(named).collect();
    let recorded = root.join("xtask/tests/unchanged");
    try_all(
        "recipes",
        &cases,
        |case| case.name,
        |case| {
            let home = tempfile::tempdir().context("a folder")?;
            case.write(root, home.path())?;
            kyoka.call(home.path(), &["train", "recipe.toml", "--out", "now", "--quiet"], None)?;
            let now = home.path().join("now");
            if let Some(before) = &before {
                before.call(home.path(), &["train", "recipe.toml", "--out", "then", "--quiet"], None)?;
                return same_bits(&home.path().join("then"), &now);
            }
            let golden = recorded.join(format!("{}.jsonl", case.name));
            let lines = metric_lines(&now)?;
            if arguments.record {
                let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
                fs::create_dir_all(&recorded)?;
                fs::write(&golden, text).with_context(|| golden.display().to_string())?;
                return Ok(format!("{} lines recorded", lines.len()));
            }
            let text = fs::read_to_string(&golden).with_context(|| golden.display().to_string())?;
            let then = text.lines().map(serde_json::from_str).collect::<serde_json::Result<Vec<Value>>>()?;
            close(&then, &lines)
        },
    )
}

impl Case {
    /// Writes recipe, rows and checkpoint into `home`.
    fn write(&self, root: &Path, home: &Path) -> Result<()> {
        let subject = subjects(root).into_iter().find(|subject| Some(subject.name) == self.subject);
        let (data, model, steps) = match &subject {
            Some(Subject { model, .. }) => ("data", model.as_str(), ""),
            None => ("spoken-count", "config = 'tiny'", STEPS),
        };
        let eval = match &subject {
            Some(_) => "[eval]\nsplits = ['test']\nmax_new_tokens = 10\n",
            None => "[eval]\nsplits = ['val']\nmax_rows = 16\nmax_new_tokens = 12\n",
        };
        if let Some(subject) = &subject {
            subject.write(home)?;
        }
        let settings = if self.stage.starts_with("[rl]") { RL } else { PAIRS };
        let train = if subject.is_some() { "train" } else { "sft" };
        let recipe = format!(
            "[data]\ndataset = '{data}'\n[model]\n{model}\n{}{AUGMENT}{SFT}{}{settings}{JUDGED}{steps}{eval}",
            self.model, self.stage
        );
        Ok(fs::write(home.join("recipe.toml"), recipe.replace("TRAIN", train))?)
    }
}

/// Wants the same bytes of weights, optimizer and samples, and the same metrics apart from times.
fn same_bits(then: &Path, now: &Path) -> Result<String> {
    let files = |run: &Path| -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for checkpoint in fs::read_dir(run.join("checkpoints"))? {
            for entry in fs::read_dir(checkpoint?.path())? {
                let path = entry?.path();
                if path.extension().is_some_and(|ending| ending == "safetensors") {
                    files.push(path.strip_prefix(run)?.to_owned());
                }
            }
        }
        files.sort();
        Ok(files)
    };
    let (before, after) = (files(then)?, files(now)?);
    ensure!(before == after, "checkpoints were {before:?}, are {after:?}");
    ensure!(!after.is_empty(), "{}: no checkpoint", now.display());
    for file in after.iter().map(PathBuf::as_path).chain([Path::new("samples.jsonl")]) {
        ensure!(fs::read(then.join(file))? == fs::read(now.join(file))?, "{}: other bytes", file.display());
    }
    let (before, lines) = (metric_lines(then)?, metric_lines(now)?);
    for (number, (before, now)) in before.iter().zip(&lines).enumerate() {
        ensure!(before == now, "metrics, line {}: was\n{before}\nis\n{now}", number + 1);
    }
    ensure!(before.len() == lines.len(), "{} lines of metrics, were {}", lines.len(), before.len());
    Ok(format!("{} files and {} lines of metrics equal", after.len() + 1, lines.len()))
}

/// The lines of a run's metrics, without what a clock says.
fn metric_lines(run: &Path) -> Result<Vec<Value>> {
    let path = run.join("metrics.jsonl");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut lines = text.lines().map(serde_json::from_str).collect::<serde_json::Result<Vec<Value>>>()?;
    for line in &mut lines {
        if let Some(metrics) = line.get_mut("metrics").and_then(Value::as_object_mut) {
            metrics.retain(|name, _| !name.starts_with("time/"));
        }
    }
    ensure!(!lines.is_empty(), "{}: no metrics", path.display());
    Ok(lines)
}

/// Share of a number by which another processor's may differ, and what is added for numbers near 0.
const TOLERANCE: (f64, f64) = (0.02, 2e-3);

/// Wants the same metrics within a tolerance.
fn close(then: &[Value], now: &[Value]) -> Result<String> {
    ensure!(then.len() == now.len(), "{} lines of metrics, recorded are {}", now.len(), then.len());
    for (number, (then, now)) in then.iter().zip(now).enumerate() {
        compare(&format!("line {}", number + 1), then, now)?;
    }
    Ok(format!("{} lines of metrics as recorded", now.len()))
}

fn compare(place: &str, then: &Value, now: &Value) -> Result<()> {
    match (then, now) {
        (Value::Object(a), Value::Object(b)) => {
            let names = |map: &serde_json::Map<String, Value>| map.keys().cloned().collect::<Vec<String>>();
            ensure!(names(a) == names(b), "{place}: recorded are {:?}, got {:?}", names(a), names(b));
            a.iter().try_for_each(|(name, value)| compare(&format!("{place}, {name}"), value, &b[name]))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).try_for_each(|(a, b)| compare(place, a, b))
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap_or(f64::NAN), b.as_f64().unwrap_or(f64::NAN));
            let most = TOLERANCE.0 * a.abs() + TOLERANCE.1;
            ensure!((a - b).abs() <= most, "{place}: recorded is {a}, got {b}, at most {most} apart");
            Ok(())
        }
        _ => {
            ensure!(then == now, "{place}: recorded is {then}, got {now}");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run_of(metrics: &str, weights: &[u8]) -> tempfile::TempDir {
        let run = tempfile::tempdir().unwrap();
        let checkpoint = run.path().join("checkpoints/0-sft-000001");
        fs::create_dir_all(&checkpoint).unwrap();
        fs::write(checkpoint.join("model.safetensors"), weights).unwrap();
        fs::write(run.path().join("samples.jsonl"), "").unwrap();
        fs::write(run.path().join("metrics.jsonl"), metrics).unwrap();
        run
    }

    #[test]
    fn a_bit_of_a_weight_or_a_metric_is_a_change_and_a_time_is_none() {
        let line = |loss: &str, seconds: u32| {
            format!("{{\"step\":1,\"metrics\":{{\"loss\":{loss},\"time/train_s\":{seconds}}}}}\n")
        };
        let then = run_of(&line("0.5", 1), b"abc");
        let same =
            |run: &tempfile::TempDir| same_bits(then.path(), run.path()).map_err(|error| error.to_string());
        assert!(same(&run_of(&line("0.5", 2), b"abc")).is_ok());
        assert!(
            same(&run_of(&line("0.5", 1), b"abd")).unwrap_err().contains("model.safetensors: other bytes")
        );
        assert!(same(&run_of(&line("0.5000000000000001", 1), b"abc")).unwrap_err().contains("line 1: was"));
        assert!(same(&run_of(&line("0.5", 1).repeat(2), b"abc")).unwrap_err().contains("2 lines"));
    }

    #[test]
    fn recorded_metrics_hold_within_the_tolerance() {
        let then = [json!({"stage": "sft", "metrics": {"loss": 2.0}})];
        assert!(close(&then, &[json!({"stage": "sft", "metrics": {"loss": 2.04}})]).is_ok());
        let far = close(&then, &[json!({"stage": "sft", "metrics": {"loss": 2.1}})]).unwrap_err().to_string();
        assert!(far.starts_with("line 1, metrics, loss: recorded is 2, got 2.1"), "{far}");
        assert!(close(&then, &[json!({"stage": "rl", "metrics": {"loss": 2.0}})]).is_err());
        assert!(close(&then, &[json!({"stage": "sft", "metrics": {}})]).is_err());
        assert!(close(&then, &[]).is_err());
    }
}
