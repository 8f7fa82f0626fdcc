#![doc = include_str!("../README.md")]

mod error;
mod jsonl;
mod order;
mod store;

pub use error::{DataError, RowFault};
pub use jsonl::{ReadOptions, read_jsonl, scan_jsonl};
pub use order::Shuffled;
pub use store::MediaStore;
