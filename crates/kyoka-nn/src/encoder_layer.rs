//! The pre-norm transformer layer of vision and audio towers.

use std::sync::Arc;

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use serde::{Deserialize, Serialize};

use crate::{
    Activation, AttentionLayout, GatedMlp, GeluMlp, HeadConfig, Linear, Linears, NamedLinears, Norm,
    NormKind, WeightInit, packed_attention,
};

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
    /// Which norms.
    #[serde(default)]
    pub norm: NormKind,
    /// Whether the MLP is gated: `down(silu(gate(x)) * up(x))`. The activation is then `silu`.
    #[serde(default)]
    pub gated: bool,
    /// Biases on queries, keys and values. Default true.
    #[serde(default = "yes")]
    pub qkv_bias: bool,
    /// Whether the bias of the keys learns. It shifts all scores of a query alike, which changes no attention, so families
    /// without one on disk keep zeros there: an optimizer would make steps of rounding errors. Default true.
    #[serde(default = "yes")]
    pub key_bias: bool,
    /// Whether each branch is scaled channel by channel before it is added (arXiv 2103.17239).
    #[serde(default)]
    pub layer_scale: bool,
}

fn yes() -> bool {
    true
}

impl EncoderLayerConfig {
    /// Layer norms and a plain MLP.
    ///
    /// # Panics
    /// If the heads do not divide the width.
    pub fn plain(d_model: usize, num_heads: usize, d_hidden: usize, norm_epsilon: f64) -> Self {
        assert!(
            num_heads > 0 && d_model.is_multiple_of(num_heads),
            "encoder layer: {num_heads} heads do not divide the width {d_model}"
        );
        let (activation, norm) = (Activation::Gelu, NormKind::Layer);
        let (gated, qkv_bias, key_bias, layer_scale) = (false, true, true, false);
        Self {
            d_model,
            num_heads,
            d_hidden,
            norm_epsilon,
            activation,
            norm,
            gated,
            qkv_bias,
            key_bias,
            layer_scale,
        }
    }

