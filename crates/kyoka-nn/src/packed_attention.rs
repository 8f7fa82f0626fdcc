//! Attention over a flat pass: prompts first, their completions after, nothing padded.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::{PrefixKv, Rotary, attend, attention::MASKED, causal_bias, fused};

/// Heads and their width.
#[derive(Debug, Clone, Copy)]
pub struct HeadConfig {
    /// Query heads, `H`.
    pub num_heads: usize,
    /// Key and value heads, `Hkv`; divides the query heads.
    pub num_kv_heads: usize,
    /// Width of a head, `Dh`.
    pub d_head: usize,
}

impl HeadConfig {
    /// Values a row: queries, keys and values.
    pub fn row_width(self) -> usize {
        (self.num_heads + 2 * self.num_kv_heads) * self.d_head
    }
}

/// Where queries, keys and values stand in a flat pass, and what sees what.
///
/// The pass holds the rows of all prompts one after the other, then the rows of all completions, prompt by prompt. A
/// row holds `H` query heads, `Hkv` key heads and `Hkv` value heads of `Dh` values, in this order; query heads that
/// share a key head are adjacent. Prompts see themselves; completions see their own prompt and themselves.
#[derive(Debug)]
pub struct AttentionLayout {
    /// Heads of a row.
    pub heads: HeadConfig,
    /// Whether a prompt's position sees earlier ones only. Completions are always causal.
    pub causal: bool,
    /// Rows of each prompt.
    pub prompts: Vec<Range<usize>>,
    /// Rows of each completion of each prompt.
    pub completions: Vec<Vec<Range<usize>>>,
    /// Turns queries and keys before they meet, one row of the tables a row of the pass.
    pub rotary: Option<Rotary>,
    num_rows: usize,
    /// Rectangles of the composed form, made once for all layers.
    padded: OnceLock<Padded>,
}

impl AttentionLayout {
    /// Prompts alone, of the given lengths.
    ///
    /// # Panics
    /// If the heads do not divide or a prompt is empty.
    pub fn new(heads: HeadConfig, prompt_lens: &[usize], causal: bool) -> Self {
        let HeadConfig { num_heads, num_kv_heads, .. } = heads;
        assert!(
            num_heads % num_kv_heads == 0,
            "attention: {num_kv_heads} key heads do not divide {num_heads} query heads"
        );
        assert!(
            prompt_lens.iter().all(|&len| len > 0),
            "attention: expected prompts with rows, got an empty one"
        );
        let mut num_rows = 0;
        let prompts = ranges(&mut num_rows, prompt_lens);
        let completions = vec![Vec::new(); prompt_lens.len()];
        Self { heads, causal, prompts, completions, rotary: None, num_rows, padded: OnceLock::new() }
    }

    /// With completions after the prompts: the lengths of those of every prompt. A completion may have no row.
    ///
    /// # Panics
    /// If there is not one list a prompt.
    pub fn with_completions(mut self, completion_lens: &[Vec<usize>]) -> Self {
        assert_eq!(completion_lens.len(), self.prompts.len(), "attention: expected lengths for every prompt");
        self.completions = completion_lens.iter().map(|lens| ranges(&mut self.num_rows, lens)).collect();
        self
    }

    /// With queries and keys turned.
    pub fn with_rotary(mut self, rotary: Rotary) -> Self {
        self.rotary = Some(rotary);
        self
    }

    /// Rows of the pass.
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// Longest prompt.
    pub fn longest_prompt(&self) -> usize {
        self.prompts.iter().map(Range::len).max().unwrap_or(0)
    }

    /// For every position of prompts padded to the longest one, its row; the prompt's first row where padded.
    pub fn padded_prompt_rows(&self) -> Vec<usize> {
        let width = self.longest_prompt();
        self.prompts.iter().flat_map(|rows| (0..width).map(|p| padded_row(rows, p))).collect()
    }

    fn padded(&self, device: &Device) -> &Padded {
        self.padded.get_or_init(|| Padded::new(self, device))
    }
}

