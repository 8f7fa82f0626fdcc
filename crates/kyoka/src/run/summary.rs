//! `summary.json`: what came out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Results by split and then by moment (`after_sft`, `after_rl`), each a map of means.
pub type EvalTable = BTreeMap<String, BTreeMap<String, BTreeMap<String, f64>>>;

/// The result of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// The recipe's name.
    pub recipe: String,
    /// The run's seed.
    pub seed: u64,
    /// The device's name as asked for.
    pub device: String,
    /// Seconds of the run, interrupted parts added.
    pub wall_s: f64,
    /// Steps of reinforcement learning done.
    pub rl_steps: usize,
    /// Trained parameters.
    pub params: usize,
    /// Highest resident memory of the process in MB, 0 where the system does not tell.
    pub peak_rss_mb: f64,
    /// Seconds by phase.
    pub phase_s: BTreeMap<String, f64>,
    /// Means by split and moment.
    pub eval: EvalTable,
}

/// Highest resident memory of this process in MB; 0 where the system does not tell.
pub(crate) fn peak_rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) / 1024.0
}