    /// The heads of its attention.
    pub fn heads(&self) -> HeadConfig {
        let Self { d_model, num_heads, .. } = *self;
        HeadConfig { num_heads, num_kv_heads: num_heads, d_head: d_model / num_heads }
    }
}

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`.
#[derive(Module, Debug)]
pub struct EncoderLayer {
    /// Norm before the attention.
    pub attention_norm: Norm,
    /// Queries, keys and values in one matrix `[D, 3 D]`, in this order.
    pub qkv: Linear,
    /// Output projection `[D, D]`.
    pub out: Linear,
    /// Scale of the attention's branch `[D]`, where there is one.
    pub attention_scale: Option<Param<Tensor<1>>>,
    /// Norm before the MLP.
    pub mlp_norm: Norm,
    /// Feed-forward block, where it is not gated.
    pub mlp: Option<GeluMlp>,
    /// Feed-forward block, where it is gated.
    pub gated_mlp: Option<GatedMlp>,
    /// Scale of the MLP's branch `[D]`, where there is one.
    pub mlp_scale: Option<Param<Tensor<1>>>,
    num_heads: usize,
    key_bias: bool,
}

impl EncoderLayer {
    /// A layer with seeded weights.
    pub fn new(config: EncoderLayerConfig, init: &mut WeightInit) -> Self {
        let EncoderLayerConfig { d_model, num_heads, d_hidden, norm_epsilon, activation, .. } = config;
        let norm = |init: &WeightInit| Norm::new(config.norm, d_model, norm_epsilon, init);
        let scale = |init: &WeightInit| config.layer_scale.then(|| init.ones([d_model]));
        Self {
            attention_norm: norm(init),
            qkv: init.linear(d_model, 3 * d_model, config.qkv_bias),
            out: init.residual_linear(d_model, d_model, true, 3),
            attention_scale: scale(init),
            mlp_norm: norm(init),
            mlp: (!config.gated).then(|| GeluMlp::new([d_model, d_hidden, d_model], activation, init)),
            gated_mlp: config.gated.then(|| GatedMlp::new(d_model, d_hidden, true, init)),
            mlp_scale: scale(init),
            num_heads,
            key_bias: config.key_bias,
        }
    }

    /// Layers one after the other over a flat pass of sequences; every position sees all of its own sequence.
    ///
    /// # Shapes
    /// - input and output: `[N, D]`
    pub fn run(layers: &[Self], input: Tensor<2>, layout: &Arc<AttentionLayout>) -> Tensor<2> {
        let attention = |qkv| packed_attention(qkv, layout);
        layers.iter().fold(input, |rows, layer| layer.forward(rows, attention))
    }

    /// One layer; `attention` mixes rows of queries, keys and values `[N, 3 D]` into `[N, D]`.
    ///
    /// # Shapes
    /// - input and output: `[N, D]`
    pub fn forward(&self, input: Tensor<2>, attention: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Tensor<2> {
        let bias = self.qkv.bias.as_ref().map(|bias| self.learning(bias.val()));
        let qkv = self.qkv.forward_with_bias(self.attention_norm.forward(input.clone()), bias);
        let mixed = scaled(self.out.forward(attention(qkv)), self.attention_scale.as_ref());
        let input = input + mixed;
        let normed = self.mlp_norm.forward(input.clone());
        let fed = match (&self.mlp, &self.gated_mlp) {
            (Some(mlp), _) => mlp.forward(normed),
            (None, Some(mlp)) => mlp.forward(normed),
            (None, None) => unreachable!("a layer has one of the two"),
        };
        input + scaled(fed, self.mlp_scale.as_ref())
    }

    /// The bias of queries, keys and values; that of the keys without gradient where it does not learn.
    fn learning(&self, bias: Tensor<1>) -> Tensor<1> {
        if self.key_bias {
            return bias;
        }
        let d_model = bias.dims()[0] / 3;
        let part = |number: usize| bias.clone().narrow(0, number * d_model, d_model);
        Tensor::cat(vec![part(0), part(1).detach(), part(2)], 0)
    }

    /// Sequences of the given lengths, one after the other, each seeing all of itself.
    ///
    /// # Panics
    /// If a length is 0.
    pub fn layout(&self, lengths: &[usize]) -> AttentionLayout {
        let [d_model, _] = self.out.weight.dims();
        let num_heads = self.num_heads;
        let heads = HeadConfig { num_heads, num_kv_heads: num_heads, d_head: d_model / num_heads };
        AttentionLayout::new(heads, lengths, false)
    }
}

impl Linears for EncoderLayer {
    fn linears<'a>(&'a mut self, prefix: &str, found: &mut NamedLinears<'a>) {
        found.push((format!("{prefix}qkv"), &mut self.qkv));
        found.push((format!("{prefix}out"), &mut self.out));
        if let Some(mlp) = &mut self.mlp {
            mlp.linears(&format!("{prefix}mlp."), found);
        }
        if let Some(mlp) = &mut self.gated_mlp {
            mlp.linears(&format!("{prefix}gated_mlp."), found);
        }
    }
}

fn scaled(branch: Tensor<2>, scale: Option<&Param<Tensor<1>>>) -> Tensor<2> {
    match scale {
        Some(scale) => branch * scale.val().unsqueeze(),
        None => branch,
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn a_key_bias_that_does_not_learn_gets_no_gradient_and_changes_nothing() {
        let device = Device::flex().autodiff();
        let gradient = |key_bias: bool| {
            let config = EncoderLayerConfig { key_bias, ..EncoderLayerConfig::plain(4, 2, 8, 1e-5) };
            let layer = EncoderLayer::new(config, &mut WeightInit::new(3, &device));
            let input = WeightInit::new(4, &device).uniform([5, 4], 1.0).val();
            let layout = Arc::new(layer.layout(&[3, 2]));
            let output = EncoderLayer::run(std::slice::from_ref(&layer), input, &layout);
            let gradients = output.clone().powi_scalar(2).sum().backward();
            let bias = layer.qkv.bias.as_ref().expect("it was asked for").val();
            let bias: Vec<f32> =
                bias.grad(&gradients).expect("it learns").into_data().try_into_vec_as().expect("numbers");
            (output.into_data(), bias)
        };
        let ((learning, of_all), (fixed, of_some)) = (gradient(true), gradient(false));
        assert_eq!(learning, fixed);
        assert_eq!(of_some[4..8], [0.0; 4]);
        for place in (0..4).chain(8..12) {
            assert!(of_some[place] != 0.0 && (of_some[place] - of_all[place]).abs() < 1e-5);
        }
        assert!(of_all[4..8].iter().all(|slope| slope.abs() < 1e-4), "rounding errors: {of_all:?}");
    }
}
