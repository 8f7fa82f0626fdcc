//! Log-probabilities of targets straight from hidden rows: logits exist for a few rows at a time only.
//!
//! With a vocabulary of 50,000 the logits of 4,000 tokens are 800 MB, and their gradient as much again. Here a chunk of
//! rows is multiplied out, reduced to its log-probabilities and forgotten; the backward pass multiplies it out again: a
//! third more products in the head for memory that does not grow with the batch.

use super::{
    Targets,
    gemm::{View, multiply_on_all_cores},
    kernels,
};

/// Logits held at once.
const CHUNK: usize = 1 << 22;

/// The output matrix, `[D, V]`, or `[V, D]` when it is the embedding.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    pub weight: &'a [f32],
    pub d_model: usize,
    pub vocab: usize,
    pub tied: bool,
}

impl<'a> Head<'a> {
    fn columns(&self) -> View<'a> {
        match self.tied {
            false => View::new(self.weight, self.d_model, self.vocab, self.vocab),
            true => View::new(self.weight, self.vocab, self.d_model, self.d_model).transposed(),
        }
    }

    fn rows_at_once(&self) -> usize {
        (CHUNK / self.vocab.max(1)).max(16)
    }

    /// Logits of some rows, minus infinity where a token is banned.
    fn logits(&self, hidden: &[f32], banned: &[usize], logits: &mut Vec<f32>) {
        let rows = hidden.len() / self.d_model;
        logits.resize(rows * self.vocab, 0.0);
        let hidden = View::new(hidden, rows, self.d_model, self.d_model);
        multiply_on_all_cores(logits, self.vocab, false, (hidden, self.columns()));
        set(logits, self.vocab, banned, f32::NEG_INFINITY);
    }
}

/// Sets some columns of a table with rows of `width`.
fn set(table: &mut [f32], width: usize, columns: &[usize], value: f32) {
    table.chunks_exact_mut(width).for_each(|row| columns.iter().for_each(|&column| row[column] = value));
}

/// Log-probability of one target a row of `hidden`.
pub fn logprobs(head: Head<'_>, hidden: &[f32], targets: &Targets) -> Vec<f32> {
    let (rows, sharpness) = (head.rows_at_once(), 1.0 / targets.temperature);
    let banned: Vec<usize> = targets.distribution().banned_within(head.vocab).collect();
    let mut logits = Vec::new();
    let mut out = Vec::with_capacity(targets.ids.len());
    for (hidden, ids) in hidden.chunks(rows * head.d_model).zip(targets.ids.chunks(rows)) {
        head.logits(hidden, &banned, &mut logits);
        out.extend(kernels::token_logprobs(&logits, ids, head.vocab, sharpness));
    }
    out
}

/// Gradients of the hidden rows and of the weight.
pub fn logprobs_backward(
    head: Head<'_>,
    hidden: &[f32],
    targets: &Targets,
    grad: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let (rows, d_model, vocab) = (head.rows_at_once(), head.d_model, head.vocab);
    let sharpness = 1.0 / targets.temperature;
    let banned: Vec<usize> = targets.distribution().banned_within(vocab).collect();
    let mut logits = Vec::new();
    let mut dhidden = vec![0.0; hidden.len()];
    let mut dweight = vec![0.0; head.weight.len()];
    let chunks = hidden.chunks(rows * d_model).zip(dhidden.chunks_mut(rows * d_model));
    for ((hidden, dhidden), (ids, grad)) in chunks.zip(targets.ids.chunks(rows).zip(grad.chunks(rows))) {
        head.logits(hidden, &banned, &mut logits);
        let mut slopes = kernels::token_logprobs_backward(&logits, (ids, grad), vocab, sharpness);
        // The kernels' exp never quite reaches 0.
        set(&mut slopes, vocab, &banned, 0.0);
        let slopes = View::new(&slopes, ids.len(), vocab, vocab);
        let hidden = View::new(hidden, ids.len(), d_model, d_model);
        multiply_on_all_cores(dhidden, d_model, false, (slopes, head.columns().transposed()));
        match head.tied {
            false => multiply_on_all_cores(&mut dweight, vocab, true, (hidden.transposed(), slopes)),
            true => multiply_on_all_cores(&mut dweight, d_model, true, (slopes.transposed(), hidden)),
        }
    }
    (dhidden, dweight)
}
