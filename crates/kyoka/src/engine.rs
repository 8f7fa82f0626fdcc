//! Where completions are drawn: `[engine]` of a recipe.

use serde::{Deserialize, Serialize, Serializer, ser::Error as _};
use toml::{Table, Value};

use crate::{kinds::kinds, reading::Fault};

kinds! {
    /// What draws completions.
    pub enum EngineKind {
        /// This process.
        "local" => Local(LocalSettings),
        /// An engine of another crate, by its `name`; see [`Run::with_engine`](crate::Run::with_engine).
        "custom" => Custom(CustomEngine),
    }
}

/// Settings of `local`: none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalSettings {}

/// Settings of `custom`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomEngine {
    /// What it is called.
    pub name: String,
    /// What the engine itself reads. Default empty.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub settings: Table,
}

impl Default for EngineKind {
    fn default() -> Self {
        Self::Local(LocalSettings {})
    }
}

impl EngineKind {
    /// Whether it is the default, which recipes need not name.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// Takes `[engine]` out of a recipe's table.
    pub(crate) fn take(table: &mut Table) -> Result<Self, Fault> {
        let Some(engine) = table.remove("engine") else { return Ok(Self::default()) };
        let read = || {
            let mut table: Table = Fault::reading(engine)?;
            let kind = table.remove("kind").ok_or_else(|| Fault::at("kind", "missing"))?;
            let kind: String = Fault::reading::<String>(kind).map_err(|fault| fault.below("kind"))?;
            Self::read(&kind, table)
        };
        read().map_err(|fault: Fault| fault.below("engine"))
    }
}

impl Serialize for EngineKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut table = Table::from_iter([("kind".to_owned(), Value::from(self.kind()))]);
        table.extend(self.to_table().map_err(S::Error::custom)?);
        table.serialize(serializer)
    }
}
