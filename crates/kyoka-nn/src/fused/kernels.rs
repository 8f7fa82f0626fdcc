//! Row kernels: compiled for several instruction sets of which the best is taken at run time, spread over the cores by
//! rayon.
//!
//! Work is split into blocks of a fixed number of rows and partial sums are added in the order of the blocks, so the
//! result does not depend on the number of threads.

use multiversion::multiversion;
use rayon::prelude::*;

/// Values a block; smaller inputs run on the calling thread.
const BLOCK: usize = 1 << 15;

fn rows_per_block(width: usize) -> usize {
    (BLOCK / width.max(1)).max(1)
}

/// `exp` for vectors: range reduction and a polynomial (Cephes `expf`), relative error about 1e-7.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E + 0.5).floor();
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    (p * r * r + r + 1.0) * f32::from_bits(((n as i32 + 127) << 23) as u32)
}

/// `erf(x / sqrt 2)` and `exp(-x² / 2)`; absolute error 2e-7 (Abramowitz and Stegun 7.1.26).
#[inline(always)]
fn erf_of_root(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let bell = exp(-z * z);
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let mut p = 1.061_405_4;
    p = p * t - 1.453_152_1;
    p = p * t + 1.421_413_8;
    p = p * t - 0.284_496_72;
    p = p * t + 0.254_829_6;
    ((1.0 - p * t * bell).copysign(x), bell)
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Fills `[N, out_width]` block by block; `kernel` gets the first row of its block and the block's output.
pub fn fill(count: usize, out_width: usize, kernel: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let mut out = vec![0.0; count * out_width];
    let rows = rows_per_block(out_width);
    if count <= rows {
        kernel(0, &mut out);
    } else {
        let blocks = out.par_chunks_mut(rows * out_width).enumerate();
        blocks.for_each(|(block, out)| kernel(block * rows, out));
    }
    out
}

/// A copy, made by all cores.
pub fn copied(values: &[f32]) -> Vec<f32> {
    fill(values.len(), 1, |first, out| out.copy_from_slice(&values[first..first + out.len()]))
}

/// Fills `[N, width]` and sums `sums` vectors of length `width` over the rows.
fn fill_and_sum<const S: usize>(
    count: usize,
    width: usize,
    kernel: impl Fn(usize, &mut [f32], &mut [Vec<f32>; S]) + Sync,
) -> (Vec<f32>, [Vec<f32>; S]) {
    let mut out = vec![0.0; count * width];
    let rows = rows_per_block(width);
    let blocks = out.par_chunks_mut(rows * width).enumerate().map(|(block, out)| {
        let mut sums = std::array::from_fn(|_| vec![0.0; width]);
        kernel(block * rows, out, &mut sums);
        sums
    });
    let partial: Vec<[Vec<f32>; S]> = blocks.collect();
    let mut total: [Vec<f32>; S] = std::array::from_fn(|_| vec![0.0; width]);
    for sums in partial {
        for (total, part) in total.iter_mut().zip(sums) {
            total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
        }
    }
    (out, total)
}

/// Sum of `f` over pairs, in 16 lanes so that it vectorises.
#[inline(always)]
pub fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let (a_blocks, b_blocks) = (a.chunks_exact(16), b.chunks_exact(16));
    let tail: f32 = a_blocks.remainder().iter().zip(b_blocks.remainder()).map(|(&x, &y)| f(x, y)).sum();
    for (a, b) in a_blocks.zip(b_blocks) {
        for lane in 0..16 {
            lanes[lane] += f(a[lane], b[lane]);
        }
    }
    lanes.iter().sum::<f32>() + tail
}

#[inline(always)]
pub fn largest(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let blocks = row.chunks_exact(16);
    let tail = blocks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for block in blocks {
        for lane in 0..16 {
            lanes[lane] = lanes[lane].max(block[lane]);
        }
    }
    lanes.into_iter().fold(tail, f32::max)
}

pub fn rms_norm(x: &[f32], gamma: &[f32], width: usize, epsilon: f32) -> Vec<f32> {
    fill(x.len() / width, width, |first, out| rms_norm_rows(&x[first * width..], gamma, epsilon, out))
}

