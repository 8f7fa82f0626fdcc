//! Attention over a flat pass: prompts first, their completions after.

use std::sync::{Arc, OnceLock};

use burn::tensor::{Device, Tensor};

use crate::{PrefixKv, Rotary, attend, causal_bias, fused};

/// Where queries, keys and values stand in a flat pass, and what sees what.
///
/// The pass holds `B` prompts of `width` rows each (padded at the end), then, prompt by prompt, `G` completions of `T`
/// rows each. A row holds `H` query heads, `Hkv` key heads and `Hkv` value heads of `Dh` values, in this order; query
/// heads that share a key head are adjacent. Prompts see themselves; completions see their own prompt and themselves.
#[derive(Debug)]
pub struct AttentionLayout {
    /// Query heads, `H`.
    pub num_heads: usize,
    /// Key and value heads, `Hkv`; divides the query heads.
    pub num_kv_heads: usize,
    /// Width of a head, `Dh`.
    pub d_head: usize,
    /// Rows a prompt.
    pub width: usize,
    /// Rows of each prompt that are real: at least 1, at most `width`.
    pub lengths: Vec<usize>,
    /// Whether a position sees earlier ones only. Completions are always causal.
    pub causal: bool,
    /// Completions a prompt, `G`.
    pub group_size: usize,
    /// Rows a completion, `T`; 0 without completions.
    pub completion_len: usize,
    /// Turns queries and keys before they meet, one row of the tables a row of the pass.
    pub rotary: Option<Rotary>,
    /// Biases of the composed form, made once for all layers.
    biases: OnceLock<Biases>,
}

#[derive(Debug)]
struct Biases {
    padding: Option<Tensor<4>>,
    prompt: Option<Tensor<5>>,
    completion: Option<Tensor<5>>,
}

/// Heads and their width.
#[derive(Debug, Clone, Copy)]
pub struct HeadConfig {
    /// Query heads, `H`.
    pub num_heads: usize,
    /// Key and value heads, `Hkv`.
    pub num_kv_heads: usize,
    /// Width of a head, `Dh`.
    pub d_head: usize,
}

impl AttentionLayout {
    /// Prompts alone, padded to `width`.
    pub fn new(heads: HeadConfig, lengths: Vec<usize>, width: usize, causal: bool) -> Self {
        let HeadConfig { num_heads, num_kv_heads, d_head } = heads;
        assert!(
            num_heads % num_kv_heads == 0,
            "attention: {num_kv_heads} key heads do not divide {num_heads} query heads"
        );
        assert!(
            lengths.iter().all(|length| (1..=width).contains(length)),
            "attention: expected lengths from 1 to {width}, got {lengths:?}"
        );
        Self {
            num_heads,
            num_kv_heads,
            d_head,
            width,
            lengths,
            causal,
            group_size: 0,
            completion_len: 0,
            rotary: None,
            biases: OnceLock::new(),
        }
    }

    /// With `group_size` completions of `len` rows after every prompt.
    pub fn with_completions(mut self, group_size: usize, len: usize) -> Self {
        (self.group_size, self.completion_len) = (group_size, len);
        self
    }

    /// With queries and keys turned.
    pub fn with_rotary(mut self, rotary: Rotary) -> Self {
        self.rotary = Some(rotary);
        self
    }

    /// Rows of the prompts.
    pub fn prompt_rows(&self) -> usize {
        self.lengths.len() * self.width
    }

    /// Rows of the pass.
    pub fn num_rows(&self) -> usize {
        self.prompt_rows() + self.lengths.len() * self.group_size * self.completion_len
    }

    /// Values a row: queries, keys and values.
    pub fn row_width(&self) -> usize {
        (self.num_heads + 2 * self.num_kv_heads) * self.d_head
    }

    fn biases(&self, device: &Device) -> &Biases {
        let Self { width, completion_len, .. } = *self;
        let heads = self.num_heads / self.num_kv_heads;
        self.biases.get_or_init(|| Biases {
            padding: PrefixKv::bias_of(&self.lengths, width, device),
            prompt: self.causal.then(|| causal_bias(heads, width, width, device)),
            completion: (completion_len > 0)
                .then(|| causal_bias(heads, completion_len, completion_len, device)),
        })
    }
}

