//! Low-rank adapters of a policy: what is trained where they are, and their files in PEFT's layout.

mod names;
mod peft_config;
mod places;
mod read;
mod saved;
mod settings;
mod tensors;
mod write;

pub(crate) use names::{canonical, head_module};
pub(crate) use places::merged;
pub use places::{AdapterPlace, Adapters};
pub(crate) use read::{is_adapter, read_adapter};
pub(crate) use saved::Naming;
pub use saved::SavedParameter;
pub use settings::LoraSettings;
pub(crate) use settings::{ExistingAdapters, matches};
pub(crate) use write::{AdapterFile, write_adapter};

/// What stands before every name in PEFT's files.
const PREFIX: &str = "base_model.model.";
