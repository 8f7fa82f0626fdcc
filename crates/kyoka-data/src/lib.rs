#![doc = include_str!("../README.md")]

mod columns;
mod error;
mod fingerprint;
mod json;
mod order;
mod pairs;
mod rows;
mod store;
mod warnings;

pub use error::{DataError, RowFault};
pub use fingerprint::Fingerprint;
pub use order::Shuffled;
pub use pairs::{PreferenceRow, read_pairs};
pub use rows::{ReadOptions, Rows, Scan, read_jsonl, scan_jsonl};
pub use store::MediaStore;
