//! The pre-norm transformer layer of vision and audio towers.

use std::sync::Arc;

use burn::{module::Module, nn::Linear, tensor::Tensor};
use serde::{Deserialize, Serialize};

use crate::{Activation, AttentionLayout, GeluMlp, HeadConfig, LayerNorm, WeightInit, packed_attention};

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
    /// Between the two matrices of the MLP.
    #[serde(default)]
    pub activation: Activation,
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
        let EncoderLayerConfig { d_model, num_heads, d_hidden, norm_epsilon, activation } = config;
        assert!(
            d_model % num_heads == 0,
            "encoder layer: {num_heads} heads do not divide the width {d_model}"
        );
        Self {
            attention_norm: LayerNorm::new(d_model, norm_epsilon, init),
            qkv: init.linear(d_model, 3 * d_model, true),
            out: init.residual_linear(d_model, d_model, true, 3),
            mlp_norm: LayerNorm::new(d_model, norm_epsilon, init),
            mlp: GeluMlp::new([d_model, d_hidden, d_model], activation, init),
            num_heads,
        }
    }

    /// Layers one after the other, every position of an input seeing every other.
    ///
    /// # Shapes
    /// - input and output: `[B, T, D]`
    pub fn run(layers: &[Self], input: Tensor<3>) -> Tensor<3> {
        let [b, t, d] = input.dims();
        let Some(first) = layers.first() else { return input };
        let layout = first.layout(b, t);
        let rows = input.reshape([b * t, d]);
        layers.iter().fold(rows, |rows, layer| layer.forward(rows, &layout)).reshape([b, t, d])
    }

    fn forward(&self, input: Tensor<2>, layout: &Arc<AttentionLayout>) -> Tensor<2> {
        let qkv = self.qkv.forward(self.attention_norm.forward(input.clone()));
        let input = input + self.out.forward(packed_attention(qkv, layout));
        input.clone() + self.mlp.forward(self.mlp_norm.forward(input))
    }

    fn layout(&self, batch: usize, positions: usize) -> Arc<AttentionLayout> {
        let [d_model, _] = self.out.weight.dims();
        let num_heads = self.num_heads;
        let heads = HeadConfig { num_heads, num_kv_heads: num_heads, d_head: d_model / num_heads };
        Arc::new(AttentionLayout::new(heads, &vec![positions; batch], false))
    }
}
