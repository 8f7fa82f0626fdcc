//! Attention of a packed pass on the CPU: blocks of queries against all their keys, scores in a small scratch.
//!
//! Nothing but the input is kept for the backward pass, which computes the scores again: for `Dh` = 64 that is a
//! quarter more products in attention, and saves a tensor of `[heads, queries, keys]` written, read and copied. One
//! task is a prompt with its completions and one key head, so that no two tasks write to the same place.

use multiversion::multiversion;
use rayon::prelude::*;

use super::{
    gemm::{View, multiply},
    kernels,
};
use crate::AttentionLayout;

/// Query rows a block.
const BLOCK_ROWS: usize = 64;

/// One key head of one prompt and its completions, over rows of `[H + 2 Hkv]` heads.
struct Task<'a> {
    layout: &'a AttentionLayout,
    /// Queries, keys and values of the pass, queries and keys turned.
    qkv: &'a [f32],
    prompt: usize,
    kv_head: usize,
}

/// A block of query rows of one head.
struct Queries {
    /// First row within the task.
    first: usize,
    count: usize,
    /// Query head within those of the key head.
    head: usize,
    /// Prompt keys that the block looks at.
    prompt_keys: usize,
    /// First row within the task, and length, of the completions that the block holds; no length without any.
    own: Option<usize>,
}

impl<'a> Task<'a> {
    fn rows(&self) -> usize {
        self.layout.width + self.layout.group_size * self.layout.completion_len
    }

    /// Query heads that share the key head.
    fn num_heads(&self) -> usize {
        self.layout.num_heads / self.layout.num_kv_heads
    }

    /// Row of the pass that holds a row of the task.
    fn row(&self, row: usize) -> usize {
        let AttentionLayout { width, group_size, completion_len, .. } = *self.layout;
        match row.checked_sub(width) {
            None => self.prompt * width + row,
            Some(row) => self.layout.prompt_rows() + self.prompt * group_size * completion_len + row,
        }
    }

