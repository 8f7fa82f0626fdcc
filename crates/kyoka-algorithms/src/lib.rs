#![doc = include_str!("../README.md")]

mod adaptive_kl;
pub mod advantage;
mod algorithm;
mod checks;
mod compose;
mod config;
pub mod correction;
mod entropy;
pub mod filter;
mod kl;
mod own_part;
pub mod policy_loss;
pub mod preference;
mod presets;
mod readers;
mod reduction;
mod value_loss;

pub use adaptive_kl::AdaptiveKl;
pub use algorithm::{
    Algorithm, AlgorithmError, CorrectionKind, Credit, CriticKind, CriticSettings, LossKind, PartNames,
    Preset, ReferenceRefresh, Rejection, RejectionKind, ReplaySettings, SampleFilters,
};
pub use config::{AlgorithmConfig, AlgorithmOverrides};
pub use correction::{Correction, MismatchMetrics, WeightBound, WeightLevel};
pub use entropy::{EntropyBonus, entropy};
pub use kl::{Kl, KlEstimator, KlInput, KlPlacement, full_kl};
pub use own_part::{Choice, OwnPart, OwnParts, PartDoor};
pub use reduction::Reduction;
pub use value_loss::{ValueLossInput, explained_variance, positive_nll, value_loss};
