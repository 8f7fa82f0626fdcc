#![doc = include_str!("../README.md")]

mod error;
mod layout;
mod tokenizer;

pub use error::TextError;
pub use layout::PromptLayout;
pub use tokenizer::{DecodedText, END_TOKEN, Tokenizer};
