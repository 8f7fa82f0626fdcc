//! `cargo xtask matrix`: every family of checkpoints through every command, as a user would type it, with real pictures and
//! sounds and default settings.

mod subjects;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Mutex,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use self::subjects::{Subject, subjects};

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
    let kyoka = command(root, arguments.kyoka.as_deref())?;
    let mut all = subjects(root);
    let known: Vec<&str> = all.iter().map(|subject| subject.name).collect();
    if let Some(unknown) = arguments.families.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("matrix: no family {unknown} (known: {})", known.join(", "));
    }
    if !arguments.families.is_empty() {
        all.retain(|subject| arguments.families.iter().any(|name| name == subject.name));
    }
    let queue = Mutex::new(all.iter());
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some(subject) = queue.lock().expect("no thread panics").next() else { return };
                    let started = Instant::now();
                    let outcome = tempfile::tempdir()
                        .context("a folder")
                        .and_then(|home| Trial { kyoka: &kyoka, home: home.path(), subject }.run());
                    let seconds = started.elapsed().as_secs_f64();
                    match outcome {
                        Ok(calls) => println!("{:<22} {calls:>2} calls good, {seconds:.1} s", subject.name),
                        Err(error) => {
                            println!("{:<22} FAILED", subject.name);
                            failures
                                .lock()
                                .expect("no thread panics")
                                .push(format!("{}: {error:#}", subject.name));
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no thread panics");
    ensure!(
        failures.is_empty(),
        "{} of {} families failed\n\n{}",
        failures.len(),
        all.len(),
        failures.join("\n\n")
    );
    Ok(())
}

/// The command that is tried.
fn command(root: &Path, given: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = given {
        return path.canonicalize().with_context(|| path.display().to_string());
    }
    let beside = std::env::current_exe()?.with_file_name(format!("kyoka{}", std::env::consts::EXE_SUFFIX));
    if !beside.is_file() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status =
            Command::new(cargo).args(["build", "--package", "kyoka-cli"]).current_dir(root).status()?;
        ensure!(
            status.success() && beside.is_file(),
            "cargo build --package kyoka-cli left no {}",
            beside.display()
        );
    }
    Ok(beside)
}

/// One family in a folder of its own.
struct Trial<'a> {
    kyoka: &'a Path,
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
            self.call(arguments, None)
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
            let answer = self.call(&["chat", "--model", "run", "--max-new-tokens", "4"], Some(&lines))?;
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

    /// Standard output of a call that must end well.
    fn call(&self, arguments: &[&str], input: Option<&str>) -> Result<String> {
        let shown = arguments.join(" ");
        let mut child = Command::new(self.kyoka)
            .args(arguments)
            .env("RAYON_NUM_THREADS", "1")
            .current_dir(self.home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| shown.clone())?;
        // A command that fails early reads nothing.
        let _ = child.stdin.take().context("a pipe")?.write_all(input.unwrap_or_default().as_bytes());
        let Output { status, stdout, stderr } = child.wait_with_output()?;
        let stdout = String::from_utf8_lossy(&stdout).into_owned();
        ensure!(status.success(), "kyoka {shown}: {status}\n{stdout}{}", String::from_utf8_lossy(&stderr));
        Ok(stdout)
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
