//! A tiny policy learns to repeat the token it is shown, by every stage and preset.
#![expect(clippy::unwrap_used, reason = "a test")]

mod dropout;
mod preference;
mod presets;
mod refusals;
mod resuming;
mod steps;
mod turns;
mod words;
