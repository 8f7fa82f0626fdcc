//! Experiments of `docs/experiments`, rerun in parts: what is done stays done.

mod algorithms;
mod page;
mod plot;
mod results;

pub use algorithms::{AlgorithmsArgs, run_algorithms};
