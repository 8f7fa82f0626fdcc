//! What is trained.

use burn::module::{Module, ModuleDisplay};
use kyoka_core::CausalLm;

/// A language model whose parameters can be trained, saved and copied: any [`CausalLm`] that is a Burn module.
pub trait TrainableLm: CausalLm + Module + ModuleDisplay {}

impl<M: CausalLm + Module + ModuleDisplay> TrainableLm for M {}
