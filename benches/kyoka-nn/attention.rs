//! Attention over 8 prompts of 128 tokens with 8 completions of 48 each, and the output head over 3,072 targets.

use std::{hint::black_box, sync::Arc};

use burn::tensor::{Device, Distribution::Normal, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use kyoka_core::Distribution;
use kyoka_nn::{AttentionLayout, HeadConfig, fused, packed_attention};

fn random(rows: usize, columns: usize) -> Tensor<2> {
    Tensor::random([rows, columns], Normal(0.0, 1.0), &Device::flex())
}

fn attention(c: &mut Criterion) {
    let heads = HeadConfig { num_heads: 4, num_kv_heads: 2, d_head: 64 };
    let layout = AttentionLayout::new(heads, &[128; 8], true).with_completions(&vec![vec![47; 8]; 8]);
    let layout = Arc::new(layout);
    let qkv = random(layout.num_rows(), heads.row_width());
    c.bench_function("attention/forward", |b| {
        b.iter(|| black_box(packed_attention(qkv.clone(), &layout).into_data()))
    });
    c.bench_function("attention/forward_backward", |b| {
        b.iter(|| {
            let leaf = qkv.clone().autodiff().require_grad();
            let gradients = packed_attention(leaf.clone(), &layout).sum().backward();
            black_box(leaf.grad(&gradients).map(Tensor::into_data))
        })
    });
}

fn head(c: &mut Criterion) {
    let (hidden, weight) = (random(3072, 256), random(256, 2048));
    let targets: Vec<usize> = (0..3072).map(|row| row % 2048).collect();
    c.bench_function("head_logprobs/3072x2048/forward_backward", |b| {
        b.iter(|| {
            let leaf = hidden.clone().autodiff().require_grad();
            let (rows, weight) = (leaf.clone(), weight.clone().autodiff());
            let logprobs = fused::head_logprobs(rows, weight, false, &targets, &Distribution::default());
            black_box(leaf.grad(&logprobs.sum().backward()).map(Tensor::into_data))
        })
    });
}

criterion_group!(benches, attention, head);
criterion_main!(benches);
