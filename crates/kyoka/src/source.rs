//! Where a recipe's rows come from: a folder of a dataset, or a source.

use std::path::{Path, PathBuf};

use kyoka_core::{Origin, Place, Sample};
use kyoka_data::{
    DataError, PreferenceRow, ReadOptions, RowSource, Rows, SOURCES, SourceError, read_jsonl, read_pairs,
};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::{
    Error, dataset_folder,
    doors::{Doors, brought},
    preparing::split_path,
    reading::Fault,
    recipe::DataSettings,
};

/// `source` of `[data]`: what gives rows in a folder's place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Table", into = "Table")]
pub struct SourceConfig {
    /// One of [`kyoka_data::SOURCES`], or `custom`.
    pub kind: String,
    /// The other keys: its settings, or of a custom one its `name` and `settings`.
    pub settings: Table,
}

const CUSTOM: &str = "custom";

/// A source of another crate, by its `name`; see [`Run::with_source`](crate::Run::with_source).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct CustomSource {
    name: String,
    #[serde(default)]
    settings: Table,
}

impl TryFrom<Table> for SourceConfig {
    type Error = String;

    fn try_from(mut settings: Table) -> Result<Self, String> {
        match settings.remove("kind") {
            Some(Value::String(kind)) => Ok(Self { kind, settings }),
            Some(other) => Err(format!("kind: expected a text, got {other}")),
            None => Err("kind: missing".to_owned()),
        }
    }
}

impl From<SourceConfig> for Table {
    fn from(SourceConfig { kind, mut settings }: SourceConfig) -> Self {
        settings.insert("kind".to_owned(), kind.into());
        settings
    }
}

impl SourceConfig {
    /// Makes it.
    ///
    /// # Errors
    /// If there is no such kind, the program does not bring it, or it cannot be made of its settings.
    pub(crate) fn make(&self, doors: &Doors) -> Result<Box<dyn RowSource>, Fault> {
        let made = || {
            if self.kind == CUSTOM {
                let CustomSource { name, settings } = Fault::reading(self.settings.clone().into())?;
                let make = brought(&doors.sources, "source", &name)?;
                return make(settings).map_err(|error| Fault::at("settings", error.to_string()));
            }
            let Some((_, make)) = SOURCES.iter().find(|(known, _)| *known == self.kind) else {
                let known: Vec<&str> = SOURCES.iter().map(|(kind, _)| *kind).chain([CUSTOM]).collect();
                return Err(Fault::unknown_kind(&self.kind, &known));
            };
            make(self.settings.clone()).map_err(Fault::from)
        };
        made().map_err(|fault| fault.below("source").below("data"))
    }

    /// What messages and rows call it.
    fn name(&self) -> &str {
        let own = self.settings.get("name").filter(|_| self.kind == CUSTOM);
        own.and_then(Value::as_str).unwrap_or(&self.kind)
    }
}

/// A recipe's dataset, opened.
pub(crate) enum Dataset {
    Folder { folder: PathBuf, options: ReadOptions },
    Source { name: String, source: Box<dyn RowSource> },
}

impl Dataset {
    /// Opens what a recipe's `[data]` names.
    ///
    /// # Errors
    /// If the folder is not there; the source was checked with the recipe.
    pub fn open(data: &DataSettings, doors: &Doors) -> Result<Self, Error> {
        let Some(source) = &data.source else {
            let options = ReadOptions { allow_outside: data.allow_outside };
            return Ok(Self::Folder { folder: dataset_folder(&data.dataset)?, options });
        };
        let made = source.make(doors);
        let made =
            made.map_err(|fault| Error::argument("data.source", fault.message(&Default::default())))?;
        Ok(Self::Source { name: source.name().to_owned(), source: made })
    }

    /// The rows of a split.
    pub fn rows(&self, split: &str) -> Result<Rows<Sample>, Error> {
        match self {
            Self::Folder { folder, options } => Ok(read_jsonl(&split_path(folder, split)?, *options)?),
            Self::Source { name, source } => {
                let mut rows = named(name, split, source.rows(split))?;
                (1..).zip(&mut rows.rows).for_each(|(row, sample)| place(sample, name, split, row));
                Ok(rows)
            }
        }
    }

    /// The comparisons of a split.
    pub fn pairs(&self, split: &str) -> Result<Rows<PreferenceRow>, Error> {
        match self {
            Self::Folder { folder, options } => Ok(read_pairs(&split_path(folder, split)?, *options)?),
            Self::Source { name, source } => {
                let mut rows = named(name, split, source.pairs(split))?;
                (1..).zip(&mut rows.rows).for_each(|(row, pair)| place(&mut pair.sample, name, split, row));
                Ok(rows)
            }
        }
    }
}

/// A row without a file of its own is known by its source, split and number.
fn place(sample: &mut Sample, name: &str, split: &str, row: usize) {
    if sample.origin.file.as_os_str().is_empty() {
        sample.origin = Origin { file: Path::new(name).join(split), place: Place::Row(row) };
    }
}

fn named<T>(name: &str, split: &str, rows: Result<Rows<T>, SourceError>) -> Result<Rows<T>, Error> {
    let path = Path::new(name).join(split);
    match rows {
        Err(source) => Err(DataError::Source { path, source }.into()),
        Ok(rows) if rows.rows.is_empty() => Err(DataError::Empty { path }.into()),
        Ok(rows) => Ok(rows),
    }
}
