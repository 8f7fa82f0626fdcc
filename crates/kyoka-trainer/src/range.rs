//! Ranges of the stages' settings, checked before the first row is read.

use kyoka_algorithms::AlgorithmError;

/// A setting out of its range, or a combination without meaning.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SettingError {
    /// A number is out of its range.
    #[error("{key}: expected {expected}, got {got}")]
    Range {
        /// The setting's place in the recipe, e.g. `rl.optimizer.beta_1`.
        key: String,
        /// Its range.
        expected: String,
        /// The value.
        got: String,
    },
    /// The algorithm of a stage.
    #[error("{stage}.{source}")]
    Algorithm {
        /// The stage's name.
        stage: String,
        /// What is wrong with it.
        source: AlgorithmError,
    },
}

/// A setting that a configuration holds but does not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// The setting's place in the recipe.
    pub key: String,
    /// What would read it, as the recipe says it.
    pub reader: &'static str,
}

impl SettingError {
    pub(crate) fn range(key: String, expected: impl Into<String>, got: impl ToString) -> Self {
        Self::Range { key, expected: expected.into(), got: got.to_string() }
    }

    /// From an algorithm's error to a setting's.
    pub(crate) fn algorithm(stage: &str) -> impl Fn(AlgorithmError) -> Self {
        move |source| Self::Algorithm { stage: stage.to_owned(), source }
    }
}

/// An error that names the first count that is 0.
pub(crate) fn at_least_1(prefix: &str, counts: &[(&str, usize)]) -> Result<(), SettingError> {
    match counts.iter().find(|(_, count)| *count == 0) {
        Some((field, _)) => Err(SettingError::range(format!("{prefix}.{field}"), "at least 1", 0)),
        None => Ok(()),
    }
}

/// An error that names the number, unless it `holds` and is one.
pub(crate) fn number(
    prefix: &str,
    (field, got): (&str, f64),
    holds: bool,
    expected: &str,
) -> Result<(), SettingError> {
    let key = || format!("{prefix}.{field}");
    if holds && !got.is_nan() { Ok(()) } else { Err(SettingError::range(key(), expected, got)) }
}
