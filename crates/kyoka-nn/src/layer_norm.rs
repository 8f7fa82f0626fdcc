//! Layer norm (arXiv 1607.06450).

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};

use crate::{WeightInit, fused};

/// `(x - mean) / sqrt(var + eps) * gamma + beta` over the last dimension.
///
/// Burn's own keeps its epsilon private, which the fused form needs.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Scale, shape `[D]`.
    pub gamma: Param<Tensor<1>>,
    /// Offset, shape `[D]`.
    pub beta: Param<Tensor<1>>,
    pub(crate) epsilon: f64,
}

impl LayerNorm {
    /// Scale 1, offset 0.
    pub fn new(d_model: usize, epsilon: f64, init: &WeightInit) -> Self {
        Self { gamma: init.ones([d_model]), beta: init.zeros([d_model]), epsilon }
    }

    /// # Shapes
    /// - input and output: `[N, D]`
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        fused::layer_norm(self, input)
    }
}