#[multiversion(targets = "simd")]
fn rms_norm_rows(x: &[f32], gamma: &[f32], epsilon: f32, out: &mut [f32]) {
    let width = gamma.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let scale = 1.0 / (sum2(x, x, |a, b| a * b) / width as f32 + epsilon).sqrt();
        for i in 0..width {
            out[i] = x[i] * scale * gamma[i];
        }
    }
}

/// With `r = 1 / rms` and `s = mean(grad gamma x)`: `dx = r (grad gamma - x r² s)`, `dgamma = sum grad x r`.
pub fn rms_norm_backward(
    x: &[f32],
    gamma: &[f32],
    grad: &[f32],
    width: usize,
    epsilon: f32,
) -> (Vec<f32>, Vec<f32>) {
    let (dx, [dgamma]) = fill_and_sum(x.len() / width, width, |first, out, [dgamma]| {
        rms_norm_backward_rows((&x[first * width..], &grad[first * width..]), gamma, epsilon, out, dgamma);
    });
    (dx, dgamma)
}

#[multiversion(targets = "simd")]
fn rms_norm_backward_rows(
    (x, grad): (&[f32], &[f32]),
    gamma: &[f32],
    epsilon: f32,
    out: &mut [f32],
    dgamma: &mut [f32],
) {
    let width = gamma.len();
    for ((x, grad), out) in
        x.chunks_exact(width).zip(grad.chunks_exact(width)).zip(out.chunks_exact_mut(width))
    {
        let r = 1.0 / (sum2(x, x, |a, b| a * b) / width as f32 + epsilon).sqrt();
        for i in 0..width {
            out[i] = grad[i] * gamma[i];
        }
        let s = sum2(out, x, |a, b| a * b) / width as f32;
        for i in 0..width {
            out[i] = r * (out[i] - x[i] * r * r * s);
            dgamma[i] += grad[i] * x[i] * r;
        }
    }
}

#[inline(always)]
fn mean_and_scale(x: &[f32], epsilon: f32) -> (f32, f32) {
    let width = x.len() as f32;
    let mean = sum2(x, x, |a, _| a) / width;
    let variance = sum2(x, x, |a, _| (a - mean) * (a - mean)) / width;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

pub fn layer_norm(x: &[f32], gamma: &[f32], beta: &[f32], width: usize, epsilon: f32) -> Vec<f32> {
    fill(x.len() / width, width, |first, out| layer_norm_rows(&x[first * width..], gamma, beta, epsilon, out))
}

#[multiversion(targets = "simd")]
fn layer_norm_rows(x: &[f32], gamma: &[f32], beta: &[f32], epsilon: f32, out: &mut [f32]) {
    let width = gamma.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let (mean, scale) = mean_and_scale(x, epsilon);
        for i in 0..width {
            out[i] = (x[i] - mean) * scale * gamma[i] + beta[i];
        }
    }
}

/// With `h = (x - mean) r`: `dx = r (grad gamma - mean(grad gamma) - h mean(grad gamma h))`.
pub fn layer_norm_backward(
    x: &[f32],
    gamma: &[f32],
    grad: &[f32],
    width: usize,
    epsilon: f32,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let (dx, [dgamma, dbeta]) = fill_and_sum(x.len() / width, width, |first, out, [dgamma, dbeta]| {
        let rows = (&x[first * width..], &grad[first * width..]);
        layer_norm_backward_rows(rows, gamma, epsilon, out, (dgamma, dbeta));
    });
    (dx, dgamma, dbeta)
}

#[multiversion(targets = "simd")]
fn layer_norm_backward_rows(
    (x, grad): (&[f32], &[f32]),
    gamma: &[f32],
    epsilon: f32,
    out: &mut [f32],
    (dgamma, dbeta): (&mut [f32], &mut [f32]),
) {
    let width = gamma.len();
    for ((x, grad), out) in
        x.chunks_exact(width).zip(grad.chunks_exact(width)).zip(out.chunks_exact_mut(width))
    {
        let (mean, r) = mean_and_scale(x, epsilon);
        for i in 0..width {
            out[i] = grad[i] * gamma[i];
        }
        let average = sum2(out, out, |a, _| a) / width as f32;
        let slope = sum2(out, x, |a, x| a * (x - mean) * r) / width as f32;
        for i in 0..width {
            let h = (x[i] - mean) * r;
            out[i] = r * (out[i] - average - h * slope);
            dgamma[i] += grad[i] * h;
            dbeta[i] += grad[i];
        }
    }
}

