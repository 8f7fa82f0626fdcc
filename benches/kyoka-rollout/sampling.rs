//! One token's distribution over a vocabulary of 32,000.

use criterion::{Criterion, criterion_group, criterion_main};
use kyoka_core::SamplingConfig;
use kyoka_rollout::distribution;

fn sampling(c: &mut Criterion) {
    let logprobs: Vec<f32> = (0..32_000).map(|i| -((i * 7_919 % 32_000) as f32) / 2_000.0 - 8.0).collect();
    for (name, config) in [
        ("plain", SamplingConfig::default()),
        ("top_p", SamplingConfig { top_p: 0.9, ..SamplingConfig::default() }),
    ] {
        c.bench_function(&format!("distribution/{name}/32k"), |b| {
            b.iter(|| distribution(&logprobs, &config, &[]))
        });
    }
}

criterion_group!(benches, sampling);
criterion_main!(benches);
