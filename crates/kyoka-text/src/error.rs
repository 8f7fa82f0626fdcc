//! What can go wrong with text.

use std::path::PathBuf;

/// Why a tokenizer could not be read or used.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file cannot be read.
    #[error("tokenizer {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file is no tokenizer.
    #[error("tokenizer: {0}")]
    Parse(String),
    /// A file of a checkpoint does not hold what it must.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Field, expected and got.
        reason: String,
    },
    /// A special token is not in the vocabulary.
    #[error("tokenizer: special token {token} is not in the vocabulary")]
    MissingSpecial {
        /// Its text.
        token: String,
    },
    /// The prompt has more or fewer placeholders than media.
    #[error("expected {expected} {modality}(s) as the prompt has placeholders, got {got}")]
    MediaCount {
        /// Which kind of medium.
        modality: &'static str,
        /// Placeholders.
        expected: usize,
        /// Media.
        got: usize,
    },
    /// The tokenizer does not keep a placeholder as one token.
    #[error("tokenizer: expected the placeholder {placeholder} as one token of its own")]
    PlaceholderTokens {
        /// Its text.
        placeholder: String,
    },
    /// A chat template is broken, refuses the conversation, or does not end.
    #[error("chat template {path}: {reason}")]
    Template {
        /// The file it came from.
        path: PathBuf,
        /// What happened, and in which line.
        reason: String,
    },
}
