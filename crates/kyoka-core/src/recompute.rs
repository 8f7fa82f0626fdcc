//! Training that keeps less and recomputes the rest in the backward pass.

use std::any::Any;

use burn::{
    optim::GradientsParams,
    tensor::{Gradients, Tensor},
};

use crate::{Distribution, PackedGroup};

/// What the backward pass below a cut needs; the model that made it knows its type.
pub type SavedPass = Box<dyn Any + Send>;

/// A scored batch whose gradient graph ends at the last hidden rows.
pub struct CutScore {
    /// As [`CausalLm::score`](crate::CausalLm::score) gives them.
    pub logprobs: Tensor<2>,
    /// As [`CausalLm::score_with_hidden`](crate::CausalLm::score_with_hidden) gives them, if they were asked for.
    pub hidden: Option<Tensor<3>>,
    /// What the backward pass below the last hidden rows needs.
    pub saved: SavedPass,
}

/// A language model that can keep the inputs of its layers alone, and recompute everything else in the backward pass: one
/// more forward pass for memory that holds one layer at a time.
///
/// [`CausalLm::recompute`](crate::CausalLm::recompute) says whether a model can.
pub trait Recompute {
    /// Scores completions; nothing below the last hidden rows is kept for gradients but the inputs of the layers.
    fn score_cut(
        &self,
        groups: &[PackedGroup<'_>],
        distribution: &Distribution<'_>,
        with_hidden: bool,
    ) -> CutScore;

    /// Goes back through the layers of a cut pass. `gradients` are those of a loss of its log-probabilities and hidden
    /// rows; `take` gets the gradients of the parameters part by part. A parameter may come in several parts, to be
    /// added; `gradients` holds those of the parts above the cut.
    ///
    /// # Panics
    /// If `saved` is not of a pass of this model over `groups`.
    fn backward_cut(
        &self,
        groups: &[PackedGroup<'_>],
        saved: SavedPass,
        gradients: &mut Gradients,
        take: &mut dyn FnMut(GradientsParams),
    );
}
