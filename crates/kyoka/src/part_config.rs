//! A part that a recipe names by its kind, with settings that the part reads: one of Kyoka's, or a program's own.

use std::collections::BTreeMap;

use kyoka_core::Maker;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::{
    doors::{PartDoor, brought},
    reading::Fault,
};

/// A part by its kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Table", into = "Table")]
pub struct PartConfig {
    /// One that Kyoka knows, or `custom`.
    pub kind: String,
    /// The other keys: its settings, or of a custom one its `name` and `settings`.
    pub settings: Table,
}

const CUSTOM: &str = "custom";

/// A part of another crate, by its `name`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct CustomPart {
    name: String,
    #[serde(default)]
    settings: Table,
}

impl TryFrom<Table> for PartConfig {
    type Error = String;

    fn try_from(mut settings: Table) -> Result<Self, String> {
        match settings.remove("kind") {
            Some(Value::String(kind)) => Ok(Self { kind, settings }),
            Some(other) => Err(format!("kind: expected a text, got {other}")),
            None => Err("kind: missing".to_owned()),
        }
    }
}

impl From<PartConfig> for Table {
    fn from(PartConfig { kind, mut settings }: PartConfig) -> Self {
        settings.insert("kind".to_owned(), kind.into());
        settings
    }
}

impl PartConfig {
    /// Makes it; `what` is the word for such a part, `known` are Kyoka's own, `own` those of the program.
    ///
    /// # Errors
    /// If there is no such kind, the program does not bring it, or it cannot be made of its settings.
    pub(crate) fn make<T: ?Sized>(
        &self,
        what: &str,
        known: &[(&str, Maker<T>)],
        own: &BTreeMap<String, PartDoor<T>>,
    ) -> Result<Box<T>, Fault> {
        if self.kind == CUSTOM {
            let CustomPart { name, settings } = Fault::reading(self.settings.clone().into())?;
            let make = brought(own, what, &name)?;
            return make(settings).map_err(|error| Fault::at("settings", error.to_string()));
        }
        let Some((_, make)) = known.iter().find(|(known, _)| *known == self.kind) else {
            let known: Vec<&str> = known.iter().map(|(kind, _)| *kind).chain([CUSTOM]).collect();
            return Err(Fault::unknown_kind(&self.kind, &known));
        };
        make(self.settings.clone()).map_err(Fault::from)
    }

    /// What messages and rows call it.
    pub(crate) fn name(&self) -> &str {
        let own = self.settings.get("name").filter(|_| self.kind == CUSTOM);
        own.and_then(Value::as_str).unwrap_or(&self.kind)
    }
}
