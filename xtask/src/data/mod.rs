//! `cargo xtask data`: makes the bundled datasets again, and those that cannot be bundled.

mod archive;
mod fashion;
mod questions;
mod speech;
pub mod spoken_count;
mod stamp_questions;
mod stamps;
pub mod tuxpaint;
mod vocabulary;
