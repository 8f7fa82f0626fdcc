#![doc = include_str!("../README.md")]

mod chat_template;
mod checkpoint;
mod error;
mod jinja;
mod layout;
mod media_marks;
mod tokenizer;

pub use chat_template::{ChatTemplate, Conversation};
pub use error::TextError;
pub use layout::PromptLayout;
pub use media_marks::{MediaMark, MediaMarks, MediumTokens, TileMarks};
pub use tokenizer::{DecodedText, END_TOKEN, Tokenizer};
