//! Attention of single new tokens: many rows against one prompt, each against its own few keys.

use multiversion::multiversion;

use super::{
    gemm::{View, multiply},
    kernels,
};

/// Turned queries of one key head: the `heads` query heads of a row are adjacent, rows are `stride` values apart.
pub struct Queries<'a> {
    pub rows: &'a [f32],
    pub stride: usize,
    pub heads: usize,
    pub d_head: usize,
}

/// Memory used again from task to task.
#[derive(Default)]
pub struct Scratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
    own: Vec<f32>,
    visible: Vec<usize>,
}

/// Output `[rows, heads, Dh]` over the prompt's keys and values `[P, Dh]` and each row's own `[t + 1, Dh]`.
pub fn attend(
    queries: &Queries<'_>,
    (prompt_key, prompt_value): (&[f32], &[f32]),
    own: &[(&[f32], &[f32])],
    scratch: &mut Scratch,
) -> Vec<f32> {
    let Queries { rows, stride, heads, d_head } = *queries;
    let count = own.len() * heads;
    let scale = (d_head as f32).powf(-0.5);
    scratch.queries.clear();
    for row in 0..own.len() {
        scratch.queries.extend(rows[row * stride..][..heads * d_head].iter().map(|value| value * scale));
    }
    let prompt_len = prompt_key.len() / d_head;
    let longest = own.iter().map(|(key, _)| key.len() / d_head).max().unwrap_or(0);
    let width = prompt_len + longest;
    scratch.scores.resize(count * width, 0.0);
    // All rows against the prompt: one product.
    let query = View::new(&scratch.queries, count, d_head, d_head);
    let key = View::new(prompt_key, prompt_len, d_head, d_head).transposed();
    multiply(&mut scratch.scores, width, false, 1.0, (query, key));
    scratch.visible.clear();
    for (row, (key, _)) in own.iter().enumerate() {
        for head in 0..heads {
            let index = row * heads + head;
            let query = &scratch.queries[index * d_head..][..d_head];
            dots(query, key, &mut scratch.scores[index * width + prompt_len..]);
            scratch.visible.push(prompt_len + key.len() / d_head);
        }
    }
    kernels::softmax_leading(&mut scratch.scores[..count * width], width, &scratch.visible);
    let mut out = vec![0.0; count * d_head];
    let weights = View::new(&scratch.scores, count, prompt_len, width);
    let value = View::new(prompt_value, prompt_len, d_head, d_head);
    multiply(&mut out, d_head, false, 1.0, (weights, value));
    for (index, out) in out.chunks_exact_mut(d_head).enumerate() {
        let (_, value) = own[index / heads];
        scratch.own.clear();
        scratch.own.extend_from_slice(&scratch.scores[index * width + prompt_len..][..value.len() / d_head]);
        add_weighted(&scratch.own, value, out);
    }
    out
}

/// `out[i] = query . keys[i]` for every key.
#[multiversion(targets = "simd")]
fn dots(query: &[f32], keys: &[f32], out: &mut [f32]) {
    for (key, out) in keys.chunks_exact(query.len()).zip(out) {
        *out = kernels::sum2(query, key, |a, b| a * b);
    }
}

/// `out += sum of weights[i] values[i]`.
#[multiversion(targets = "simd")]
fn add_weighted(weights: &[f32], values: &[f32], out: &mut [f32]) {
    for (weight, value) in weights.iter().zip(values.chunks_exact(out.len())) {
        for (out, value) in out.iter_mut().zip(value) {
            *out += weight * value;
        }
    }
}
