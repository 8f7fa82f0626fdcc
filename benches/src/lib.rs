//! Criterion measurements of the crates, one file a crate.
