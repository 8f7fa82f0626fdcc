//! Attention of a packed pass on the CPU: blocks of queries against all their keys, scores in a small scratch.
//!
//! Nothing but the input is kept for the backward pass, which computes the scores again: for `Dh` = 64 that is a
//! quarter more products in attention, and saves a tensor of `[heads, queries, keys]` written, read and copied. One
//! task is a prompt with its completions and one key head, so that no two tasks write to the same place.

use std::{borrow::Cow, ops::Range};

use multiversion::multiversion;
use rayon::prelude::*;

use super::{
    gemm::{View, multiply},
    kernels,
};
use crate::{AttentionLayout, HeadConfig};

/// Query rows a block, about.
const BLOCK_ROWS: usize = 128;

/// One key head of one prompt and its completions, over rows of `[H + 2 Hkv]` heads.
struct Task<'a> {
    layout: &'a AttentionLayout,
    /// Queries, keys and values of the pass, queries and keys turned.
    qkv: &'a [f32],
    prompt: usize,
    kv_head: usize,
}

/// A block of query rows of one head; rows are numbered within the task.
struct Queries {
    first: usize,
    count: usize,
    /// Query head within those of the key head.
    head: usize,
    /// Prompt keys that the block looks at.
    prompt_keys: usize,
    /// Rows of the completions that the block holds; none for prompt rows.
    own: Vec<Range<usize>>,
}

/// Rows of the pass that hold a prompt's completions.
fn completion_rows(layout: &AttentionLayout, prompt: usize) -> Range<usize> {
    let completions = &layout.completions[prompt];
    match (completions.first(), completions.last()) {
        (Some(first), Some(last)) => first.start..last.end,
        _ => 0..0,
    }
}

impl Queries {
    fn of_completions(own: Vec<Range<usize>>, head: usize, prompt_keys: usize) -> Self {
        let (first, end) = (own[0].start, own[own.len() - 1].end);
        Self { first, count: end - first, head, prompt_keys, own }
    }

    /// Scores a row: prompt keys, then the keys of its own completion.
    fn keys(&self) -> usize {
        self.prompt_keys + self.own.iter().map(Range::len).max().unwrap_or(0)
    }

    /// The completions, each with its place within the block.
    fn own_rows(&self) -> impl Iterator<Item = (usize, &Range<usize>)> {
        self.own.iter().map(|rows| (rows.start - self.first, rows))
    }

    /// The weights of `len` rows at `at` for the keys of their completion.
    fn own_weights<'b>(&self, weights: &'b [f32], at: usize, len: usize) -> View<'b> {
        View::new(&weights[at * self.keys() + self.prompt_keys..], len, len, self.keys())
    }
}

impl<'a> Task<'a> {
    fn prompt_len(&self) -> usize {
        self.layout.prompts[self.prompt].len()
    }

    fn rows(&self) -> usize {
        self.prompt_len() + completion_rows(self.layout, self.prompt).len()
    }

    /// Query heads that share the key head.
    fn num_heads(&self) -> usize {
        self.layout.heads.num_heads / self.layout.heads.num_kv_heads
    }

    /// Row of the pass that holds a row of the task.
    fn row(&self, row: usize) -> usize {
        match row.checked_sub(self.prompt_len()) {
            None => self.layout.prompts[self.prompt].start + row,
            Some(row) => completion_rows(self.layout, self.prompt).start + row,
        }
    }