fn padded_row(rows: &Range<usize>, position: usize) -> usize {
    if position < rows.len() { rows.start + position } else { rows.start }
}

fn ranges(next: &mut usize, lens: &[usize]) -> Vec<Range<usize>> {
    let range = |&len: &usize| {
        let start = *next;
        *next += len;
        start..*next
    };
    lens.iter().map(range).collect()
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
    let expected = [layout.num_rows(), layout.heads.row_width()];
    assert_eq!(qkv.dims(), expected, "attention: expected rows and width of the layout");
    fused::attention(qkv, layout)
}

/// The pass as rectangles: `B` prompts of `P` rows, and `B x G` completions of `T` rows.
#[derive(Debug)]
struct Padded {
    prompts: Block,
    prompt_rows: Tensor<1, Int>,
    prompt_bias: Option<Tensor<4>>,
    causal_bias: Option<Tensor<5>>,
    /// Absent without completions.
    completions: Option<(Block, Tensor<1, Int>, Tensor<5>)>,
    /// For every row of the pass, its row in the rectangles, prompts first.
    back: Tensor<1, Int>,
}

/// A rectangle of rows: `b` groups of `g` rows of `t` tokens.
#[derive(Debug, Clone, Copy)]
struct Block {
    b: usize,
    g: usize,
    t: usize,
}

impl Padded {
    fn new(layout: &AttentionLayout, device: &Device) -> Self {
        let (b, p) = (layout.prompts.len(), layout.longest_prompt());
        let g = layout.completions.iter().map(Vec::len).max().unwrap_or(0);
        let t = layout.completions.iter().flatten().map(Range::len).max().unwrap_or(0);
        let heads = layout.heads.num_heads / layout.heads.num_kv_heads;
        let mut back = vec![0; layout.num_rows];
        for (prompt, rows) in layout.prompts.iter().enumerate() {
            rows.clone().enumerate().for_each(|(place, row)| back[row] = prompt * p + place);
        }
        let nothing = 0..0;
        let mut completion_rows = Vec::with_capacity(b * g * t);
        for (prompt, completions) in layout.completions.iter().enumerate() {
            for slot in 0..g {
                let rows = completions.get(slot).unwrap_or(&nothing);
                let start = b * p + completion_rows.len();
                rows.clone().enumerate().for_each(|(place, row)| back[row] = start + place);
                // A slot without rows repeats its prompt's first one; nothing reads it.
                let rows = if rows.is_empty() { &layout.prompts[prompt] } else { rows };
                completion_rows.extend((0..t).map(|place| padded_row(rows, place)));
            }
        }
        let lengths: Vec<usize> = layout.prompts.iter().map(Range::len).collect();
        let completions = (g * t > 0).then(|| {
            (Block { b, g, t }, indices(&completion_rows, device), causal_bias(heads, t, t, device))
        });
        Self {
            prompts: Block { b, g: 1, t: p },
            prompt_rows: indices(&layout.padded_prompt_rows(), device),
            prompt_bias: PrefixKv::bias_of(&lengths, p, device),
            causal_bias: layout.causal.then(|| causal_bias(heads, p, p, device)),
            completions,
            back: indices(&back, device),
        }
    }
}

/// Row numbers as a tensor.
pub fn indices(rows: &[usize], device: &Device) -> Tensor<1, Int> {
    let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
    let count = rows.len();
    Tensor::from_data(TensorData::new(rows, [count]), device)
}

