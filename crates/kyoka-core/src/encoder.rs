//! What turns a picture or a sound into vectors for the decoder.

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};

/// What an encoder gives back for a batch of media: one vector a position, medium after medium, nothing padded.
#[derive(Debug, Clone)]
pub struct ModalityFeatures {
    /// Shape `[N, D]`, `N` the sum of the lengths.
    pub embeddings: Tensor<2>,
    /// Positions of each medium.
    pub lengths: Vec<usize>,
}

/// An encoder of one modality, usable alone or inside a policy.
///
/// It owns parameters, so it is a generic field of the model rather than a trait object.
pub trait ModalityEncoder: Module {
    /// One preprocessed medium, e.g. [`ImageInput`](crate::ImageInput).
    type Input;

    /// Width of the vectors it gives.
    fn d_output(&self) -> usize;

    /// How many positions `input` will fill, known before the encoder runs.
    fn num_positions(&self, input: &Self::Input) -> usize;

    /// Steps of time, rows and columns on which the positions lie, where a medium has such a grid; their product is the
    /// number of positions.
    fn grid(&self, _input: &Self::Input) -> Option<[usize; 3]> {
        None
    }

    /// Encodes a batch of media; all of them in one call.
    ///
    /// # Panics
    /// If `inputs` is empty, or an input does not have the size the encoder was built for.
    fn encode(&self, inputs: &[&Self::Input], device: &Device) -> ModalityFeatures;
}
