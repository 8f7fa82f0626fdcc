#![doc = include_str!("../README.md")]

use kyoka_core::{Maker, own};

mod columns;
mod error;
mod fingerprint;
mod image_folders;
mod json;
mod order;
mod pairs;
mod rows;
mod source;
mod store;
mod warnings;

pub use error::{DataError, RowFault};
pub use fingerprint::{Fingerprint, MediaNames};
pub use image_folders::ImageFolders;
pub use order::Shuffled;
pub use pairs::{PreferenceRow, read_pairs};
pub use rows::{ReadOptions, Rows, Scan, read_jsonl, scan_jsonl};
pub use source::{RowSource, SourceError};
pub use store::MediaStore;
pub use warnings::UNREAD;

/// Sources that need nothing but settings of their own, by the kind that recipes call them, and what makes them.
#[rustfmt::skip] // A line a kind, as `cargo xtask new` adds them.
pub const SOURCES: &[(&str, Maker<dyn RowSource>)] = &[
    ("image_folders", |settings| Ok(Box::new(own::<ImageFolders>(settings)?))),
];
