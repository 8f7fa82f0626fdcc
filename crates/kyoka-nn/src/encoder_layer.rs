//! The pre-norm transformer layer of vision and audio towers.

use burn::{module::Module, nn::Linear, tensor::Tensor};
use serde::{Deserialize, Serialize};

use crate::{GeluMlp, LayerNorm, WeightInit, attend};

/// Sizes of an encoder layer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EncoderLayerConfig {
    /// Width.
    pub d_model: usize,
    /// Number of heads; divides the width.
    pub num_heads: usize,
    /// Width of the MLP.
    pub d_hidden: usize,
    /// Added to the variance in the norms.
    pub norm_epsilon: f64,
}

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`, every position seeing every other.
#[derive(Module, Debug)]
pub struct EncoderLayer {
    /// Norm before the attention.
    pub attention_norm: LayerNorm,
    /// Queries, keys and values in one matrix `[D, 3 D]`, in this order.
    pub qkv: Linear,
    /// Output projection `[D, D]`.
    pub out: Linear,
    /// Norm before the MLP.
    pub mlp_norm: LayerNorm,
    /// Feed-forward block.
    pub mlp: GeluMlp,
    num_heads: usize,
}

impl EncoderLayer {
    /// A layer with seeded weights.
    pub fn new(config: EncoderLayerConfig, init: &mut WeightInit) -> Self {
        let EncoderLayerConfig { d_model, num_heads, d_hidden, norm_epsilon } = config;
        assert!(
            d_model % num_heads == 0,
            "encoder layer: {num_heads} heads do not divide the width {d_model}"
        );
        Self {
            attention_norm: LayerNorm::new(d_model, norm_epsilon, init),
            qkv: init.linear(d_model, 3 * d_model, true),
            out: init.residual_linear(d_model, d_model, true, 3),
            mlp_norm: LayerNorm::new(d_model, norm_epsilon, init),
            mlp: GeluMlp::new(d_model, d_hidden, d_model, init),
            num_heads,
        }
    }

    /// # Shapes
    /// - input and output: `[B, T, D]`
    pub fn forward(&self, input: Tensor<3>) -> Tensor<3> {
        let [b, t, d] = input.dims();
        let input: Tensor<2> = input.reshape([b * t, d]);
        let mixed = self.attention(self.attention_norm.forward(input.clone()), b, t);
        let input = input + self.out.forward(mixed);
        let output = input.clone() + self.mlp.forward(self.mlp_norm.forward(input));
        output.reshape([b, t, d])
    }

    /// # Shapes
    /// - input and output: `[B * T, D]`
    fn attention(&self, input: Tensor<2>, b: usize, t: usize) -> Tensor<2> {
        let [_, d] = input.dims();
        let (h, d_head) = (self.num_heads, d / self.num_heads);
        // [3, B, H, T, Dh]
        let qkv: Tensor<5> = self.qkv.forward(input).reshape([b, t, 3, h, d_head]).permute([2, 0, 3, 1, 4]);
        let part = |index: usize| qkv.clone().narrow(0, index, 1).reshape([b, h, 1, t, d_head]);
        attend(part(0), part(1), part(2), None, None)
            .reshape([b, h, t, d_head])
            .swap_dims(1, 2)
            .reshape([b * t, d])
    }
}
