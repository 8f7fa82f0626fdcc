#![doc = include_str!("../README.md")]

pub mod advantage;
mod algorithm;
mod kl;
pub mod policy_loss;
mod reduction;

pub use algorithm::{Algorithm, AlgorithmConfig, AlgorithmError, AlgorithmOverrides, Preset};
pub use kl::{Kl, KlEstimator};
pub use reduction::Reduction;
