//! Building, checking and data making for the workspace.
#![expect(clippy::print_stdout, reason = "a command-line program")]

mod bench;
mod data;
mod device_check;
mod experiment;
#[cfg(feature = "parity")]
mod fuzz;
mod kyoka_command;
mod matrix;
mod new;
#[cfg(feature = "parity")]
mod parity;
mod tidy;
mod try_all;
mod unchanged;
mod validate;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Format, tidy, clippy, documentation and tests: everything a change must pass
    Validate,
    /// Check the structure: layers, file lengths and names, documented algorithms (seconds)
    Tidy,
    /// Run all criterion benches, or measure whole steps, alone or beside a peer
    #[command(
        after_help = "Example:\n  cargo xtask bench step --checkpoint DIR --steps 5 --versus torch --python .venv/bin/python"
    )]
    Bench {
        #[command(flatten)]
        step: Option<bench::StepArgs>,
    },
    /// Compare a device with the CPU, then measure it: what to run where a GPU is at hand
    #[command(after_help = "Example:\n  cargo xtask device-check --device cuda --checkpoint checkpoint16")]
    DeviceCheck(device_check::DeviceCheckArgs),
    /// Run golden cases through the public API and print one line a comparison; fails if one fails or is of unknown kind
    Parity {
        /// Folders (or files) of cases
        #[arg(required = true)]
        folders: Vec<PathBuf>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Every parser of model text on texts that nobody would write: none panics, none takes long
    Fuzz {
        /// Seconds of trying
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Seed of the texts
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Most milliseconds that a rule may take for a text
        #[arg(long, default_value_t = 50)]
        limit_ms: u64,
    },
    /// Every family of checkpoints through every command, with real pictures and sounds and default settings (minutes)
    #[command(after_help = "Example:\n  cargo xtask matrix smolvlm_tiles qwen2_audio")]
    Matrix(matrix::MatrixArgs),
    /// Short runs of eight recipes: the same bits as with the command of the commit before, or recorded metrics (a minute)
    #[command(after_help = "Example:\n  cargo xtask unchanged --before ../before/kyoka")]
    Unchanged(unchanged::UnchangedArgs),
    /// Start a new algorithm or reward: file, test, `mod` line and row; the result compiles and its test passes
    New {
        /// What to make
        part: new::Part,
        /// Its name in snake_case
        name: String,
    },
    /// Rerun an experiment of docs/experiments in parts, and write its table and plot
    Experiment {
        #[command(subcommand)]
        experiment: Experiment,
    },
    /// Make a dataset again, byte for byte
    Data {
        #[command(subcommand)]
        dataset: Dataset,
    },
}

#[derive(Subcommand)]
enum Experiment {
    /// Every algorithm from the same supervised checkpoint on spoken-count: hours, but it can be stopped and goes on
    #[command(after_help = "Example:\n  cargo xtask experiment algorithms --only grpo,dapo --seeds 1")]
    Algorithms(experiment::AlgorithmsArgs),
}

#[derive(Subcommand)]
enum Dataset {
    /// Fashion-MNIST tiles and spoken names (needs the Debian packages dataset-fashion-mnist, espeak-ng and sox)
    SpokenCount {
        /// Folder of the idx files
        #[arg(long, default_value = "/usr/share/datasets/fashion-mnist")]
        fashion: PathBuf,
    },
    /// Tux Paint's stamps and their French names, into the user's data folder (Debian package tuxpaint-stamps-default,
    /// GPL-2+; downloaded with apt-get where it is not installed)
    Tuxpaint {
        /// Folder of the stamps
        #[arg(long)]
        stamps: Option<PathBuf>,
        /// Where the dataset goes instead
        #[arg(long)]
        to: Option<PathBuf>,
    },
}

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace");
    match Args::parse().command {
        Command::Validate => validate::run(root),
        Command::Tidy => tidy::check(root).inspect(|()| println!("tidy: good")),
        Command::Bench { step: None } => bench::run_all(root),
        Command::Bench { step: Some(step) } => bench::run_step(root, &step),
        Command::DeviceCheck(args) => device_check::run(root, &args),
        Command::Matrix(args) => matrix::run(root, &args),
        Command::Unchanged(args) => unchanged::run(root, &args),
        Command::New { part, name } => new::run(root, part, &name),
        #[cfg(feature = "parity")]
        Command::Parity { folders, json } => parity::run(&folders, json),
        #[cfg(not(feature = "parity"))]
        Command::Parity { .. } | Command::Fuzz { .. } => with_parity(),
        #[cfg(feature = "parity")]
        Command::Fuzz { seconds, seed, limit_ms } => fuzz::run(seconds, seed, limit_ms),
        Command::Experiment { experiment: Experiment::Algorithms(arguments) } => {
            experiment::run_algorithms(root, &arguments)
        }
        Command::Data { dataset: Dataset::SpokenCount { fashion } } => {
            data::spoken_count::make(root, &fashion)
        }
        Command::Data { dataset: Dataset::Tuxpaint { stamps, to } } => {
            data::tuxpaint::make(stamps.as_deref(), to)
        }
    }
}

/// Runs the same command again, built with the crates that it is about.
#[cfg(not(feature = "parity"))]
fn with_parity() -> Result<()> {
    let status = std::process::Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--package", "xtask", "--"])
        .args(std::env::args_os().skip(1))
        .status()?;
    std::process::exit(status.code().unwrap_or(1));
}
