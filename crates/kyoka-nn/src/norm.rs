//! Layer norm (arXiv 1607.06450) and root-mean-square norm (arXiv 1910.07467).

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use serde::{Deserialize, Serialize};

use crate::{WeightInit, fused};

/// Which norm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// `(x - mean) / sqrt(var + eps) * gamma + beta`.
    #[default]
    Layer,
    /// `x / sqrt(mean(x²) + eps) * gamma`.
    RootMeanSquare,
}

/// A norm over the last dimension. With an offset it is the layer norm, without one the root-mean-square norm.
#[derive(Module, Debug)]
pub struct Norm {
    /// Scale, shape `[D]`.
    pub gamma: Param<Tensor<1>>,
    /// Offset of the layer norm, shape `[D]`.
    pub beta: Option<Param<Tensor<1>>>,
    epsilon: f64,
}

impl Norm {
    /// Scale 1, offset 0.
    pub fn new(kind: NormKind, d_model: usize, epsilon: f64, init: &WeightInit) -> Self {
        let beta = (kind == NormKind::Layer).then(|| init.zeros([d_model]));
        Self { gamma: init.ones([d_model]), beta, epsilon }
    }

    /// # Shapes
    /// - input and output: `[N, D]`
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        let gamma = self.gamma.val();
        match &self.beta {
            Some(beta) => fused::layer_norm(input, gamma, beta.val(), self.epsilon),
            None => fused::rms_norm(input, gamma, self.epsilon),
        }
    }
}
