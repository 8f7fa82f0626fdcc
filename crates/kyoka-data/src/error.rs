//! What can be wrong with a dataset.

use std::path::PathBuf;

use kyoka_core::Origin;

use crate::SourceError;

/// One fault of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFault {
    /// File and place of the row.
    pub origin: Origin,
    /// The field, if one can be named.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
}

impl std::fmt::Display for RowFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// Why a dataset cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file cannot be read.
    #[error("dataset {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A source does not give its rows.
    #[error("dataset {path}: {source}")]
    Source {
        /// The source's name and the split.
        path: PathBuf,
        /// Why.
        source: SourceError,
    },
    /// The file holds no row.
    #[error("dataset {path}: no rows")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Rows are faulty; all faults are listed.
    #[error("{} faulty place(s) in the dataset:\n  {}", .0.len(), .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "))]
    Rows(Vec<RowFault>),
}
