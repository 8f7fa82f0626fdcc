//! Training that keeps less and computes again.

use burn::{
    optim::GradientsParams,
    tensor::{Gradients, Tensor},
};

use crate::{CausalLm, Distribution, PackedGroup};

/// A scored batch whose gradient graph ends at the last hidden rows.
pub struct CutScore<S> {
    /// As [`CausalLm::score`] gives them.
    pub logprobs: Tensor<2>,
    /// As [`CausalLm::score_with_hidden`] gives them, if they were asked for.
    pub hidden: Option<Tensor<3>>,
    /// What the way back below the last hidden rows needs.
    pub saved: S,
}

/// A language model that can keep the inputs of its layers alone, and compute everything else again on the way back: one
/// more forward pass for memory that holds one layer at a time.
pub trait Recompute: CausalLm {
    /// The inputs of the layers.
    type Saved;

    /// Scores completions; nothing below the last hidden rows is kept for gradients but the inputs of the layers.
    fn score_cut(
        &self,
        groups: &[PackedGroup<'_>],
        distribution: &Distribution<'_>,
        with_hidden: bool,
    ) -> CutScore<Self::Saved>;

    /// Goes back through the layers of a cut pass. `gradients` are those of a loss of its log-probabilities and hidden
    /// rows; `take` gets the gradients of the parameters part by part. A parameter may come in several parts, to be
    /// added; `gradients` holds those of the parts above the cut.
    fn backward_cut(
        &self,
        groups: &[PackedGroup<'_>],
        saved: Self::Saved,
        gradients: &mut Gradients,
        take: &mut dyn FnMut(GradientsParams),
    );
}
