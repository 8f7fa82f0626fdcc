//! Where parts of other crates come in: each under the name by which recipes call it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::AtomicBool},
};

use kyoka_algorithms::{OwnParts, PartError};
use kyoka_core::{RewardFn, RolloutEngine};
use kyoka_text::Tokenizer;
use toml::Table;

use crate::{Policy, reading::Fault};

/// Makes a reward from the settings that a recipe gives it.
pub type RewardDoor = Arc<dyn Fn(Table) -> Result<Box<dyn RewardFn>, PartError> + Send + Sync>;

/// Makes an engine from the settings that a recipe gives it.
pub type EngineDoor =
    Arc<dyn Fn(EngineContext<'_>, Table) -> Result<Box<dyn RolloutEngine<Policy>>, PartError> + Send + Sync>;

/// What an engine is told of the run that holds it.
#[derive(Clone)]
pub struct EngineContext<'a> {
    /// Reads and writes the policy's texts; it says which tokens end a completion and which are never drawn.
    pub tokenizer: &'a Tokenizer,
    /// Set when the run is told to stop: sampling ends with [`RolloutError::Interrupted`](kyoka_core::RolloutError).
    pub stop: Arc<AtomicBool>,
}

/// Everything that a program brings along for its recipes.
#[derive(Clone, Default)]
pub(crate) struct Doors {
    /// Estimators and policy losses.
    pub algorithm: OwnParts,
    pub rewards: BTreeMap<String, RewardDoor>,
    pub engines: BTreeMap<String, EngineDoor>,
}

impl fmt::Debug for Doors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doors")
            .field("algorithm", &self.algorithm)
            .field("rewards", &self.rewards.keys())
            .field("engines", &self.engines.keys())
            .finish()
    }
}

/// A part by its name among those that are brought.
///
/// # Errors
/// Says that this program does not bring it, and what it brings.
pub(crate) fn brought<'a, T>(parts: &'a BTreeMap<String, T>, what: &str, name: &str) -> Result<&'a T, Fault> {
    parts.get(name).ok_or_else(|| {
        let names: Vec<&str> = parts.keys().map(String::as_str).collect();
        let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        Fault::at("name", format!("this program brings no {what} called {name:?} (it brings: {there})"))
    })
}
