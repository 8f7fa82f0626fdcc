//! One layer of the decoder, over prompts, completions, or both in one pass.

use burn::{
    module::Module,
    nn::{Linear, RmsNorm},
    tensor::Tensor,
};
use kyoka_nn::{CompletionKv, GatedMlp, PrefixKv, Rotary, WeightInit, attend, fused};

use crate::DecoderConfig;

/// A rectangle of rows in a flat `[N, D]` tensor: `b` groups of `g` rows of `t` tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    pub b: usize,
    pub g: usize,
    pub t: usize,
}

impl Block {
    pub fn len(self) -> usize {
        self.b * self.g * self.t
    }
}

/// What a pass runs over: prompts first, then completions.
pub(crate) struct Pass {
    /// Prompts, `g = 1`; their padding bias and their causal bias.
    pub prefix: Option<(Block, Option<Tensor<4>>, Tensor<5>)>,
    /// Completions and their causal bias (`None` for a single new token).
    pub completion: Option<(Block, Option<Tensor<5>>)>,
    /// Rotation of every token.
    pub rotary: Rotary,
}

/// What a pass finds in, and leaves in, the cache of one layer.
pub(crate) enum LayerCache<'a> {
    /// Training: nothing is kept.
    None,
    /// Prefill: the prompt's keys and values are put here.
    Fill(&'a mut Option<PrefixKv>),
    /// Decoding token `t`.
    Step { prefix: &'a PrefixKv, completion: &'a mut CompletionKv, t: usize },
}

/// Norm, attention, norm, gated MLP.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// Norm before the attention.
    pub attention_norm: RmsNorm,
    /// Queries, keys and values in one matrix `[D, (H + 2 Hkv) Dh]`, in this order.
    pub qkv: Linear,
    /// Output projection `[H Dh, D]`.
    pub out: Linear,
    /// Norm before the MLP.
    pub mlp_norm: RmsNorm,
    /// Feed-forward block.
    pub mlp: GatedMlp,
    num_heads: usize,
    num_kv_heads: usize,
    d_head: usize,
}

impl DecoderLayer {
    pub(crate) fn new(config: &DecoderConfig, init: &mut WeightInit) -> Self {
        let DecoderConfig { d_model, num_heads, num_kv_heads, d_head, .. } = *config;
        Self {
            attention_norm: init.rms_norm(d_model, config.norm_epsilon),
            qkv: init.linear(d_model, (num_heads + 2 * num_kv_heads) * d_head, config.qkv_bias),
            out: init.residual_linear(num_heads * d_head, d_model, false, config.num_layers),
            mlp_norm: init.rms_norm(d_model, config.norm_epsilon),
            mlp: GatedMlp::new(d_model, config.d_hidden, init),
            num_heads,
            num_kv_heads,
            d_head,
        }
    }

    /// # Shapes
    /// - input and output: `[N, D]`, the pass's prompts first
    pub(crate) fn forward(&self, input: Tensor<2>, pass: &Pass, cache: LayerCache<'_>) -> Tensor<2> {
        let qkv = self.qkv.forward(fused::rms_norm(&self.attention_norm, input.clone()));
        let input = input + self.out.forward(self.attention(qkv, pass, cache));
        input.clone() + self.mlp.forward(fused::rms_norm(&self.mlp_norm, input))
    }

    /// # Shapes
    /// - input: `[N, (H + 2 Hkv) Dh]`
    /// - output: `[N, H Dh]`
    fn attention(&self, qkv: Tensor<2>, pass: &Pass, cache: LayerCache<'_>) -> Tensor<2> {
        let [n, _] = qkv.dims();
        let (h, kv, d_head) = (self.num_heads, self.num_kv_heads, self.d_head);
        let heads: Tensor<3> = qkv.reshape([n, h + 2 * kv, d_head]);
        let turned = pass.rotary.apply(heads.clone().narrow(1, 0, h + kv));
        let value = heads.narrow(1, h + kv, kv);
        let block = |block: Block, start: usize| {
            let rows = turned.clone().narrow(0, start, block.len());
            let query = self.split_query(rows.clone().narrow(1, 0, h), block);
            let key = split_kv(rows.narrow(1, h, kv), block);
            (query, key, split_kv(value.clone().narrow(0, start, block.len()), block))
        };
        let mut outputs = Vec::with_capacity(2);
        let mut own_prefix = None;
        let mut start = 0;
        if let Some((prefix, padding, causal)) = &pass.prefix {
            let (query, key, value) = block(*prefix, 0);
            let mixed = attend(query, key.clone(), value.clone(), Some(causal.clone()), None);
            outputs.push(self.merge(mixed, *prefix));
            let kept =
                PrefixKv { key: key.squeeze_dim(2), value: value.squeeze_dim(2), bias: padding.clone() };
            own_prefix = Some(kept);
            start = prefix.len();
        }
        if let Some((completion, causal)) = &pass.completion {
            let (query, key, value) = block(*completion, start);
            let mixed = match cache {
                LayerCache::Step { prefix, completion, t } => {
                    let (keys, values) = completion.push(t, key, value);
                    attend(query, keys, values, causal.clone(), Some(prefix))
                }
                _ => attend(query, key, value, causal.clone(), own_prefix.as_ref()),
            };
            outputs.push(self.merge(mixed, *completion));
        } else if let LayerCache::Fill(place) = cache {
            *place = own_prefix;
        }
        if outputs.len() == 1 { outputs.remove(0) } else { Tensor::cat(outputs, 0) }
    }

    /// `[b g t, H, Dh]` to `[b, Hkv, g, R t, Dh]`.
    fn split_query(&self, rows: Tensor<3>, Block { b, g, t }: Block) -> Tensor<5> {
        let (kv, r) = (self.num_kv_heads, self.num_heads / self.num_kv_heads);
        let split: Tensor<6> = rows.reshape([b, g, t, kv, r, self.d_head]);
        split.permute([0, 3, 1, 4, 2, 5]).reshape([b, kv, g, r * t, self.d_head])
    }

    /// `[b, Hkv, g, R t, Dh]` to `[b g t, H Dh]`.
    fn merge(&self, mixed: Tensor<5>, Block { b, g, t }: Block) -> Tensor<2> {
        let (kv, r) = (self.num_kv_heads, self.num_heads / self.num_kv_heads);
        let split: Tensor<6> = mixed.reshape([b, kv, g, r, t, self.d_head]);
        split.permute([0, 2, 4, 1, 3, 5]).reshape([b * g * t, kv * r * self.d_head])
    }
}

/// `[b g t, Hkv, Dh]` to `[b, Hkv, g, t, Dh]`.
fn split_kv(rows: Tensor<3>, Block { b, g, t }: Block) -> Tensor<5> {
    let [_, kv, d_head] = rows.dims();
    rows.reshape([b, g, t, kv, d_head]).permute([0, 3, 1, 2, 4])
}
