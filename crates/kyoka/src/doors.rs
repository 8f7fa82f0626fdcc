//! Where parts of other crates come in: each under the name by which recipes call it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::AtomicBool},
};

use kyoka_algorithms::OwnParts;
use kyoka_core::{EnvironmentFactory, PartError, RewardFn, RolloutEngine};
use kyoka_data::RowSource;
use kyoka_rollout::LocalEngine;
use kyoka_text::Tokenizer;
use toml::Table;

use crate::{Policy, reading::Fault};

/// Makes a reward from the settings that a recipe gives it. It is asked whenever a recipe is checked, planned or run, so it reads
/// settings and opens what takes long when the first completion is judged.
pub type RewardDoor = Arc<dyn Fn(Table) -> Result<Box<dyn RewardFn>, PartError> + Send + Sync>;

/// Makes an engine from the settings that a recipe gives it, once a run, after the data are read.
pub type EngineDoor =
    Arc<dyn Fn(EngineContext<'_>, Table) -> Result<Box<dyn RolloutEngine<Policy>>, PartError> + Send + Sync>;

/// Makes what opens environments from the settings that a recipe gives it. It is asked whenever a recipe is checked, planned or
/// run, so it reads settings and opens what takes long when the first episode begins.
pub type EnvironmentDoor = Arc<dyn Fn(Table) -> Result<Box<dyn EnvironmentFactory>, PartError> + Send + Sync>;

/// Makes a source of rows from the settings that a recipe gives it. It is asked whenever a recipe is checked, planned or run, so
/// it reads settings and opens what takes long when the first rows are asked for.
pub type SourceDoor = Arc<dyn Fn(Table) -> Result<Box<dyn RowSource>, PartError> + Send + Sync>;

/// What an engine is told of the run that holds it.
#[derive(Clone)]
pub struct EngineContext<'a> {
    /// Reads and writes the policy's texts; it says which tokens end a completion and which are never drawn.
    pub tokenizer: &'a Tokenizer,
    /// Set when the run is told to stop: sampling ends with [`RolloutError::Interrupted`](kyoka_core::RolloutError).
    pub stop: Arc<AtomicBool>,
}

impl EngineContext<'_> {
    /// An engine in this process as the run would hold it: it ends, bans and decodes as the policy's tokenizer says, and gives
    /// up when the run is told to stop. What samples elsewhere under the same rules can be built around it.
    pub fn local(&self) -> LocalEngine<Policy> {
        let mut engine = local_engine(self.tokenizer);
        engine.interrupt = Some(self.stop.clone());
        engine
    }
}

/// An engine that ends, bans and decodes as a tokenizer says.
pub(crate) fn local_engine(tokenizer: &Tokenizer) -> LocalEngine<Policy> {
    let tokenizer = tokenizer.clone();
    let mut engine = LocalEngine::new(tokenizer.end_id(), tokenizer.banned_ids());
    engine.end_ids = tokenizer.end_ids().to_vec();
    engine.decode_text = Some(Box::new(move |ids| tokenizer.decode(ids).text));
    engine
}

/// Everything that a program brings along for its recipes.
#[derive(Clone, Default)]
pub(crate) struct Doors {
    /// Estimators and policy losses.
    pub algorithm: OwnParts,
    pub rewards: BTreeMap<String, RewardDoor>,
    pub engines: BTreeMap<String, EngineDoor>,
    pub environments: BTreeMap<String, EnvironmentDoor>,
    pub sources: BTreeMap<String, SourceDoor>,
}

impl fmt::Debug for Doors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doors")
            .field("algorithm", &self.algorithm)
            .field("rewards", &self.rewards.keys())
            .field("engines", &self.engines.keys())
            .field("environments", &self.environments.keys())
            .field("sources", &self.sources.keys())
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
