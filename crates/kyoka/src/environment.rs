//! What answers the policy between its turns: `[environment]` of a recipe.

use kyoka_core::{EnvironmentFactory, ToolSchema};
use kyoka_environment::{TOOLS, Tools};
use kyoka_trainer::EpisodeRules;
use serde::{Deserialize, Serialize, Serializer, ser::Error as _};
use toml::{Table, Value};

use crate::{
    PartConfig,
    doors::{Doors, brought},
    kinds::kinds,
    reading::Fault,
};

kinds! {
    /// What answers the policy between its turns.
    pub enum EnvironmentKind {
        /// An environment of another crate, by its `name`; see [`Run::with_environment`](crate::Run::with_environment).
        "custom" => Custom(CustomEnvironment),
        /// Tools that the policy calls; see [`kyoka_environment`].
        "tools" => Tools(ToolsSettings),
    }
}

/// Settings of `tools`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolsSettings {
    /// Each one of [`kyoka_environment::TOOLS`] with its settings, or one of another crate; see
    /// [`Run::with_tool`](crate::Run::with_tool). At least one.
    pub tools: Vec<PartConfig>,
}

/// The kind that answers nothing: a completion is one turn, as in a recipe without `[environment]`.
const NONE: &str = "none";

/// Settings of `custom`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomEnvironment {
    /// What it is called.
    pub name: String,
    /// What the environment itself reads. Default empty.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub settings: Table,
}

/// `[environment]`: what answers, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct EnvironmentConfig {
    /// Most turns of a completion; at least 1.
    pub max_turns: usize,
    /// Most tokens that the observations of a completion take together; at least 1.
    pub max_observation_tokens: usize,
    /// What answers.
    pub kind: EnvironmentKind,
}

/// An environment that was made, with its limits.
pub(crate) struct Environments {
    factory: Box<dyn EnvironmentFactory>,
    max_turns: usize,
    max_observation_tokens: usize,
}

impl Environments {
    /// The tools that the policy is told of.
    pub fn tools(&self) -> &[ToolSchema] {
        self.factory.tools()
    }

    pub fn rules(&self) -> EpisodeRules<'_> {
        let Self { factory, max_turns, max_observation_tokens } = self;
        EpisodeRules {
            environments: factory.as_ref(),
            max_turns: *max_turns,
            max_observation_tokens: *max_observation_tokens,
        }
    }
}

impl EnvironmentConfig {
    /// Takes `[environment]` out of a recipe's table.
    pub(crate) fn take(table: &mut Table) -> Result<Option<Self>, Fault> {
        #[derive(Deserialize)]
        struct Shared {
            kind: String,
            max_turns: usize,
            max_observation_tokens: usize,
        }
        let Some(environment) = table.remove("environment") else { return Ok(None) };
        let read = || {
            let mut table: Table = Fault::reading(environment)?;
            if table.len() == 1 && table.get("kind").and_then(Value::as_str) == Some(NONE) {
                return Ok(None);
            }
            let shared = ["kind", "max_turns", "max_observation_tokens"].into_iter();
            let shared = shared.filter_map(|key| table.remove_entry(key)).collect();
            let Shared { kind, max_turns, max_observation_tokens } = Fault::reading(Value::Table(shared))?;
            let kind = EnvironmentKind::read(&kind, table)?;
            Ok(Some(Self { max_turns, max_observation_tokens, kind }))
        };
        read().map_err(|fault: Fault| fault.below("environment"))
    }

    /// Makes it.
    ///
    /// # Errors
    /// If a limit is 0, the program does not bring it, or it cannot be made of its settings.
    pub(crate) fn make(&self, doors: &Doors) -> Result<Environments, Fault> {
        let limits = [("max_turns", self.max_turns), ("max_observation_tokens", self.max_observation_tokens)];
        let made = || -> Result<Box<dyn EnvironmentFactory>, Fault> {
            if let Some((key, _)) = limits.iter().find(|(_, limit)| *limit == 0) {
                return Err(Fault::at(key, "expected at least 1, got 0"));
            }
            match &self.kind {
                EnvironmentKind::Custom(CustomEnvironment { name, settings }) => {
                    let make = brought(&doors.environments, "environment", name)?;
                    make(settings.clone()).map_err(|error| Fault::at("settings", error.to_string()))
                }
                EnvironmentKind::Tools(ToolsSettings { tools }) => Ok(Box::new(make_tools(tools, doors)?)),
            }
        };
        let factory = made().map_err(|fault| fault.below("environment"))?;
        let Self { max_turns, max_observation_tokens, .. } = *self;
        Ok(Environments { factory, max_turns, max_observation_tokens })
    }
}

fn make_tools(tools: &[PartConfig], doors: &Doors) -> Result<Tools, Fault> {
    if tools.is_empty() {
        return Err(Fault::at("tools", "expected at least one tool, got none"));
    }
    let make = |(index, tool): (usize, &PartConfig)| {
        let made = tool.make("tool", TOOLS, &doors.tools);
        made.map_err(|fault| fault.below(&index.to_string()).below("tools"))
    };
    let tools = Tools::new(tools.iter().enumerate().map(make).collect::<Result<_, Fault>>()?);
    match tools.called_alike() {
        None => Ok(tools),
        Some(name) => Err(Fault::at("tools", format!("two tools are called {name:?}"))),
    }
}

impl Serialize for EnvironmentConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let count = |value: usize| Value::try_from(value).map_err(S::Error::custom);
        let mut table = Table::from_iter([
            ("kind".to_owned(), Value::from(self.kind.kind())),
            ("max_turns".to_owned(), count(self.max_turns)?),
            ("max_observation_tokens".to_owned(), count(self.max_observation_tokens)?),
        ]);
        table.extend(self.kind.to_table().map_err(S::Error::custom)?);
        table.serialize(serializer)
    }
}
