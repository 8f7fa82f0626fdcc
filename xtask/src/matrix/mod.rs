//! `cargo xtask matrix`: every family of checkpoints through every command, as a user would type it, with real pictures and
//! sounds and default settings.

mod subjects;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

pub use self::subjects::{Subject, subjects};
use crate::{kyoka_command::KyokaCommand, try_all::try_all};

/// What is asked.
#[derive(Args)]
pub struct MatrixArgs {
    /// Families to run; all when none is named
    families: Vec<String>,
    /// The command to try [default: the one beside this program, built when it is not there]
    #[arg(long, value_name = "FILE")]
    kyoka: Option<PathBuf>,
}

/// Runs the matrix and prints a line a family; fails if a cell fails.
pub fn run(root: &Path, arguments: &MatrixArgs) -> Result<()> {
    let kyoka = KyokaCommand::find(root, arguments.kyoka.as_deref())?;
    let mut all = subjects(root);
    let known: Vec<&str> = all.iter().map(|subject| subject.name).collect();
    if let Some(unknown) = arguments.families.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("matrix: no family {unknown} (known: {})", known.join(", "));
    }
    if !arguments.families.is_empty() {
        all.retain(|subject| arguments.families.iter().any(|name| name == subject.name));
    }
    try_all(
        "families",
        &all,
        |subject| subject.name,
        |subject| {
            let home = tempfile::tempdir().context("a folder")?;
            let calls = Trial { kyoka: &kyoka, home: home.path(), subject }.run()?;
            Ok(format!("{calls:>2} calls good"))
        },
    )
}

/// One family in a folder of its own.
struct Trial<'a> {
    kyoka: &'a KyokaCommand,
    home: &'a Path,
    subject: &'a Subject,
}

/// A stage of each kind, and what every recipe has.
const STAGES: &str = "
[sft]
data = 'train'
steps = 2
batch_size = 2
learning_rate = { peak = 1e-3 }

[preference]
data = 'pairs'
steps = 2
batch_size = 2
learning_rate = { peak = 1e-3 }

[reward_model]
data = 'pairs'
steps = 2
batch_size = 2
learning_rate = { peak = 1e-3 }

[rl]
data = 'train'
steps = 2
prompts_per_step = 2
group_size = 4
sampling = { max_new_tokens = 8 }
learning_rate = { peak = 1e-3 }

[[reward]]
kind = 'exact_answer'
weight = 1.0

[[reward]]
kind = 'soft_overlong'
buffer_tokens = 6
weight = 1.0

[eval]
splits = ['test']
max_new_tokens = 6
";

impl Trial<'_> {
    /// All commands in turn; the number of calls that were made.
    fn run(&self) -> Result<usize> {
        let Self { subject, home, .. } = *self;
        subject.write(home)?;
        let recipe = |name: &str, model: &str| {
            std::fs::write(
                home.join(name),
                format!("[data]\ndataset = 'data'\n[model]\n{}\n{model}{STAGES}", subject.model),
            )
        };
        recipe("whole.toml", "")?;
        let mut calls = 0;
        let mut call = |arguments: &[&str]| {
            calls += 1;
            self.kyoka.call(self.home, arguments, None)
        };
        call(&["data", "check", "data/train.jsonl"])?;
        call(&["plan", "whole.toml"])?;
        call(&["train", "whole.toml", "--out", "run", "--quiet"])?;
        call(&["eval", "run", "--split", "test"])?;
        for sense in subject.senses() {
            call(&["eval", "run", "--split", "test", "--blank", sense])?;
        }
        self.resumes(&mut call)?;
        let media: Vec<&str> = subject.media().collect();
        let asked = [&["--prompt", "t20 t21", "--max-new-tokens", "6"][..], media.as_slice()].concat();
        let of_run = call(&[&["generate", "--model", "run"][..], asked.as_slice()].concat())?;
        if subject.is_checkpoint {
            call(&["export", "run", "--to", "out"])?;
            let of_export = call(&[&["generate", "--model", "out"][..], asked.as_slice()].concat())?;
            ensure!(of_export == of_run, "the export answers {of_export:?}, the run {of_run:?}");
            recipe("lora.toml", "lora = { rank = 2 }\n")?;
            call(&["train", "lora.toml", "--out", "lora", "--quiet"])?;
            let of_run = call(&[&["generate", "--model", "lora"][..], asked.as_slice()].concat())?;
            call(&["export", "lora", "--to", "adapter"])?;
            call(&["export", "lora", "--to", "merged", "--merge"])?;
            let adapted = ["generate", "--model", "model", "--adapter", "adapter"];
            for arguments in [&adapted[..], &["generate", "--model", "merged"]] {
                let answer = call(&[arguments, asked.as_slice()].concat())?;
                ensure!(answer == of_run, "{arguments:?} answers {answer:?}, the run {of_run:?}");
            }
            let lines: String = subject.chat_lines().map(|line| line + "\n").collect();
            let answer = self.kyoka.call(
                self.home,
                &["chat", "--model", "run", "--max-new-tokens", "4"],
                Some(&lines),
            )?;
            ensure!(answer.lines().count() >= 2, "two questions, and these answers: {answer:?}");
            calls += 1;
        }
        Ok(calls)
    }

    /// A run that is stopped after its first step of RL ends as the one that was not.
    fn resumes(&self, call: &mut dyn FnMut(&[&str]) -> Result<String>) -> Result<()> {
        let short = ["--set", "rl.steps=1"];
        call(&[&["train", "whole.toml", "--out", "again", "--quiet"][..], &short[..]].concat())?;
        call(&["train", "--resume", "again", "--quiet", "--set", "rl.steps=2"])?;
        let weights = |run: &str| {
            let newest = newest_checkpoint(&self.home.join(run).join("checkpoints"))?;
            std::fs::read(newest.join("model.safetensors")).with_context(|| newest.display().to_string())
        };
        ensure!(weights("run")? == weights("again")?, "the resumed run ends with other weights");
        Ok(())
    }
}

/// The last checkpoint of a run, by its number.
fn newest_checkpoint(folder: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut numbered: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    numbered.retain(|path| path.join("state.json").is_file() && !path.ends_with("best"));
    numbered.sort();
    numbered.pop().with_context(|| format!("{}: no checkpoint", folder.display()))
}