    /// `count` rows, from row `first` of the task on, of one head of a table whose rows hold `heads` heads.
    fn head_of<'b>(&self, table: &'b [f32], [heads, head, first, count]: [usize; 4]) -> View<'b> {
        let d = self.layout.d_head;
        let start = (self.row(first) * heads + head) * d;
        View::new(&table[start..], count, d, heads * d)
    }

    fn heads_a_row(&self) -> usize {
        self.layout.num_heads + 2 * self.layout.num_kv_heads
    }

    fn query(&self, block: &Queries) -> View<'a> {
        let head = self.kv_head * self.num_heads() + block.head;
        self.head_of(self.qkv, [self.heads_a_row(), head, block.first, block.count])
    }

    fn key(&self, first: usize, count: usize) -> View<'a> {
        let head = self.layout.num_heads + self.kv_head;
        self.head_of(self.qkv, [self.heads_a_row(), head, first, count])
    }

    fn value(&self, first: usize, count: usize) -> View<'a> {
        let head = self.layout.num_heads + self.layout.num_kv_heads + self.kv_head;
        self.head_of(self.qkv, [self.heads_a_row(), head, first, count])
    }

    /// All blocks of the task: prompts by rows, completions whole, a few at once.
    fn blocks(&self) -> Vec<Queries> {
        let AttentionLayout { width, group_size, completion_len, causal, .. } = *self.layout;
        let length = self.layout.lengths[self.prompt];
        let mut blocks = Vec::new();
        for head in 0..self.num_heads() {
            for first in (0..width).step_by(BLOCK_ROWS) {
                let count = BLOCK_ROWS.min(width - first);
                let prompt_keys = if causal { length.min(first + count) } else { length };
                blocks.push(Queries { first, count, head, prompt_keys, own: None });
            }
            // No completions: no rows, and nothing to divide by.
            let at_once = BLOCK_ROWS.checked_div(completion_len).map_or(1, |count| count.max(1));
            let completions = if completion_len == 0 { 0 } else { group_size };
            for completion in (0..completions).step_by(at_once) {
                let first = width + completion * completion_len;
                let count = at_once.min(completions - completion) * completion_len;
                blocks.push(Queries { first, count, head, prompt_keys: length, own: Some(first) });
            }
        }
        blocks
    }

    /// Number of scores of a block's row: prompt keys, then the keys of its own completion.
    fn keys(&self, block: &Queries) -> usize {
        block.prompt_keys + block.own.map_or(0, |_| self.layout.completion_len)
    }

    /// How many leading scores of each row count.
    fn visible(&self, block: &Queries) -> Vec<usize> {
        let causal = self.layout.causal;
        (0..block.count)
            .map(|row| match block.own {
                Some(_) => block.prompt_keys + row % self.layout.completion_len + 1,
                None if causal => block.prompt_keys.min(block.first + row + 1),
                None => block.prompt_keys,
            })
            .collect()
    }

    /// `left right^T` of a block against the prompt's keys and against each completion's own.
    fn against(
        &self,
        block: &Queries,
        left: View,
        right: &dyn Fn(usize, usize) -> View<'a>,
        (scale, out): (f32, &mut [f32]),
    ) {
        let keys = self.keys(block);
        multiply(out, keys, false, scale, (left, right(0, block.prompt_keys).transposed()));
        let Some(own) = block.own else { return };
        let t = self.layout.completion_len;
        for at in (0..block.count).step_by(t) {
            let own = right(own + at, t).transposed();
            multiply(
                &mut out[at * keys + block.prompt_keys..],
                keys,
                false,
                scale,
                (left.row_range(at, t), own),
            );
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
        let keys = self.keys(block);
        let shared = View::new(weights, block.count, block.prompt_keys, keys);
        multiply(out, stride, false, scale, (shared, right(0, block.prompt_keys)));
        let Some(own) = block.own else { return };
        let t = self.layout.completion_len;
        for at in (0..block.count).step_by(t) {
            let weights = View::new(&weights[at * keys + block.prompt_keys..], t, t, keys);
            multiply(&mut out[at * stride..], stride, true, scale, (weights, right(own + at, t)));
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
        let keys = self.keys(block);
        let shared = View::new(weights, block.count, block.prompt_keys, keys).transposed();
        multiply(out, stride, true, scale, (shared, left));
        let Some(own) = block.own else { return };
        let t = self.layout.completion_len;
        for at in (0..block.count).step_by(t) {
            let weights = View::new(&weights[at * keys + block.prompt_keys..], t, t, keys).transposed();
            let out = &mut out[(own + at) * stride..];
            multiply(out, stride, true, scale, (weights, left.row_range(at, t)));
        }
    }

    fn scale(&self) -> f32 {
        (self.layout.d_head as f32).powf(-0.5)
    }

    /// Attention weights of a block.
    fn weights(&self, block: &Queries, scores: &mut Vec<f32>) -> Vec<usize> {
        scores.clear();
        scores.resize(block.count * self.keys(block), 0.0);
        let visible = self.visible(block);
        let key = |first, count| self.key(first, count);
        self.against(block, self.query(block), &key, (self.scale(), scores));
        softmax_rows(scores, self.keys(block), &visible);
        visible
    }

    /// Output of the task's query heads, `[rows, R Dh]`.
    fn forward(&self) -> Vec<f32> {
        let (d, stride) = (self.layout.d_head, self.num_heads() * self.layout.d_head);
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
        let (d, heads) = (self.layout.d_head, self.num_heads());
        let stride = (heads + 2) * d;
        let mut out = vec![0.0; self.rows() * stride];
        let (mut scores, mut slopes) = (Vec::new(), Vec::new());
        for block in self.blocks() {
            let visible = self.weights(&block, &mut scores);
            let keys = self.keys(&block);
            let head = self.kv_head * heads + block.head;
            let grad = self.head_of(grad, [self.layout.num_heads, head, block.first, block.count]);
            self.spread(&block, &scores, grad, (1.0, &mut out[(heads + 1) * d..], stride));
            slopes.clear();
            slopes.resize(scores.len(), 0.0);
            self.against(&block, grad, &|first, count| self.value(first, count), (1.0, &mut slopes));
            softmax_slopes(&scores, &mut slopes, keys, &visible);
            self.spread(&block, &slopes, self.query(&block), (self.scale(), &mut out[heads * d..], stride));
            let query = &mut out[block.first * stride + block.head * d..];
            let key = |first, count| self.key(first, count);
            self.mix(&block, &slopes, &key, (self.scale(), query, stride));
        }
        out
    }
}

/// Softmax of the leading `visible[row]` scores of every row; the rest becomes 0.
#[multiversion(targets = "simd")]
fn softmax_rows(scores: &mut [f32], width: usize, visible: &[usize]) {
    for (row, &visible) in scores.chunks_exact_mut(width).zip(visible) {
        let (seen, hidden) = row.split_at_mut(visible);
        let top = kernels::largest(seen);
        seen.iter_mut().for_each(|score| *score = kernels::exp(*score - top));
        let scale = 1.0 / kernels::sum2(seen, seen, |a, _| a);
        seen.iter_mut().for_each(|weight| *weight *= scale);
        hidden.fill(0.0);
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
    let kv = layout.num_kv_heads;
    (0..layout.lengths.len() * kv).into_par_iter().map(move |index| Task {
        layout,
        qkv,
        prompt: index / kv,
        kv_head: index % kv,
    })
}

/// Queries and keys turned by their row's angles; `direction` -1 turns back.
fn turn(qkv: &mut [f32], layout: &AttentionLayout, direction: f32) {
    let Some(rotary) = &layout.rotary else { return };
    let (cos, sin) = rotary.tables();
    let turned = (layout.num_heads + layout.num_kv_heads) * layout.d_head;
    kernels::rotate_in_place(qkv, (cos, sin), (layout.row_width(), turned, layout.d_head), direction);
}

/// Where a row of the pass stands: its prompt, and its row within the prompt's tasks.
fn place(layout: &AttentionLayout, row: usize) -> (usize, usize) {
    match row.checked_sub(layout.prompt_rows()) {
        None => (row / layout.width, row % layout.width),
        Some(row) => {
            let rows = layout.group_size * layout.completion_len;
            (row / rows, layout.width + row % rows)
        }
    }
}

/// See [`crate::packed_attention`].
pub fn attention(qkv: &[f32], layout: &AttentionLayout) -> Vec<f32> {
    let mut turned = qkv.to_vec();
    turn(&mut turned, layout, 1.0);
    let parts: Vec<Vec<f32>> = tasks(&turned, layout).map(|task| task.forward()).collect();
    let (kv, width) = (layout.num_kv_heads, layout.num_heads * layout.d_head);
    let part_width = width / kv;
    kernels::fill(layout.num_rows(), width, |first, out| {
        for (row, out) in out.chunks_exact_mut(width).enumerate() {
            let (prompt, row) = place(layout, first + row);
            for (kv_head, out) in out.chunks_exact_mut(part_width).enumerate() {
                out.copy_from_slice(&parts[prompt * kv + kv_head][row * part_width..][..part_width]);
            }
        }
    })
}

/// Gradient of the input from that of the output.
pub fn attention_backward(qkv: &[f32], grad: &[f32], layout: &AttentionLayout) -> Vec<f32> {
    let mut turned = qkv.to_vec();
    turn(&mut turned, layout, 1.0);
    let parts: Vec<Vec<f32>> = tasks(&turned, layout).map(|task| task.backward(grad)).collect();
    let (kv, d, width) = (layout.num_kv_heads, layout.d_head, layout.row_width());
    let query_width = layout.num_heads / kv * d;
    let mut out = kernels::fill(layout.num_rows(), width, |first, out| {
        for (row, out) in out.chunks_exact_mut(width).enumerate() {
            let (prompt, row) = place(layout, first + row);
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
