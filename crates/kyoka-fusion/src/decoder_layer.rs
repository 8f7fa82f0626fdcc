//! One layer of the decoder.

use burn::{
    module::Module,
    nn::{Linear, RmsNorm},
    tensor::Tensor,
};
use kyoka_nn::{
    AttentionLayout, CompletionKv, GatedMlp, PrefixKv, Rotary, WeightInit, attend, fused, indices,
};

use crate::DecoderConfig;

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

    /// `attention` mixes rows of queries, keys and values `[N, (H + 2 Hkv) Dh]` into `[M, H Dh]`; `kept` picks the rows
    /// of the input that go with them, where `M` is not `N`.
    ///
    /// # Shapes
    /// - input: `[N, D]`
    /// - output: `[M, D]`
    pub(crate) fn forward(
        &self,
        input: Tensor<2>,
        attention: impl FnOnce(&Self, Tensor<2>) -> Tensor<2>,
        kept: impl FnOnce(Tensor<2>) -> Tensor<2>,
    ) -> Tensor<2> {
        let qkv = self.qkv.forward(fused::rms_norm(&self.attention_norm, input.clone()));
        let input = kept(input) + self.out.forward(attention(self, qkv));
        input.clone() + self.mlp.forward(fused::rms_norm(&self.mlp_norm, input))
    }

    /// Turned keys, and values, of a pass over prompts alone, padded to the longest.
    pub(crate) fn prefix_kv(&self, qkv: &Tensor<2>, layout: &AttentionLayout) -> PrefixKv {
        let (h, kv, d_head) = (self.num_heads, self.num_kv_heads, self.d_head);
        let [n, _] = qkv.dims();
        let device = qkv.device();
        let heads: Tensor<3> = qkv.clone().reshape([n, h + 2 * kv, d_head]);
        let key = heads.clone().narrow(1, h, kv);
        let key = layout.rotary.as_ref().map_or(key.clone(), |rotary| rotary.apply(key));
        let (b, p) = (layout.prompts.len(), layout.longest_prompt());
        let rows = indices(&layout.padded_prompt_rows(), &device);
        // Laid out anew once: every later token reads it.
        let by_head = |values: Tensor<3>| -> Tensor<4> {
            let padded: Tensor<4> = values.select(0, rows.clone()).reshape([b, p, kv, d_head]);
            padded.swap_dims(1, 2).reshape([b * kv, p, d_head]).reshape([b, kv, p, d_head])
        };
        let lengths: Vec<usize> = layout.prompts.iter().map(|rows| rows.len()).collect();
        let value = by_head(heads.narrow(1, h + kv, kv));
        PrefixKv { key: by_head(key), value, bias: PrefixKv::bias_of(&lengths, p, &device) }
    }

    /// Attention of one new token a row, `g` rows a prompt; its keys and values are put into the cache at `t`.
    ///
    /// # Shapes
    /// - input: `[B G, (H + 2 Hkv) Dh]`
    /// - output: `[B G, H Dh]`
    pub(crate) fn attend_step(
        &self,
        qkv: Tensor<2>,
        rotary: &Rotary,
        (prefix, completion, t): (&PrefixKv, &mut CompletionKv, usize),
    ) -> Tensor<2> {
        let (h, kv, d_head) = (self.num_heads, self.num_kv_heads, self.d_head);
        let [n, _] = qkv.dims();
        let [b, ..] = prefix.key.dims();
        let heads: Tensor<3> = qkv.reshape([n, h + 2 * kv, d_head]);
        let turned = rotary.apply(heads.clone().narrow(1, 0, h + kv));
        let by_head = |rows: Tensor<3>| -> Tensor<5> {
            let [_, heads, _] = rows.dims();
            let rows: Tensor<5> = rows.reshape([b, n / b, kv, heads / kv, d_head]);
            rows.swap_dims(1, 2)
        };
        let (key, value) = (turned.clone().narrow(1, h, kv), heads.narrow(1, h + kv, kv));
        let (keys, values) = completion.push(t, by_head(key), by_head(value));
        let mixed = attend(by_head(turned.narrow(1, 0, h)), keys, values, None, Some(prefix));
        mixed.swap_dims(1, 2).reshape([n, h * d_head])
    }
}
