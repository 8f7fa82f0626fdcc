#![doc = include_str!("../README.md")]

mod error;
mod jsonl;
mod order;
mod pairs;
mod store;

pub use error::{DataError, RowFault};
pub use jsonl::{ReadOptions, read_jsonl, scan_jsonl};
pub use order::Shuffled;
pub use pairs::{PreferenceRow, read_pairs};
pub use store::MediaStore;
