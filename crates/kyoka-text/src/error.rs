//! What can go wrong with text.

use std::path::PathBuf;

/// Why a tokenizer could not be read or used.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The file cannot be read.
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
    /// A special token is not in the vocabulary.
    #[error("tokenizer: special token {token} is not in the vocabulary")]
    MissingSpecial {
        /// Its text.
        token: String,
    },
    /// Running text holds the placeholder of a medium.
    #[error("text holds the placeholder {placeholder}, which only stands for a medium: {excerpt:?}")]
    StrayPlaceholder {
        /// Which one.
        placeholder: &'static str,
        /// Where it was found.
        excerpt: String,
    },
}
