//! A training pass of a small text policy over 8 groups of 8 completions of 48 tokens, and one decoding step of 64 rows.

use std::hint::black_box;

use burn::tensor::Device;
use criterion::{Criterion, criterion_group, criterion_main};
use kyoka_audio::WhisperEncoder;
use kyoka_core::{CausalLm, Distribution, PackedGroup, Prompt};
use kyoka_fusion::{Decoder, DecoderConfig, MultimodalLm};
use kyoka_image::ImageEncoder;
use kyoka_nn::WeightInit;

type TextPolicy = MultimodalLm<ImageEncoder, WhisperEncoder>;

fn policy(device: &Device) -> TextPolicy {
    let config = DecoderConfig { d_model: 256, d_head: 64, d_hidden: 688, ..DecoderConfig::tiny(2048) };
    MultimodalLm::text_only(Decoder::new(&config, &mut WeightInit::new(1, device)))
}

fn prompts() -> Vec<Prompt> {
    let ids = |b: u32| (0..48).map(|t| 8 + (b * 97 + t * 31) % 2000).collect();
    (0..8).map(|b| Prompt { token_ids: ids(b), ..Prompt::default() }).collect()
}

fn score(c: &mut Criterion) {
    let policy = policy(&Device::flex().autodiff());
    let prompts = prompts();
    let completion: Vec<u32> = (0..48).map(|t| 8 + t * 17 % 2000).collect();
    let group = |prompt| PackedGroup { prompt, completions: vec![(&completion).into(); 8] };
    let groups: Vec<PackedGroup<'_>> = prompts.iter().map(group).collect();
    let mut slow = c.benchmark_group("policy");
    slow.sample_size(10);
    slow.bench_function("score/forward_backward", |b| {
        b.iter(|| black_box(policy.score(&groups, &Distribution::default()).sum().backward()))
    });
    slow.finish();
}

fn decode(c: &mut Criterion) {
    let policy = policy(&Device::flex());
    let prompts = prompts();
    let references: Vec<&Prompt> = prompts.iter().collect();
    c.bench_function("policy/decode_64_rows", |b| {
        let mut cache = policy.prefill(&references).cache;
        policy.branch(&mut cache, 8, 400);
        let mut read = 0;
        b.iter(|| {
            if read == 400 {
                cache = policy.prefill(&references).cache;
                policy.branch(&mut cache, 8, 400);
                read = 0;
            }
            read += 1;
            black_box(policy.decode(&mut cache, &[9; 64]).into_data())
        })
    });
}

criterion_group!(benches, score, decode);
criterion_main!(benches);
