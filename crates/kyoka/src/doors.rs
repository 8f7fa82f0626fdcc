//! Where parts of other crates come in: each under the name by which recipes call it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, atomic::AtomicBool},
};

use burn::module::Module;
use kyoka_algorithms::OwnParts;
use kyoka_core::{CausalLm, EnvironmentFactory, PartError, RewardFn, RolloutEngine};
use kyoka_data::RowSource;
use kyoka_environment::Tool;
use kyoka_image::OwnImageEncoder;
use kyoka_rollout::LocalEngine;
use kyoka_text::Tokenizer;
use toml::Table;

use crate::{Policy, reading::Fault};

/// Makes a part from the settings that a recipe gives it.
pub type PartDoor<T> = Arc<dyn Fn(Table) -> Result<Box<T>, PartError> + Send + Sync>;

/// Makes a reward from the settings that a recipe gives it. It is asked whenever a recipe is checked, planned or run, so it reads
/// settings and opens what takes long when the first completion is judged.
pub type RewardDoor = PartDoor<dyn RewardFn>;

/// Makes an engine from the settings that a recipe gives it, once a run, after the data are read.
pub type EngineDoor<I> = Arc<
    dyn Fn(EngineContext<'_>, Table) -> Result<Box<dyn RolloutEngine<Policy<I>>>, PartError> + Send + Sync,
>;

/// Makes what opens environments from the settings that a recipe gives it. It is asked whenever a recipe is checked, planned or
/// run, so it reads settings and opens what takes long when the first episode begins.
pub type EnvironmentDoor = PartDoor<dyn EnvironmentFactory>;

/// Makes a source of rows from the settings that a recipe gives it. It is asked whenever a recipe is checked, planned or run, so
/// it reads settings and opens what takes long when the first rows are asked for.
pub type SourceDoor = PartDoor<dyn RowSource>;

/// Makes a tool from the settings that a recipe gives it, whenever a recipe is checked, planned or run.
pub type ToolDoor = PartDoor<dyn Tool>;

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
    pub fn local<M: CausalLm + Module>(&self) -> LocalEngine<M> {
        let mut engine = local_engine(self.tokenizer);
        engine.interrupt = Some(self.stop.clone());
        engine
    }
}

/// An engine that ends, bans and decodes as a tokenizer says.
pub(crate) fn local_engine<M: CausalLm + Module>(tokenizer: &Tokenizer) -> LocalEngine<M> {
    let tokenizer = tokenizer.clone();
    let mut engine = LocalEngine::new(tokenizer.end_id(), tokenizer.banned_ids());
    engine.end_ids = tokenizer.end_ids().to_vec();
    engine.decode_text = Some(Box::new(move |ids| tokenizer.decode(ids).text));
    engine
}

/// Tells of an encoder with these settings, for pictures of this height and width.
pub(crate) type DescribeEncoder =
    dyn Fn(&Table, [usize; 2]) -> Result<OwnImageEncoder, PartError> + Send + Sync;

/// An image encoder's name, and what a policy's configuration is told of it: from its settings and the height and width of its
/// pictures.
#[derive(Clone)]
pub(crate) struct ImageEncoderDoor {
    pub name: String,
    pub describe: Arc<DescribeEncoder>,
}

/// Everything that a program brings along for its recipes.
#[derive(Clone, Default)]
pub(crate) struct Doors {
    /// Estimators and policy losses.
    pub algorithm: OwnParts,
    pub rewards: BTreeMap<String, RewardDoor>,
    /// Names of the engines; what makes them knows the policy's type and is the run's.
    pub engines: BTreeSet<String>,
    pub image_encoder: Option<ImageEncoderDoor>,
    pub environments: BTreeMap<String, EnvironmentDoor>,
    pub sources: BTreeMap<String, SourceDoor>,
    pub tools: BTreeMap<String, ToolDoor>,
}

impl fmt::Debug for Doors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doors")
            .field("algorithm", &self.algorithm)
            .field("rewards", &self.rewards.keys())
            .field("engines", &self.engines)
            .field("image_encoder", &self.image_encoder.as_ref().map(|door| &door.name))
            .field("environments", &self.environments.keys())
            .field("sources", &self.sources.keys())
            .field("tools", &self.tools.keys())
            .finish()
    }
}

/// A part by its name among those that are brought.
///
/// # Errors
/// Says that this program does not bring it, and what it brings.
pub(crate) fn brought<'a, T>(parts: &'a BTreeMap<String, T>, what: &str, name: &str) -> Result<&'a T, Fault> {
    parts.get(name).ok_or_else(|| not_brought(parts.keys(), what, name))
}

/// Says that a program does not bring a part, and what it brings.
pub(crate) fn not_brought<'a>(names: impl Iterator<Item = &'a String>, what: &str, name: &str) -> Fault {
    let names: Vec<&str> = names.map(String::as_str).collect();
    let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Fault::at("name", format!("this program brings no {what} called {name:?} (it brings: {there})"))
}