pub fn gelu(x: &[f32]) -> Vec<f32> {
    fill(x.len(), 1, |first, out| gelu_values(&x[first..], out))
}

#[multiversion(targets = "simd")]
fn gelu_values(x: &[f32], out: &mut [f32]) {
    for (x, out) in x.iter().zip(out) {
        *out = 0.5 * x * (1.0 + erf_of_root(*x).0);
    }
}

/// `Phi(x) + x phi(x)`.
pub fn gelu_backward(x: &[f32], grad: &[f32]) -> Vec<f32> {
    fill(x.len(), 1, |first, out| gelu_backward_values(&x[first..], &grad[first..], out))
}

#[multiversion(targets = "simd")]
fn gelu_backward_values(x: &[f32], grad: &[f32], out: &mut [f32]) {
    const ROOT: f32 = 0.398_942_3; // 1 / sqrt(2 pi)
    for ((x, grad), out) in x.iter().zip(grad).zip(out) {
        let (erf, bell) = erf_of_root(*x);
        *out = grad * (0.5 * (1.0 + erf) + x * ROOT * bell);
    }
}

/// `tanh(sqrt(2 / pi) (x + 0.044715 x³))` and the derivative of its argument.
#[inline(always)]
fn tanh_argument(x: f32) -> (f32, f32) {
    const ROOT: f32 = 0.797_884_6; // sqrt(2 / pi)
    let u = ROOT * (x + 0.044_715 * x * x * x);
    (2.0 * sigmoid(2.0 * u) - 1.0, ROOT * (1.0 + 3.0 * 0.044_715 * x * x))
}

pub fn gelu_tanh(x: &[f32]) -> Vec<f32> {
    fill(x.len(), 1, |first, out| gelu_tanh_values(&x[first..], out))
}

#[multiversion(targets = "simd")]
fn gelu_tanh_values(x: &[f32], out: &mut [f32]) {
    for (x, out) in x.iter().zip(out) {
        *out = 0.5 * x * (1.0 + tanh_argument(*x).0);
    }
}

pub fn gelu_tanh_backward(x: &[f32], grad: &[f32]) -> Vec<f32> {
    fill(x.len(), 1, |first, out| gelu_tanh_backward_values(&x[first..], &grad[first..], out))
}

#[multiversion(targets = "simd")]
fn gelu_tanh_backward_values(x: &[f32], grad: &[f32], out: &mut [f32]) {
    for ((x, grad), out) in x.iter().zip(grad).zip(out) {
        let (tanh, slope) = tanh_argument(*x);
        *out = grad * (0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * slope);
    }
}

pub fn swiglu(gate_up: &[f32], width: usize) -> Vec<f32> {
    fill(gate_up.len() / width, width / 2, |first, out| swiglu_rows(&gate_up[first * width..], width, out))
}

#[multiversion(targets = "simd")]
fn swiglu_rows(gate_up: &[f32], width: usize, out: &mut [f32]) {
    let half = width / 2;
    for (row, out) in gate_up.chunks_exact(width).zip(out.chunks_exact_mut(half)) {
        let (gate, up) = row.split_at(half);
        for ((gate, up), out) in gate.iter().zip(up).zip(out) {
            *out = gate * sigmoid(*gate) * up;
        }
    }
}

/// `dgate = grad up s (1 + gate (1 - s))`, `dup = grad gate s` with `s = sigmoid(gate)`.
pub fn swiglu_backward(gate_up: &[f32], grad: &[f32], width: usize) -> Vec<f32> {
    fill(gate_up.len() / width, width, |first, out| {
        swiglu_backward_rows(&gate_up[first * width..], &grad[first * width / 2..], width, out);
    })
}

