//! `cargo xtask data`: makes the bundled datasets again.

mod archive;
mod fashion;
mod questions;
mod speech;
pub mod spoken_count;
mod vocabulary;
