//! From an encoder's features to the decoder's width.

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use kyoka_core::ModalityEncoder;
use kyoka_nn::{GeluMlp, WeightInit};

/// Folds adjacent positions into one token and maps it to the decoder's width.
///
/// Folding is how connectors shorten the sequence: Idefics3 folds squares of patches, Ultravox stacks audio frames.
#[derive(Module, Debug)]
pub struct Projector {
    mlp: GeluMlp,
    fold: usize,
}

impl Projector {
    /// Positions of width `d_input`, `fold` of them to a token of width `d_output`.
    pub fn new(d_input: usize, fold: usize, d_output: usize, init: &mut WeightInit) -> Self {
        assert!(fold > 0, "projector: expected a fold of at least 1, got 0");
        Self { mlp: GeluMlp::new(d_input * fold, d_output, d_output, init), fold }
    }

    /// # Shapes
    /// - input: `[B, P, D]` with `P` a multiple of the fold
    /// - output: `[B * P / fold, d_output]`
    pub fn forward(&self, features: Tensor<3>) -> Tensor<2> {
        let [b, p, d] = features.dims();
        assert!(p % self.fold == 0, "projector: {p} positions are not a multiple of the fold {}", self.fold);
        self.mlp.forward(features.reshape([b * p / self.fold, d * self.fold]))
    }
}

/// An encoder with its projector: one sense of the policy.
#[derive(Module, Debug)]
pub struct Tower<E: Module> {
    /// Medium to features.
    pub encoder: E,
    /// Features to tokens.
    pub projector: Projector,
}

impl<E: ModalityEncoder> Tower<E> {
    /// How many tokens a medium takes, before it runs.
    pub fn num_tokens(&self, input: &E::Input) -> usize {
        self.encoder.num_positions(input) / self.projector.fold
    }

    /// All media in one call; rows in the order of the media.
    ///
    /// # Shapes
    /// - output: `[N, d_output]` with `N` the sum of the media's tokens
    pub fn forward(&self, inputs: &[&E::Input], device: &Device) -> Tensor<2> {
        self.projector.forward(self.encoder.encode(inputs, device).embeddings)
    }
}
