//! What can go wrong between a recipe and a report.

use std::path::PathBuf;

use kyoka_data::DataError;
use kyoka_nn::CheckpointError;
use kyoka_text::TextError;
use kyoka_trainer::TrainError;

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A recipe does not exist.
    #[error("recipe {name}: no such file and no bundled recipe of that name (bundled: {bundled})")]
    UnknownRecipe {
        /// What was asked for.
        name: String,
        /// What there is.
        bundled: String,
    },
    /// A recipe cannot be understood.
    #[error("recipe {name}: {reason}")]
    Recipe {
        /// Which one.
        name: String,
        /// What is wrong, and where.
        reason: String,
    },
    /// A file or folder cannot be read or written.
    #[error("{path}: {reason}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A device does not exist or was not compiled in.
    #[error("device {name}: {reason}")]
    Device {
        /// What was asked for.
        name: String,
        /// What there is.
        reason: String,
    },
    /// A split is not part of the dataset.
    #[error("split {name}: no file {path} (splits there: {known})")]
    UnknownSplit {
        /// What was asked for.
        name: String,
        /// Where it was looked for.
        path: PathBuf,
        /// What there is.
        known: String,
    },
    /// A run cannot be resumed with this recipe.
    #[error(
        "resume {path}: the run was made with another recipe; these settings differ: {fields} (what may differ: {})",
        crate::RESUMABLE.join(", ")
    )]
    OtherRecipe {
        /// The run's folder.
        path: PathBuf,
        /// Dotted names.
        fields: String,
    },
    /// Settings that a resumed run can no longer take up.
    #[error("resume {path}: the run stands at {place}, so that these settings come too late: {fields}")]
    TooLate {
        /// The run's folder.
        path: PathBuf,
        /// Dotted names with both values.
        fields: String,
        /// Where the run stands.
        place: String,
    },
    /// A run cannot be resumed with other rows.
    #[error(
        "resume {path}: the data are not those that the run was made with: {changes}; put them back, or start a new run from the checkpoint with --set model.start={path}"
    )]
    OtherData {
        /// The run's folder.
        path: PathBuf,
        /// What is different, by split.
        changes: String,
    },
    /// A prompt or a message cannot be answered: a medium cannot be read, or it is longer than the model holds.
    #[error("{what}: {reason}")]
    Unanswered {
        /// `prompt` or `message`.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// An argument of a command is missing or does not fit the others.
    #[error("{name}: {reason}")]
    Argument {
        /// The argument.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A dataset is faulty.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A tokenizer or a text is faulty.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A checkpoint is faulty or does not fit.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Training stopped.
    #[error(transparent)]
    Train(#[from] TrainError),
}

impl Error {
    pub(crate) fn unanswered(what: &'static str, reason: impl std::fmt::Display) -> Self {
        Self::Unanswered { what, reason: reason.to_string() }
    }

    pub(crate) fn argument(name: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Argument { name: name.into(), reason: reason.to_string() }
    }

    pub(crate) fn file(path: impl Into<PathBuf>, reason: impl std::fmt::Display) -> Self {
        Self::File { path: path.into(), reason: reason.to_string() }
    }
}
