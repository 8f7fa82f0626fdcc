//! Where a recipe's rows come from: a folder of a dataset, or a source.

use std::path::{Path, PathBuf};

use kyoka_core::{Origin, Place, Sample};
use kyoka_data::{
    DataError, PreferenceRow, ReadOptions, RowSource, Rows, SOURCES, SourceError, read_jsonl, read_pairs,
};

use crate::{
    Error, PartConfig, dataset_folder, doors::Doors, preparing::split_path, reading::Fault,
    recipe::DataSettings,
};

/// Makes what `source` of `[data]` names.
///
/// # Errors
/// As [`PartConfig::make`].
pub(crate) fn make_source(source: &PartConfig, doors: &Doors) -> Result<Box<dyn RowSource>, Fault> {
    source.make("source", SOURCES, &doors.sources).map_err(|fault| fault.below("source").below("data"))
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
            let options = ReadOptions { allow_outside: data.allow_outside, ..ReadOptions::default() };
            return Ok(Self::Folder { folder: dataset_folder(&data.dataset)?, options });
        };
        let made = make_source(source, doors);
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
