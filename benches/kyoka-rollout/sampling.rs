//! One token's distribution over a vocabulary of 32,000, and 64 completions of 16 tokens over one of 2,048.

use std::hint::black_box;

use burn::tensor::Device;
use criterion::{Criterion, criterion_group, criterion_main};
use kyoka_audio::WhisperEncoder;
use kyoka_core::{Prompt, RolloutEngine, RolloutPrompt, RolloutRequest, SamplingConfig};
use kyoka_fusion::{Decoder, DecoderConfig, MultimodalLm};
use kyoka_image::ImageEncoder;
use kyoka_nn::WeightInit;
use kyoka_rollout::{LocalEngine, distribution};

fn settings() -> [(&'static str, SamplingConfig); 3] {
    let base = SamplingConfig { max_new_tokens: 16, ..SamplingConfig::default() };
    [
        ("plain", base.clone()),
        ("top_p", SamplingConfig { top_p: 0.9, ..base.clone() }),
        ("top_k_top_p_min_p", SamplingConfig { top_k: 50, top_p: 0.9, min_p: 0.02, ..base }),
    ]
}

fn distributions(c: &mut Criterion) {
    let logprobs: Vec<f32> = (0..32_000).map(|i| -((i * 7_919 % 32_000) as f32) / 2_000.0 - 8.0).collect();
    for (name, config) in settings() {
        c.bench_function(&format!("distribution/{name}/32k"), |b| {
            b.iter(|| distribution(&logprobs, &config, &[]))
        });
    }
}

fn generation(c: &mut Criterion) {
    let device = Device::flex();
    let decoder = Decoder::new(&DecoderConfig::tiny(2048), &mut WeightInit::new(1, &device));
    let policy: MultimodalLm<ImageEncoder, WhisperEncoder> = MultimodalLm::text_only(decoder);
    let ids = |b: u32| (0..32).map(|t| 8 + (b * 97 + t * 31) % 2000).collect();
    let prompts: Vec<Prompt> = (0..8).map(|b| Prompt { token_ids: ids(b), ..Prompt::default() }).collect();
    let mut slow = c.benchmark_group("generate");
    slow.sample_size(10);
    for (name, sampling) in settings() {
        for on_device in [false, true] {
            let mut engine = LocalEngine::new(u32::MAX, vec![0, 1]).with_model(&policy);
            engine.draw_on_device = Some(on_device);
            let place = if on_device { "tensors" } else { "host" };
            slow.bench_function(format!("{name}/{place}"), |b| {
                b.iter(|| {
                    let request = RolloutRequest {
                        prompts: &RolloutPrompt::numbered(&prompts),
                        group_size: 8,
                        sampling: &sampling,
                        seed: 1,
                        episodes: None,
                    };
                    black_box(engine.generate_all(request).expect("finite logits"))
                })
            });
        }
    }
    slow.finish();
}

criterion_group!(benches, distributions, generation);
criterion_main!(benches);
