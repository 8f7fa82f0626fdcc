//! The operations as an extension of Burn's backends.

use std::sync::Arc;

use burn::backend::{Backend, backend_extension, tensor::FloatTensor};

use super::Targets;
use crate::AttentionLayout;

/// Fused forward passes; tensors are contiguous rows of f32.
#[backend_extension(Flex, Autodiff)]
pub trait FusedOps: Backend {
    fn fused_rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;

    fn fused_layer_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self>;

    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;

    fn fused_gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self>;

    fn fused_swiglu(gate_up: FloatTensor<Self>) -> FloatTensor<Self>;

    fn fused_softmax(scores: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `tied` says that the weight is the embedding, `[V, D]`.
    fn head_logprobs(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        tied: bool,
        targets: Arc<Targets>,
    ) -> FloatTensor<Self>;

    /// See [`crate::packed_attention`].
    fn fused_attention(qkv: FloatTensor<Self>, layout: Arc<AttentionLayout>) -> FloatTensor<Self>;

    /// `direction` is 1, or -1 to turn back.
    fn fused_rotate(
        heads: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        direction: f32,
    ) -> FloatTensor<Self>;
}

/// Fused backward passes: gradients of the inputs from the gradient of the output.
pub trait FusedBackward: FusedOps {
    /// Of `x` and of `gamma`.
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f32,
    ) -> [FloatTensor<Self>; 2];

    /// Of `x`, `gamma` and `beta`.
    fn layer_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f32,
    ) -> [FloatTensor<Self>; 3];

    fn attention_backward(
        qkv: FloatTensor<Self>,
        layout: Arc<AttentionLayout>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    fn fused_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;

    fn gelu_tanh_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;

    fn swiglu_backward(gate_up: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;

    fn fused_softmax_backward(weights: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Of the hidden rows and of the weight; `inputs` are these two.
    fn head_logprobs_backward(
        inputs: [FloatTensor<Self>; 2],
        tied: bool,
        targets: Arc<Targets>,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2];
}
