//! Criterion measurements, one folder a crate.
