//! A scored micro-batch on its way to gradients, with or without recomputation.

use burn::{
    module::Module,
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{Gradients, Tensor},
};
use kyoka_core::{CutScore, Distribution, PackedGroup, SavedPass};

use crate::{TrainableLm, gradients::widened};

/// Stages ask for it where the session has seen that the model can.
const CAN_RECOMPUTE: &str = "a model that recomputes its layers";

/// How a pass is run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PassKind<'a> {
    /// What the log-probabilities mean; by default those of supervised learning.
    pub distribution: Distribution<'a>,
    /// Whether the loss reads hidden rows.
    pub with_hidden: bool,
    /// Whether layers are recomputed in the backward pass instead of kept.
    pub recompute: bool,
}

/// Log-probabilities of a micro-batch, and what the way back from a loss of them needs.
pub(crate) struct Pass<'a, M: TrainableLm> {
    model: &'a M,
    groups: &'a [PackedGroup<'a>],
    /// `[R, T]`; padding holds 0.
    pub logprobs: Tensor<2>,
    /// `[R, T, D]`, if asked for.
    pub hidden: Option<Tensor<3>>,
    saved: Option<SavedPass>,
}

impl<'a, M: TrainableLm> Pass<'a, M> {
    pub fn new(model: &'a M, groups: &'a [PackedGroup<'a>], kind: PassKind<'_>) -> Self {
        if kind.recompute {
            let cut = model.recompute().expect(CAN_RECOMPUTE);
            let CutScore { logprobs, hidden, saved } =
                cut.score_cut(groups, &kind.distribution, kind.with_hidden);
            return Self { model, groups, logprobs, hidden, saved: Some(saved) };
        }
        let (logprobs, hidden) = match kind.with_hidden {
            true => {
                let (logprobs, hidden) = model.score_with_hidden(groups, &kind.distribution);
                (logprobs, Some(hidden))
            }
            false => (model.score(groups, &kind.distribution), None),
        };
        Self { model, groups, logprobs, hidden, saved: None }
    }

    /// Adds the gradients of the model's parameters to those of `module`, which the model is or is part of.
    pub fn accumulate<N: Module>(
        self,
        mut gradients: Gradients,
        (module, accumulator): (&N, &mut GradientsAccumulator<N>),
    ) {
        if let Some(saved) = self.saved {
            let mut take = |part| accumulator.accumulate(module, widened(module, part));
            let cut = self.model.recompute().expect(CAN_RECOMPUTE);
            cut.backward_cut(self.groups, saved, &mut gradients, &mut take);
        }
        let rest = GradientsParams::from_grads(gradients, module);
        accumulator.accumulate(module, widened(module, rest));
    }
}
