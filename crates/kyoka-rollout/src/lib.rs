#![doc = include_str!("../README.md")]

mod engine;
mod sampling;

pub use engine::{DecodeText, LocalEngine};
pub use sampling::distribution;