#[multiversion(targets = "simd")]
fn swiglu_backward_rows(gate_up: &[f32], grad: &[f32], width: usize, out: &mut [f32]) {
    let half = width / 2;
    let rows = gate_up.chunks_exact(width).zip(grad.chunks_exact(half));
    for ((row, grad), out) in rows.zip(out.chunks_exact_mut(width)) {
        let (gate, up) = row.split_at(half);
        let (dgate, dup) = out.split_at_mut(half);
        for i in 0..half {
            let s = sigmoid(gate[i]);
            dgate[i] = grad[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
            dup[i] = grad[i] * gate[i] * s;
        }
    }
}

pub fn softmax(scores: &[f32], width: usize) -> Vec<f32> {
    fill(scores.len() / width, width, |first, out| softmax_rows(&scores[first * width..], width, out))
}

#[multiversion(targets = "simd")]
fn softmax_rows(scores: &[f32], width: usize, out: &mut [f32]) {
    for (row, out) in scores.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let top = largest(row);
        for (score, out) in row.iter().zip(out.iter_mut()) {
            *out = exp(score - top);
        }
        let scale = 1.0 / sum2(out, out, |a, _| a);
        out.iter_mut().for_each(|weight| *weight *= scale);
    }
}

/// Softmax of the leading `visible[row]` scores of every row, in place; the rest becomes 0.
#[multiversion(targets = "simd")]
pub fn softmax_leading(scores: &mut [f32], width: usize, visible: &[usize]) {
    for (row, &visible) in scores.chunks_exact_mut(width).zip(visible) {
        let (seen, hidden) = row.split_at_mut(visible);
        let top = largest(seen);
        seen.iter_mut().for_each(|score| *score = exp(*score - top));
        let scale = 1.0 / sum2(seen, seen, |a, _| a);
        seen.iter_mut().for_each(|weight| *weight *= scale);
        hidden.fill(0.0);
    }
}

/// `w (grad - sum(w grad))`.
pub fn softmax_backward(weights: &[f32], grad: &[f32], width: usize) -> Vec<f32> {
    fill(weights.len() / width, width, |first, out| {
        softmax_backward_rows(&weights[first * width..], &grad[first * width..], width, out);
    })
}

#[multiversion(targets = "simd")]
fn softmax_backward_rows(weights: &[f32], grad: &[f32], width: usize, out: &mut [f32]) {
    let rows = weights.chunks_exact(width).zip(grad.chunks_exact(width));
    for ((weights, grad), out) in rows.zip(out.chunks_exact_mut(width)) {
        let along = sum2(weights, grad, |w, g| w * g);
        for i in 0..width {
            out[i] = weights[i] * (grad[i] - along);
        }
    }
}

/// Largest logit, and `ln` of the sum of `exp` of what the others are below it, times `sharpness`.
#[inline(always)]
fn log_sum(row: &[f32], sharpness: f32) -> (f32, f32) {
    let top = largest(row);
    (top, sum2(row, row, |a, _| exp((a - top) * sharpness)).ln())
}

/// Log-probabilities of the targets under the softmax of the logits times `sharpness`, the inverse of a temperature.
pub fn token_logprobs(logits: &[f32], targets: &[usize], width: usize, sharpness: f32) -> Vec<f32> {
    let mut out = vec![0.0; targets.len()];
    let rows = rows_per_block(width);
    let blocks = out.par_chunks_mut(rows).zip(targets.par_chunks(rows)).zip(logits.par_chunks(rows * width));
    blocks.for_each(|((out, targets), logits)| token_logprobs_rows(logits, targets, sharpness, out));
    out
}

#[multiversion(targets = "simd")]
fn token_logprobs_rows(logits: &[f32], targets: &[usize], sharpness: f32, out: &mut [f32]) {
    let width = logits.len() / targets.len();
    for ((row, &target), out) in logits.chunks_exact(width).zip(targets).zip(out) {
        let (top, rest) = log_sum(row, sharpness);
        // The largest logit first: a sharp policy makes large numbers of small ones.
        *out = (row[target] - top) * sharpness - rest;
    }
}

/// `grad sharpness (onehot - softmax(sharpness logits))`, of targets with their gradients.
pub fn token_logprobs_backward(
    logits: &[f32],
    (targets, grad): (&[usize], &[f32]),
    width: usize,
    sharpness: f32,
) -> Vec<f32> {
    fill(targets.len(), width, |first, out| {
        let targets = (&targets[first..], &grad[first..]);
        token_logprobs_backward_rows(&logits[first * width..], targets, (width, sharpness), out);
    })
}

