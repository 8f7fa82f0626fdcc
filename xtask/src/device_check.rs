//! What to run where a GPU is at hand: the device beside the CPU, then the measurements on it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::bench::{alone, cargo, last_json, lines, target_folder};

#[derive(Args)]
pub struct DeviceCheckArgs {
    /// wgpu, cuda or cuda:N
    #[arg(long)]
    pub device: String,
    /// Cargo features; without, those of the device. For a software Vulkan device `wgpu` alone is right
    #[arg(long)]
    pub features: Option<String>,
    /// Folder of a checkpoint to measure with; without, a policy with random weights
    #[arg(long, value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,
    /// Timed steps; 0 compares only
    #[arg(long, default_value_t = 5)]
    pub steps: usize,
}

/// Builds the command with the device's backend in release, compares, and measures.
pub fn run(root: &Path, args: &DeviceCheckArgs) -> Result<()> {
    let kind = args.device.split(':').next().unwrap_or_default();
    if !["wgpu", "cuda", "cpu"].contains(&kind) {
        bail!("device {}: expected wgpu, cuda, cuda:N or cpu", args.device);
    }
    let features = args.features.as_deref().unwrap_or(if kind == "cpu" { "flex" } else { kind });
    cargo(root, &["build", "--release", "--quiet", "--package", "kyoka-cli", "--features", features])?;
    let kyoka = target_folder(root)?.join("release/kyoka");
    compare(&kyoka, &args.device)?;
    if args.steps == 0 {
        return Ok(());
    }
    for kind in ["roofline", "step", "decode", "text-step"] {
        println!("\n{kind} on {}", args.device);
        println!("{}", lines(&measure(&kyoka, kind, args)?));
    }
    Ok(())
}

/// Prints every comparison with the CPU; fails if one differs.
fn compare(kyoka: &Path, device: &str) -> Result<()> {
    let mut command = alone(kyoka);
    command.args(["device-check", "--device", device]);
    let status = command.status().with_context(|| format!("{command:?}"))?;
    if !status.success() {
        bail!("device {device} does not give the numbers of the CPU");
    }
    Ok(())
}

fn measure(kyoka: &Path, kind: &str, args: &DeviceCheckArgs) -> Result<Value> {
    let mut command = alone(kyoka);
    command.args(["bench", kind, "--json", "--device", &args.device, "--steps", &args.steps.to_string()]);
    if let Some(checkpoint) = args.checkpoint.as_ref().filter(|_| kind != "roofline") {
        command.arg("--checkpoint").arg(checkpoint);
    }
    last_json(command)
}
