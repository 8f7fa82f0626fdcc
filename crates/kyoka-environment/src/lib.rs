#![doc = include_str!("../README.md")]

use kyoka_core::{Maker, own};

mod crop;
mod tool;
mod tool_calls;
mod tools;

pub use crop::{BoxUnit, Crop};
pub use tool::{Tool, ToolError};
pub use tool_calls::{ToolCall, tool_calls};
pub use tools::Tools;

/// Tools that need nothing but settings of their own, by the kind that recipes call them, and what makes them.
#[rustfmt::skip] // A line a kind, as `cargo xtask new` adds them.
pub const TOOLS: &[(&str, Maker<dyn Tool>)] = &[
    ("crop", |settings| Ok(Box::new(own::<Crop>(settings)?))),
];
