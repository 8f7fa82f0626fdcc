//! Where the rows of a flat pass stand, and what sees what.

use std::{ops::Range, sync::OnceLock};

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::{
    Rotary,
    attention_bias::{causal_bias, prefix_bias},
};

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

    pub(crate) fn padded(&self, device: &Device) -> &Padded {
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

/// The pass as rectangles: `B` prompts of `P` rows, and `B x G` completions of `T` rows.
#[derive(Debug)]
pub(crate) struct Padded {
    pub prompts: Block,
    pub prompt_rows: Tensor<1, Int>,
    pub prompt_bias: Option<Tensor<4>>,
    pub causal_bias: Option<Tensor<5>>,
    /// Absent without completions.
    pub completions: Option<(Block, Tensor<1, Int>, Tensor<5>)>,
    /// For every row of the pass, its row in the rectangles, prompts first.
    pub back: Tensor<1, Int>,
}

/// A rectangle of rows: `b` groups of `g` rows of `t` tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    pub b: usize,
    pub g: usize,
    pub t: usize,
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
            prompt_bias: prefix_bias(&lengths, p, device),
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
