//! Measurements: criterion benches with what moved since the last kept run, and whole steps beside their peers.

mod criterion;
mod step;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
pub use criterion::run_all;
pub use step::{StepArgs, alone, last_json, lines, run_step};

/// Where cargo puts what it builds.
pub fn target_folder(root: &Path) -> Result<PathBuf> {
    let metadata = cargo_metadata::MetadataCommand::new().current_dir(root).no_deps().exec()?;
    Ok(metadata.target_directory.into_std_path_buf())
}

pub fn cargo(root: &Path, arguments: &[&str]) -> Result<()> {
    let what = format!("cargo {}", arguments.join(" "));
    let status = Command::new(env!("CARGO")).args(arguments).current_dir(root).status();
    if !status.with_context(|| what.clone())?.success() {
        bail!("{what} failed");
    }
    Ok(())
}