    /// `count` rows, from row `first` of the task on, of one head of a table whose rows hold `heads` heads.
    fn head_of<'b>(&self, table: &'b [f32], [heads, head, first, count]: [usize; 4]) -> View<'b> {
        let d = self.layout.heads.d_head;
        let start = (self.row(first) * heads + head) * d;
        View::new(&table[start..], count, d, heads * d)
    }

    fn heads_a_row(&self) -> usize {
        self.layout.heads.num_heads + 2 * self.layout.heads.num_kv_heads
    }

    fn query(&self, block: &Queries) -> View<'a> {
        let head = self.kv_head * self.num_heads() + block.head;
        self.head_of(self.qkv, [self.heads_a_row(), head, block.first, block.count])
    }

    fn key(&self, first: usize, count: usize) -> View<'a> {
        let head = self.layout.heads.num_heads + self.kv_head;
        self.head_of(self.qkv, [self.heads_a_row(), head, first, count])
    }

    fn value(&self, first: usize, count: usize) -> View<'a> {
        let head = self.layout.heads.num_heads + self.layout.heads.num_kv_heads + self.kv_head;
        self.head_of(self.qkv, [self.heads_a_row(), head, first, count])
    }

    /// All blocks of the task: prompts by rows, completions whole, a few at once.
    fn blocks(&self) -> Vec<Queries> {
        let len = self.prompt_len();
        let mut blocks = Vec::new();
        for head in 0..self.num_heads() {
            for first in (0..len).step_by(BLOCK_ROWS) {
                let count = BLOCK_ROWS.min(len - first);
                let prompt_keys = if self.layout.causal { first + count } else { len };
                blocks.push(Queries { first, count, head, prompt_keys, own: Vec::new() });
            }
            let start = completion_rows(self.layout, self.prompt).start;
            let mut own: Vec<Range<usize>> = Vec::new();
            let completions = self.layout.completions[self.prompt].iter().filter(|rows| !rows.is_empty());
            for rows in completions {
                let rows = len + rows.start - start..len + rows.end - start;
                if own.first().is_some_and(|first| rows.end - first.start > BLOCK_ROWS) {
                    blocks.push(Queries::of_completions(std::mem::take(&mut own), head, len));
                }
                own.push(rows);
            }
            if !own.is_empty() {
                blocks.push(Queries::of_completions(own, head, len));
            }
        }
        blocks
    }

    /// How many leading scores of each row count.
    fn visible(&self, block: &Queries) -> Vec<usize> {
        let completions =
            block.own.iter().flat_map(|rows| (0..rows.len()).map(|t| block.prompt_keys + t + 1));
        if !block.own.is_empty() {
            return completions.collect();
        }
        let causal = self.layout.causal;
        (0..block.count).map(|row| if causal { block.first + row + 1 } else { block.prompt_keys }).collect()
    }

    /// `left right^T` of a block against the prompt's keys and against each completion's own.
    fn against(
        &self,
        block: &Queries,
        left: View,
        right: &dyn Fn(usize, usize) -> View<'a>,
        (scale, out): (f32, &mut [f32]),
    ) {
        let keys = block.keys();
        multiply(out, keys, false, scale, (left, right(0, block.prompt_keys).transposed()));
        for (at, rows) in block.own_rows() {
            let out = &mut out[at * keys + block.prompt_keys..];
            let product = (left.row_range(at, rows.len()), right(rows.start, rows.len()).transposed());
            multiply(out, keys, false, scale, product);
        }
    }

    /// `weights right` summed over the prompt's keys and each completion's own.
    fn mix(
        &self,
        block: &Queries,
        weights: &[f32],
        right: &dyn Fn(usize, usize) -> View<'a>,
        (scale, out, stride): (f32, &mut [f32], usize),
    ) {
        let shared = View::new(weights, block.count, block.prompt_keys, block.keys());
        multiply(out, stride, false, scale, (shared, right(0, block.prompt_keys)));
        for (at, rows) in block.own_rows() {
            let product = (block.own_weights(weights, at, rows.len()), right(rows.start, rows.len()));
            multiply(&mut out[at * stride..], stride, true, scale, product);
        }
    }

    /// `weights^T left` added to the rows of the keys: those of the prompt and each completion's own.
    fn spread(
        &self,
        block: &Queries,
        weights: &[f32],
        left: View,
        (scale, out, stride): (f32, &mut [f32], usize),
    ) {
        let shared = View::new(weights, block.count, block.prompt_keys, block.keys()).transposed();
        multiply(out, stride, true, scale, (shared, left));
        for (at, rows) in block.own_rows() {
            let weights = block.own_weights(weights, at, rows.len()).transposed();
            let product = (weights, left.row_range(at, rows.len()));
            multiply(&mut out[rows.start * stride..], stride, true, scale, product);
        }
    }

    fn scale(&self) -> f32 {
        (self.layout.heads.d_head as f32).powf(-0.5)
    }

    /// Attention weights of a block.
    fn weights(&self, block: &Queries, scores: &mut Vec<f32>) -> Vec<usize> {
        // What an earlier block left is written over: every score is computed, or filled with 0 as hidden.
        scores.resize(block.count * block.keys(), 0.0);
        let visible = self.visible(block);
        let key = |first, count| self.key(first, count);
        self.against(block, self.query(block), &key, (self.scale(), scores));
        kernels::softmax_leading(scores, block.keys(), &visible);
        visible
    }

    /// Output of the task's query heads, `[rows, R Dh]`.
    fn forward(&self) -> Vec<f32> {
        let d = self.layout.heads.d_head;
        let stride = self.num_heads() * d;
        let mut out = vec![0.0; self.rows() * stride];
        let mut scores = Vec::new();
        for block in self.blocks() {
            self.weights(&block, &mut scores);
            let out = &mut out[block.first * stride + block.head * d..];
            self.mix(&block, &scores, &|first, count| self.value(first, count), (1.0, out, stride));
        }
        out
    }

    /// Gradients of the task's queries, key and value, `[rows, (R + 2) Dh]`.
    fn backward(&self, grad: &[f32]) -> Vec<f32> {
        let (d, heads) = (self.layout.heads.d_head, self.num_heads());
        let stride = (heads + 2) * d;
        let mut out = vec![0.0; self.rows() * stride];
        let (mut scores, mut slopes) = (Vec::new(), Vec::new());
        for block in self.blocks() {
            let visible = self.weights(&block, &mut scores);
            let head = self.kv_head * heads + block.head;
            let grad = self.head_of(grad, [self.layout.heads.num_heads, head, block.first, block.count]);
            self.spread(&block, &scores, grad, (1.0, &mut out[(heads + 1) * d..], stride));
            slopes.resize(scores.len(), 0.0);
            self.against(&block, grad, &|first, count| self.value(first, count), (1.0, &mut slopes));
            softmax_slopes(&scores, &mut slopes, block.keys(), &visible);
            self.spread(&block, &slopes, self.query(&block), (self.scale(), &mut out[heads * d..], stride));
            let query = &mut out[block.first * stride + block.head * d..];
            let key = |first, count| self.key(first, count);
            self.mix(&block, &slopes, &key, (self.scale(), query, stride));
        }
        out
    }
}

