//! What can be wrong with a checkpoint.

use std::path::{Path, PathBuf};

use kyoka_core::nearest;

/// Why a checkpoint cannot be read, used or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refuses.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its reason.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {field}: expected {expected}, got {got}")]
    Invalid {
        /// The file or folder.
        path: PathBuf,
        /// The tensor or the part of the file.
        field: String,
        /// What should stand there.
        expected: String,
        /// What does.
        got: String,
    },
    /// Tensors and model, or tensors and index, do not fit: everything that is wrong, at once.
    #[error("{path}: {} tensor(s) do not fit:\n  {}", .faults.len(), lines(.faults))]
    Tensors {
        /// The file or folder.
        path: PathBuf,
        /// One a tensor.
        faults: Vec<TensorFault>,
    },
}

fn lines(faults: &[TensorFault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  ")
}

impl CheckpointError {
    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    pub(super) fn invalid(
        path: &Path,
        field: impl Into<String>,
        expected: impl ToString,
        got: impl ToString,
    ) -> Self {
        Self::Invalid {
            path: path.to_owned(),
            field: field.into(),
            expected: expected.to_string(),
            got: got.to_string(),
        }
    }

    /// `Ok` if there is no fault.
    pub(super) fn unless_empty(path: &Path, faults: Vec<TensorFault>) -> Result<(), Self> {
        if faults.is_empty() { Ok(()) } else { Err(Self::Tensors { path: path.to_owned(), faults }) }
    }
}

/// What is wrong with one tensor, or with the parameter that is made of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorFault {
    /// The model needs it, the file has it not.
    #[error("{name}: missing{}", hint(.nearest))]
    Missing {
        /// The tensor.
        name: String,
        /// The tensor that the file has instead, perhaps.
        nearest: Option<String>,
    },
    /// The file has it, the model does not need it.
    #[error("{name}: not a tensor of this model{}", hint(.nearest))]
    Superfluous {
        /// The tensor.
        name: String,
        /// The tensor that the model needs instead, perhaps.
        nearest: Option<String>,
    },
    /// It has another shape than the model.
    #[error("{name}: expected shape {expected}, got {got}")]
    Misshapen {
        /// The tensor, or several that form one parameter.
        name: String,
        /// As the model has it.
        expected: String,
        /// As the file has it.
        got: String,
    },
    /// Its numbers are of another kind.
    #[error("{name}: expected numbers in {expected}, got {got}")]
    OtherDtype {
        /// The tensor.
        name: String,
        /// What can be read.
        expected: &'static str,
        /// What the file has.
        got: String,
    },
    /// The index and the shards contradict each other.
    #[error("{name}: expected in {expected}, got it in {got}")]
    OtherShard {
        /// The tensor.
        name: String,
        /// Where it should be.
        expected: String,
        /// Where it is.
        got: String,
    },
    /// A parameter of the model that no rule makes, or a rule that makes none.
    #[error("{name}: {reason}")]
    NoRule {
        /// The parameter.
        name: String,
        /// Which of the two.
        reason: &'static str,
    },
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!(" (nearest: {name})")).unwrap_or_default()
}

/// Comparisons of names spent on hints: two foreign checkpoints of thousands of tensors would take minutes.
const MOST_COMPARISONS: usize = 200_000;

/// One fault a missing and one a superfluous name. A missing one names the nearest superfluous one; a superfluous one the
/// nearest missing one, or if none is missing, of all that are `known`.
pub(super) fn differences(missing: &[&str], superfluous: &[&str], known: &[&str]) -> Vec<TensorFault> {
    let candidates = if missing.is_empty() { known } else { missing };
    let hinted = candidates.len().saturating_mul(superfluous.len()) <= MOST_COMPARISONS;
    let near = |name: &str, others: &[&str]| {
        nearest(name, others.iter().copied().filter(|_| hinted)).map(str::to_owned)
    };
    let missing_faults = missing
        .iter()
        .map(|&name| TensorFault::Missing { name: name.to_owned(), nearest: near(name, superfluous) });
    let superfluous_faults = superfluous
        .iter()
        .map(|&name| TensorFault::Superfluous { name: name.to_owned(), nearest: near(name, candidates) });
    missing_faults.chain(superfluous_faults).collect()
}