/// Attention of a whole pass. On the CPU one fused operation that keeps no scores for its backward pass; elsewhere
/// composed from [`attend`].
///
/// # Shapes
/// - input: `[N, (H + 2 Hkv) Dh]`
/// - output: `[N, H Dh]`
///
/// # Panics
/// If the rows are not those of the layout.
pub fn packed_attention(qkv: Tensor<2>, layout: &Arc<AttentionLayout>) -> Tensor<2> {
    let expected = [layout.num_rows(), layout.row_width()];
    assert_eq!(qkv.dims(), expected, "attention: expected rows and width of the layout");
    fused::attention(qkv, layout)
}

/// A rectangle of rows: `b` groups of `g` rows of `t` tokens.
#[derive(Debug, Clone, Copy)]
struct Block {
    b: usize,
    g: usize,
    t: usize,
}

/// The composed form, for every device.
pub(crate) fn composed(qkv: Tensor<2>, layout: &AttentionLayout) -> Tensor<2> {
    let AttentionLayout { num_heads: h, num_kv_heads: kv, d_head, width, .. } = *layout;
    let [n, _] = qkv.dims();
    let biases = layout.biases(&qkv.device());
    let heads: Tensor<3> = qkv.reshape([n, h + 2 * kv, d_head]);
    let mut turned = heads.clone().narrow(1, 0, h + kv);
    if let Some(rotary) = &layout.rotary {
        turned = rotary.apply(turned);
    }
    let value = heads.narrow(1, h + kv, kv);
    let block = |block: Block, start: usize| {
        let rows = turned.clone().narrow(0, start, block.b * block.g * block.t);
        let value = value.clone().narrow(0, start, block.b * block.g * block.t);
        let query = split_query(rows.clone().narrow(1, 0, h), block, kv);
        (query, split_kv(rows.narrow(1, h, kv), block), split_kv(value, block))
    };
    let b = layout.lengths.len();
    let prompts = Block { b, g: 1, t: width };
    let (query, key, value_of_prompts) = block(prompts, 0);
    let causal_and_padding = match (&biases.prompt, &biases.padding) {
        // A causal query never sees the padding after it.
        (Some(causal), _) => Some(causal.clone()),
        (None, padding) => padding.clone().map(|bias| bias.unsqueeze_dim(1)),
    };
    let mixed = attend(query, key.clone(), value_of_prompts.clone(), causal_and_padding, None);
    let output = merge(mixed, prompts, kv);
    if layout.completion_len == 0 {
        return output;
    }
    let prefix = PrefixKv {
        key: key.squeeze_dim(2),
        value: value_of_prompts.squeeze_dim(2),
        bias: biases.padding.clone(),
    };
    let completions = Block { b, g: layout.group_size, t: layout.completion_len };
    let (query, key, value) = block(completions, layout.prompt_rows());
    let mixed = attend(query, key, value, biases.completion.clone(), Some(&prefix));
    Tensor::cat(vec![output, merge(mixed, completions, kv)], 0)
}

/// `[b g t, H, Dh]` to `[b, Hkv, g, R t, Dh]`.
fn split_query(rows: Tensor<3>, Block { b, g, t }: Block, kv: usize) -> Tensor<5> {
    let [_, h, d_head] = rows.dims();
    let split: Tensor<6> = rows.reshape([b, g, t, kv, h / kv, d_head]);
    split.permute([0, 3, 1, 4, 2, 5]).reshape([b, kv, g, h / kv * t, d_head])
}

/// `[b g t, Hkv, Dh]` to `[b, Hkv, g, t, Dh]`.
fn split_kv(rows: Tensor<3>, Block { b, g, t }: Block) -> Tensor<5> {
    let [_, kv, d_head] = rows.dims();
    rows.reshape([b, g, t, kv, d_head]).permute([0, 3, 1, 2, 4])
}

/// `[b, Hkv, g, R t, Dh]` to `[b g t, H Dh]`.
fn merge(mixed: Tensor<5>, Block { b, g, t }: Block, kv: usize) -> Tensor<2> {
    let [_, _, _, rt, d_head] = mixed.dims();
    let split: Tensor<6> = mixed.reshape([b, kv, g, rt / t, t, d_head]);
    split.permute([0, 2, 4, 1, 3, 5]).reshape([b * g * t, kv * rt / t * d_head])
}
