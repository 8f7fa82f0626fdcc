//! One layer of the decoder.

use burn::{module::Module, tensor::Tensor};
use kyoka_nn::{
    AttentionLayout, CompletionKv, GatedMlp, Linear, Linears, NamedLinears, Norm, NormKind, PrefixKv, Rotary,
    WeightInit, attend, indices, prefix_bias,
};

use crate::DecoderConfig;

/// Norm, attention, norm, gated MLP.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// Norm before the attention.
    pub attention_norm: Norm,
    /// Queries, keys and values in one matrix `[D, (H + 2 Hkv) Dh]`, in this order.
    pub qkv: Linear,
    /// Norm of each head of the queries, width `Dh`, where there is one.
    pub query_norm: Option<Norm>,
    /// Norm of each head of the keys, width `Dh`, where there is one.
    pub key_norm: Option<Norm>,
    /// Output projection `[H Dh, D]`.
    pub out: Linear,
    /// Norm before the MLP.
    pub mlp_norm: Norm,
    /// Feed-forward block.
    pub mlp: GatedMlp,
    num_heads: usize,
    num_kv_heads: usize,
    d_head: usize,
}

impl DecoderLayer {
    pub(crate) fn new(config: &DecoderConfig, init: &mut WeightInit) -> Self {
        let DecoderConfig { d_model, num_heads, num_kv_heads, d_head, .. } = *config;
        let norm =
            |width, init: &WeightInit| Norm::new(NormKind::RootMeanSquare, width, config.norm_epsilon, init);
        Self {
            attention_norm: norm(d_model, init),
            qkv: init.linear(d_model, (num_heads + 2 * num_kv_heads) * d_head, config.qkv_bias),
            query_norm: config.qk_norm.then(|| norm(d_head, init)),
            key_norm: config.qk_norm.then(|| norm(d_head, init)),
            out: init.residual_linear(num_heads * d_head, d_model, config.out_bias, config.num_layers),
            mlp_norm: norm(d_model, init),
            mlp: GatedMlp::new(d_model, config.d_hidden, config.mlp_bias, init),
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
        let qkv = self.norm_heads(self.qkv.forward(self.attention_norm.forward(input.clone())));
        let input = kept(input) + self.out.forward(attention(self, qkv));
        input.clone() + self.mlp.forward(self.mlp_norm.forward(input))
    }

    /// The norms of queries and keys, where there are any.
    fn norm_heads(&self, qkv: Tensor<2>) -> Tensor<2> {
        let (Some(query_norm), Some(key_norm)) = (&self.query_norm, &self.key_norm) else { return qkv };
        let [n, width] = qkv.dims();
        let (h, kv, d_head) = (self.num_heads, self.num_kv_heads, self.d_head);
        let normed = |norm: &Norm, start: usize, heads: usize| -> Tensor<2> {
            let rows = qkv.clone().narrow(1, start * d_head, heads * d_head).reshape([n * heads, d_head]);
            norm.forward(rows).reshape([n, heads * d_head])
        };
        let value = qkv.clone().narrow(1, (h + kv) * d_head, width - (h + kv) * d_head);
        Tensor::cat(vec![normed(query_norm, 0, h), normed(key_norm, h, kv), value], 1)
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
        PrefixKv { key: by_head(key), value, bias: prefix_bias(&lengths, p, &device) }
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

impl Linears for DecoderLayer {
    fn linears<'a>(&'a mut self, prefix: &str, found: &mut NamedLinears<'a>) {
        found.push((format!("{prefix}qkv"), &mut self.qkv));
        found.push((format!("{prefix}out"), &mut self.out));
        self.mlp.linears(&format!("{prefix}mlp."), found);
    }
}