#[multiversion(targets = "simd")]
fn token_logprobs_backward_rows(
    logits: &[f32],
    (targets, grad): (&[usize], &[f32]),
    (width, sharpness): (usize, f32),
    out: &mut [f32],
) {
    let rows = logits.chunks_exact(width).zip(targets).zip(grad);
    for (((row, &target), &grad), out) in
        rows.zip(out.chunks_exact_mut(width)).filter(|((_, grad), _)| **grad != 0.0)
    {
        let (top, rest) = log_sum(row, sharpness);
        let slope = grad * sharpness;
        for (logit, out) in row.iter().zip(out.iter_mut()) {
            *out = -slope * exp((logit - top) * sharpness - rest);
        }
        out[target] += slope;
    }
}

/// Turns the first `turned` values of every row of `width`, heads of `d_head` each; tables are `[N, Dh / 2]`.
pub fn rotate_in_place(
    rows: &mut [f32],
    (cos, sin): (&[f32], &[f32]),
    (width, turned, d_head): (usize, usize, usize),
    direction: f32,
) {
    let count = rows_per_block(width);
    let half = d_head / 2;
    rows.par_chunks_mut(count * width).enumerate().for_each(|(block, rows)| {
        let first = block * count * half;
        rotate_in_place_rows(rows, (&cos[first..], &sin[first..]), (width, turned, d_head), direction);
    });
}

#[multiversion(targets = "simd")]
fn rotate_in_place_rows(
    rows: &mut [f32],
    (cos, sin): (&[f32], &[f32]),
    (width, turned, d_head): (usize, usize, usize),
    direction: f32,
) {
    let half = d_head / 2;
    let tables = cos.chunks_exact(half).zip(sin.chunks_exact(half));
    for (row, (cos, sin)) in rows.chunks_exact_mut(width).zip(tables) {
        for head in row[..turned].chunks_exact_mut(d_head) {
            let (first, second) = head.split_at_mut(half);
            for i in 0..half {
                let (x, y, turn) = (first[i], second[i], direction * sin[i]);
                first[i] = x * cos[i] - y * turn;
                second[i] = y * cos[i] + x * turn;
            }
        }
    }
}

pub fn rotate(
    heads: &[f32],
    cos: &[f32],
    sin: &[f32],
    (num_heads, d_head): (usize, usize),
    direction: f32,
) -> Vec<f32> {
    let width = num_heads * d_head;
    fill(heads.len() / width, width, |first, out| {
        let tables = (&cos[first * d_head..], &sin[first * d_head..]);
        rotate_rows(&heads[first * width..], tables, (width, d_head), direction, out);
    })
}

#[multiversion(targets = "simd")]
fn rotate_rows(
    heads: &[f32],
    (cos, sin): (&[f32], &[f32]),
    (width, d_head): (usize, usize),
    direction: f32,
    out: &mut [f32],
) {
    let half = d_head / 2;
    let tokens = heads.chunks_exact(width).zip(cos.chunks_exact(d_head)).zip(sin.chunks_exact(d_head));
    for (((heads, cos), sin), out) in tokens.zip(out.chunks_exact_mut(width)) {
        for (x, out) in heads.chunks_exact(d_head).zip(out.chunks_exact_mut(d_head)) {
            let ((first, second), (out_first, out_second)) = (x.split_at(half), out.split_at_mut(half));
            for i in 0..half {
                let turn = direction * sin[i];
                out_first[i] = first[i] * cos[i] - second[i] * turn;
                out_second[i] = second[i] * cos[i] + first[i] * turn;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_erf_agree_with_double_precision() {
        for i in -8700..=8800 {
            let x = i as f32 / 100.0;
            let expected = f64::from(x).exp();
            assert!(((f64::from(exp(x)) - expected) / expected).abs() < 3e-7, "exp({x})");
        }
        // erf(1), erf(2), erf(0.1) from tables.
        for (x, expected) in
            [(1.0, 0.842_700_8), (2.0, 0.995_322_3), (0.1, 0.112_462_9), (-1.0, -0.842_700_8)]
        {
            let (got, _) = erf_of_root(x * std::f32::consts::SQRT_2);
            assert!((got - expected).abs() < 5e-7, "erf({x}) = {got}");
        }
    }

    #[test]
    fn far_arguments_stay_finite() {
        assert!(exp(-1e9) < 1e-37 && exp(1e9).is_finite());
        assert!(
            softmax(&[-1e9, 0.0, -1e9, -1e9], 4)
                .iter()
                .zip([0.0, 1.0, 0.0, 0.0])
                .all(|(a, b)| (a - b).abs() < 1e-30)
        );
    }
}
