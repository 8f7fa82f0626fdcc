#![doc = include_str!("../README.md")]

mod chat_template;
mod checkpoint;
mod decode;
mod error;
mod jinja;
mod layout;
mod literal;
mod media_marks;
mod tokenizer;

pub use chat_template::{ChatTemplate, Conversation};
pub use decode::DecodedText;
pub use error::TextError;
pub use layout::PromptLayout;
pub use media_marks::{MediaMark, MediaMarks, MediumTokens, TileMarks};
pub use tokenizer::{END_TOKEN, Tokenizer};
