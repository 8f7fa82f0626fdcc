#![doc = include_str!("../README.md")]

mod device_draw;
mod engine;
mod sampling;

pub use engine::{DecodeText, LocalEngine};
pub use sampling::distribution;