/// From gradients of the weights to gradients of the scores, `w (grad - sum(w grad))`, in place.
#[multiversion(targets = "simd")]
fn softmax_slopes(weights: &[f32], grads: &mut [f32], width: usize, visible: &[usize]) {
    let rows = weights.chunks_exact(width).zip(grads.chunks_exact_mut(width)).zip(visible);
    for ((weights, grads), &visible) in rows {
        let (seen, hidden) = grads.split_at_mut(visible);
        let along = kernels::sum2(&weights[..visible], seen, |weight, grad| weight * grad);
        seen.iter_mut().zip(weights).for_each(|(grad, weight)| *grad = weight * (*grad - along));
        hidden.fill(0.0);
    }
}

fn tasks<'a>(qkv: &'a [f32], layout: &'a AttentionLayout) -> impl IndexedParallelIterator<Item = Task<'a>> {
    let kv = layout.heads.num_kv_heads;
    (0..layout.prompts.len() * kv).into_par_iter().map(move |index| Task {
        layout,
        qkv,
        prompt: index / kv,
        kv_head: index % kv,
    })
}

/// Queries and keys turned by their row's angles; `direction` -1 turns back.
fn turn(qkv: &mut [f32], layout: &AttentionLayout, direction: f32) {
    let Some(rotary) = &layout.rotary else { return };
    let HeadConfig { num_heads, num_kv_heads, d_head } = layout.heads;
    let turned = (num_heads + num_kv_heads) * d_head;
    let sizes = (layout.heads.row_width(), turned, d_head);
    kernels::rotate_in_place(qkv, rotary.tables(), sizes, direction);
}

/// The input with queries and keys turned; without a rotation it is the input.
fn turned<'a>(qkv: &'a [f32], layout: &AttentionLayout) -> Cow<'a, [f32]> {
    if layout.rotary.is_none() {
        return Cow::Borrowed(qkv);
    }
    let mut copy = kernels::copied(qkv);
    turn(&mut copy, layout, 1.0);
    Cow::Owned(copy)
}

/// For every row of the pass, its prompt and its row within the prompt's tasks.
fn places(layout: &AttentionLayout) -> Vec<(usize, usize)> {
    let mut places = vec![(0, 0); layout.num_rows()];
    for (prompt, rows) in layout.prompts.iter().enumerate() {
        let rows = rows.clone().chain(completion_rows(layout, prompt));
        rows.enumerate().for_each(|(place, row)| places[row] = (prompt, place));
    }
    places
}

/// See [`crate::packed_attention`].
pub fn attention(qkv: &[f32], layout: &AttentionLayout) -> Vec<f32> {
    let turned = turned(qkv, layout);
    let parts: Vec<Vec<f32>> = tasks(&turned, layout).map(|task| task.forward()).collect();
    let (kv, width) = (layout.heads.num_kv_heads, layout.heads.num_heads * layout.heads.d_head);
    let places = places(layout);
    let part_width = width / kv;
    kernels::fill(layout.num_rows(), width, |first, out| {
        for (row, out) in out.chunks_exact_mut(width).enumerate() {
            let (prompt, row) = places[first + row];
            for (kv_head, out) in out.chunks_exact_mut(part_width).enumerate() {
                out.copy_from_slice(&parts[prompt * kv + kv_head][row * part_width..][..part_width]);
            }
        }
    })
}

/// Gradient of the input from that of the output.
pub fn attention_backward(qkv: &[f32], grad: &[f32], layout: &AttentionLayout) -> Vec<f32> {
    let turned = turned(qkv, layout);
    let parts: Vec<Vec<f32>> = tasks(&turned, layout).map(|task| task.backward(grad)).collect();
    let HeadConfig { num_heads, num_kv_heads: kv, d_head: d } = layout.heads;
    let (width, query_width) = (layout.heads.row_width(), num_heads / kv * d);
    let places = places(layout);
    let mut out = kernels::fill(layout.num_rows(), width, |first, out| {
        for (row, out) in out.chunks_exact_mut(width).enumerate() {
            let (prompt, row) = places[first + row];
            let (queries, rest) = out.split_at_mut(kv * query_width);
            let (keys, values) = rest.split_at_mut(kv * d);
            for kv_head in 0..kv {
                let part = &parts[prompt * kv + kv_head][row * (query_width + 2 * d)..];
                queries[kv_head * query_width..][..query_width].copy_from_slice(&part[..query_width]);
                keys[kv_head * d..][..d].copy_from_slice(&part[query_width..][..d]);
                values[kv_head * d..][..d].copy_from_slice(&part[query_width + d..][..d]);
            }
        }
    });
    turn(&mut out, layout, -1.0);
    out
}
