//! What turns a picture or a sound into vectors for the decoder.

use burn::{
    module::Module,
    tensor::{Bool, Device, Tensor},
};

/// What an encoder gives back for a batch of media.
#[derive(Debug, Clone)]
pub struct ModalityFeatures {
    /// One vector per position, shape `[B, P, D]`.
    pub embeddings: Tensor<3>,
    /// True where a position is real, shape `[B, P]`.
    pub mask: Tensor<2, Bool>,
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

    /// Encodes a batch of media; all of them in one call.
    ///
    /// # Panics
    /// If `inputs` is empty, or an input does not have the size the encoder was built for.
    fn encode(&self, inputs: &[&Self::Input], device: &Device) -> ModalityFeatures;
}
