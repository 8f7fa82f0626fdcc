//! What a recipe will take: memory by phase, tokens and arithmetic of a step, and what would fit less.

mod facts;
mod phases;
mod sizes;
mod stores;
mod suggest;
mod trained;

use kyoka_core::Prompt;
use kyoka_trainer::PackItem;
use serde::Serialize;

use self::{
    facts::Facts,
    phases::{Batch, Knobs, Others, sampling, training},
    sizes::{PolicySizes, media_of},
    trained::Trained,
};
use crate::{Error, PolicyConfig, Recipe, doors::Doors, preparing::prepare, rewards::Rewards};

pub use self::{
    phases::{Phase, PhaseBytes},
    suggest::Suggestion,
};

/// What is asked of a plan.
#[derive(Debug, Clone, Default)]
pub struct PlanOptions {
    /// Bytes that the run may take; suggestions are made for it.
    pub memory: Option<u64>,
}

/// What a recipe will take on the CPU, in 32-bit numbers.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The recipe's name.
    pub recipe: String,
    /// Parameters of the policy.
    pub params: usize,
    /// Bytes of the process before the first step, its data read.
    pub base_bytes: usize,
    /// Bytes that decoded media may come to take during the run.
    pub media_store_bytes: usize,
    /// Bytes that the features of frozen towers may come to take during the run.
    pub feature_store_bytes: usize,
    /// Phases with completions as long as they are expected to be.
    pub phases: Vec<Phase>,
    /// Bytes at the peak, with completions as long as they are expected to be.
    pub peak_bytes: usize,
    /// Bytes at the peak if every completion runs to its limit.
    pub limit_bytes: usize,
    /// Changes with which the run fits into the memory that was asked for; empty if it fits or none was named.
    pub suggestions: Vec<Suggestion>,
}

/// Predicts what a recipe takes; nothing runs, but the rows are read and a few media are decoded.
///
/// # Errors
/// As [`train`](crate::train) has them before its first step.
pub fn plan(recipe: &Recipe, options: &PlanOptions) -> Result<Plan, Error> {
    plan_with(recipe, options, &Doors::default())
}

/// [`plan`], with what a program brings.
pub(crate) fn plan_with(recipe: &Recipe, options: &PlanOptions, doors: &Doors) -> Result<Plan, Error> {
    let settings = recipe.checked(doors)?;
    let rewards = Rewards::make(&settings.reward, doors).map_err(|fault| recipe.refused(&fault))?;
    let gradient_checkpointing = settings.gradient_checkpointing;
    let prepared = prepare(settings, (&rewards, doors), 1)?;
    let facts = Facts::of(&prepared)?;
    let knobs = Knobs {
        tokens_per_micro_batch: facts.tokens_per_micro_batch(),
        gradient_checkpointing,
        lora_rank: None,
    };
    let base_bytes = resident_bytes();
    let around = base_bytes + facts.media_store_bytes + facts.feature_store_bytes;
    let peak = |phases: &[Phase]| phases.iter().map(|phase| phase.bytes.total()).max().unwrap_or(0) + around;
    let phases = facts.phases(knobs, false);
    let suggestions = match options.memory {
        None => Vec::new(),
        Some(memory) => suggest::fitting(knobs, memory, &|knobs| peak(&facts.phases(knobs, true)) as u64),
    };
    Ok(Plan {
        recipe: recipe.name().to_owned(),
        params: facts.params(),
        base_bytes,
        media_store_bytes: facts.media_store_bytes,
        feature_store_bytes: facts.feature_store_bytes,
        peak_bytes: peak(&phases),
        limit_bytes: peak(&facts.phases(knobs, true)),
        phases,
        suggestions,
    })
}

/// Billions of multiplications and additions of a step of reinforcement learning: sampling and training of a batch of
/// prompts like `prompt`.
pub(crate) fn step_gflop(
    config: &PolicyConfig,
    prompt: &Prompt,
    items: Vec<PackItem>,
    gradient_checkpointing: bool,
) -> f64 {
    let sizes = PolicySizes::new(config);
    let (rows, media_bytes) = media_of(config, prompt);
    let batch = Batch { items, rows, media_bytes };
    let knobs = Knobs { tokens_per_micro_batch: 8192, gradient_checkpointing, lora_rank: None };
    let (trained, others) = (Trained::whole(&sizes), Others::default());
    sampling("rollout", &sizes, &batch, 0, (trained, knobs, others)).gflop
        + training("train", &sizes, &batch, (trained, knobs), others).gflop
}

/// Resident memory of this process; 0 where the system does not tell.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<usize>().ok());
    kilobytes.unwrap_or(0) * 1024
}
