//! Per-token surrogate objectives.

mod clipped;

pub use clipped::{ClippedLoss, LOG_RATIO_BOUND};
