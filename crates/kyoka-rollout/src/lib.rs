#![doc = include_str!("../README.md")]

mod device_draw;
mod engine;
mod sampling;
mod turn_by_turn;

pub use engine::{DecodeText, LocalEngine};
pub use sampling::distribution;
pub use turn_by_turn::TurnByTurn;