/// The composed form, for every device: padded to rectangles, mixed, and packed again.
pub(crate) fn composed(qkv: Tensor<2>, layout: &AttentionLayout) -> Tensor<2> {
    let HeadConfig { num_heads: h, num_kv_heads: kv, d_head } = layout.heads;
    let [n, _] = qkv.dims();
    let padded = layout.padded(&qkv.device());
    let heads: Tensor<3> = qkv.reshape([n, h + 2 * kv, d_head]);
    let mut turned = heads.clone().narrow(1, 0, h + kv);
    if let Some(rotary) = &layout.rotary {
        turned = rotary.apply(turned);
    }
    let value = heads.narrow(1, h + kv, kv);
    let block = |block: Block, rows: &Tensor<1, Int>| {
        let turned = turned.clone().select(0, rows.clone());
        let value = value.clone().select(0, rows.clone());
        let query = split_query(turned.clone().narrow(1, 0, h), block, kv);
        (query, split_kv(turned.narrow(1, h, kv), block), split_kv(value, block))
    };
    let (query, key, value_of_prompts) = block(padded.prompts, &padded.prompt_rows);
    let bias = match (&padded.causal_bias, &padded.prompt_bias) {
        // A causal query never sees the padding after it.
        (Some(causal), _) => Some(causal.clone()),
        (None, padding) => padding.clone().map(|bias| bias.unsqueeze_dim(1)),
    };
    let mixed = attend(query, key.clone(), value_of_prompts.clone(), bias, None);
    let mut output = merge(mixed, padded.prompts, kv);
    if let Some((completions, rows, causal)) = &padded.completions {
        let bias = padded.prompt_bias.clone();
        let prefix = PrefixKv { key: key.squeeze_dim(2), value: value_of_prompts.squeeze_dim(2), bias };
        let (query, key, value) = block(*completions, rows);
        let mixed = attend(query, key, value, Some(causal.clone()), Some(&prefix));
        output = Tensor::cat(vec![output, merge(mixed, *completions, kv)], 0);
    }
    output.select(0, padded.back.clone())
}

/// Attention within sequences of one length in which some positions are seen by nobody, though they see others.
///
/// # Shapes
/// - input: `[B P, (H + 2 Hkv) Dh]`
/// - seen: one a row, true where others see it
/// - output: `[B P, H Dh]`
///
/// # Panics
/// If the rows do not make whole sequences.
pub fn masked_attention(qkv: Tensor<2>, heads: HeadConfig, positions: usize, seen: &[bool]) -> Tensor<2> {
    let HeadConfig { num_heads: h, num_kv_heads: kv, d_head } = heads;
    let [n, _] = qkv.dims();
    assert!(n == seen.len() && n.is_multiple_of(positions), "attention: expected whole sequences of rows");
    let block = Block { b: n / positions, g: 1, t: positions };
    let bias: Vec<f32> = seen.iter().map(|&seen| if seen { 0.0 } else { MASKED }).collect();
    let bias = Tensor::from_data(TensorData::new(bias, [block.b, 1, 1, 1, positions]), &qkv.device());
    let rows: Tensor<3> = qkv.reshape([n, h + 2 * kv, d_head]);
    let query = split_query(rows.clone().narrow(1, 0, h), block, kv);
    let key = split_kv(rows.clone().narrow(1, h, kv), block);
    let value = split_kv(rows.narrow(1, h + kv, kv), block);
    merge(attend(query, key, value, Some(bias), None), block, kv)
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

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, Tolerance};

    use super::*;

    #[test]
    fn positions_that_nobody_sees_change_nothing_else() {
        let device = Device::default();
        let heads = HeadConfig { num_heads: 2, num_kv_heads: 2, d_head: 4 };
        let qkv = Tensor::<2>::random([6, 24], Distribution::Normal(0.0, 1.0), &device);
        let seen = [true, true, false, true, true, true];
        let masked = masked_attention(qkv.clone(), heads, 3, &seen);
        // Without the third row the first two see the same; the second sequence is whole.
        let lengths = [2, 3];
        let kept = indices(&[0, 1, 3, 4, 5], &device);
        let layout = Arc::new(AttentionLayout::new(heads, &lengths, false));
        let expected = packed_attention(qkv.select(0, kept.clone()), &layout);
        let near = Tolerance::absolute(1e-5);
        masked.select(0, kept).into_data().assert_approx_eq::<f32>(&expected.into_data(), near);
    }
}
