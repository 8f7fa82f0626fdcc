//! Every algorithm from the same supervised checkpoint, with equal generated tokens and several seeds.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{
    page,
    results::{self, RunResult},
};

/// What is compared, in the order of the page, with the settings in which a run differs from the preset.
///
/// Two updates a batch, so that a ratio other than 1 and a clip can matter; ReMax has no ratio. The critics of PPO and
/// VAPO learn at a rate of their own; VAPO's pre-training is shortened with the run, and its lambda fitted to
/// completions of some 15 tokens, for which the paper's alpha gives 0.
pub const ALGORITHMS: [(&str, &[&str]); 11] = [
    ("grpo", &["updates_per_batch=2"]),
    ("dr_grpo", &["updates_per_batch=2"]),
    ("rloo", &["updates_per_batch=2"]),
    ("reinforce_plus_plus", &["updates_per_batch=2"]),
    ("remax", &[]),
    ("dapo", &["updates_per_batch=2"]),
    ("gspo", &["updates_per_batch=2"]),
    ("cispo", &["updates_per_batch=2"]),
    ("cppo", &["updates_per_batch=2"]),
    ("ppo", &["updates_per_batch=2", "critic_learning_rate=5e-4"]),
    (
        "vapo",
        &["updates_per_batch=2", "critic_learning_rate=5e-4", "critic_pretrain_steps=8", "length_alpha=1.0"],
    ),
];

/// Where recipes, results and plot lie.
pub const FOLDER: &str = "docs/experiments/algorithms";

/// How the comparison is run.
#[derive(clap::Args)]
pub struct AlgorithmsArgs {
    /// The `kyoka` command to run; built in release if not given
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Folder of the runs
    #[arg(long, default_value = "runs/experiment-algorithms")]
    runs: PathBuf,
    /// Only these algorithms, separated by commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Seeds of reinforcement learning, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    seeds: Vec<u64>,
    /// Run nothing: write table and plot from the results that are there
    #[arg(long)]
    page: bool,
}

/// Runs what is missing, one run at a time, and writes the page after each.
pub fn run_algorithms(root: &Path, arguments: &AlgorithmsArgs) -> Result<()> {
    let known = |name: &&String| ALGORITHMS.iter().all(|(algorithm, _)| algorithm != name);
    if let Some(name) = arguments.only.iter().find(known) {
        bail!("{name} is not part of the comparison");
    }
    let path = root.join(FOLDER).join("results.jsonl");
    if arguments.page {
        return page::write(root, &results::read(&path)?);
    }
    let binary = match &arguments.binary {
        Some(binary) => binary.canonicalize().with_context(|| binary.display().to_string())?,
        None => built(root)?,
    };
    let runner = Runner { root, binary, runs: root.join(&arguments.runs), results: path };
    runner.run("sft", 1, &[], None)?;
    let start = runner.runs.join("sft-seed1");
    for &seed in &arguments.seeds {
        for (algorithm, settings) in ALGORITHMS {
            if arguments.only.is_empty() || arguments.only.iter().any(|name| name == algorithm) {
                let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
                runner.run(algorithm, seed, &settings, Some(&start))?;
            }
        }
    }
    Ok(())
}

/// The command, built.
fn built(root: &Path) -> Result<PathBuf> {
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--package", "kyoka-cli"])
        .current_dir(root)
        .status()?;
    if !status.success() {
        bail!("the release build failed");
    }
    let metadata = cargo_metadata::MetadataCommand::new().current_dir(root).no_deps().exec()?;
    Ok(metadata.target_directory.into_std_path_buf().join("release/kyoka"))
}

struct Runner<'a> {
    root: &'a Path,
    binary: PathBuf,
    runs: PathBuf,
    results: PathBuf,
}

impl Runner<'_> {
    /// Makes or goes on with a run, unless its result is there already.
    fn run(&self, algorithm: &str, seed: u64, settings: &[String], start: Option<&Path>) -> Result<()> {
        let done = results::read(&self.results)?;
        let known = done.iter().any(|result| result.algorithm == algorithm && result.seed == seed);
        let folder = self.runs.join(format!("{algorithm}-seed{seed}"));
        // Where results come with the repository, the checkpoint that further runs start from still has to be made.
        if known && (start.is_some() || folder.join("summary.json").is_file()) {
            return Ok(());
        }
        println!("{algorithm}, seed {seed}");
        let status = self.command((algorithm, seed), settings, start, &folder).status()?;
        if !status.success() {
            bail!("{algorithm}, seed {seed}: {status}; run again to go on");
        }
        let result = RunResult::of_run(&folder, algorithm, seed, settings)?;
        println!("  accuracy {:.3} on test in {:.0} s", result.part("test", "accuracy"), result.wall_s);
        match done.iter().find(|known| known.algorithm == algorithm && known.seed == seed) {
            None => results::append(&self.results, &result)?,
            Some(known) if known.eval != result.eval => bail!(
                "{}: gives {:.3} on test where the results have {:.3}; another program or machine made it: remove the results \
                 to compare everything anew",
                folder.display(),
                result.part("test", "accuracy"),
                known.part("test", "accuracy")
            ),
            Some(_) => {}
        }
        if start.is_some() {
            fs::remove_dir_all(folder.join("checkpoints"))?;
        }
        page::write(self.root, &results::read(&self.results)?)
    }

    fn command(
        &self,
        (algorithm, seed): (&str, u64),
        settings: &[String],
        start: Option<&Path>,
        folder: &Path,
    ) -> Command {
        let recipe = if start.is_some() { "rl.toml" } else { "sft.toml" };
        let mut command = Command::new(&self.binary);
        command.current_dir(self.root).arg("train").arg(self.root.join(FOLDER).join(recipe));
        command.args(["--quiet", "--seed", &seed.to_string()]);
        if let Some(start) = start {
            command.args(["--set", &format!("model.start={:?}", start.display().to_string())]);
            let table: Vec<String> =
                std::iter::once(format!("preset={algorithm:?}")).chain(settings.iter().cloned()).collect();
            command.args(["--set", &format!("rl.algorithm={{ {} }}", table.join(", "))]);
        }
        let place = if folder.join("config.toml").is_file() { "--resume" } else { "--out" };
        command.arg(place).arg(folder);
        command
    }
}
