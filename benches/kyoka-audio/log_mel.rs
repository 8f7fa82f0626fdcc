//! Log-mel features of one and of thirty seconds of sound, and Whisper's encoder on them.

use std::hint::black_box;

use burn::tensor::Device;
use criterion::{Criterion, criterion_group, criterion_main};
use kyoka_audio::{LogMel, LogMelConfig, WhisperConfig, WhisperEncoder};
use kyoka_core::ModalityEncoder;
use kyoka_nn::WeightInit;

fn samples(seconds: usize) -> Vec<f32> {
    (0..16_000 * seconds).map(|i| (i as f32 * 0.05).sin()).collect()
}

fn log_mel(c: &mut Criterion) {
    for (num_mels, seconds) in [(80, 1), (128, 1), (80, 30)] {
        let features = LogMel::new(LogMelConfig::new(num_mels, seconds as f64));
        let samples = samples(seconds);
        c.bench_function(&format!("log_mel/{num_mels}/{seconds}s"), |b| {
            b.iter(|| features.process(&samples))
        });
    }
}

fn encoder(c: &mut Criterion) {
    let device = Device::flex();
    let encoder = WhisperEncoder::new(&WhisperConfig::tiny(), &mut WeightInit::new(1, &device));
    let input = LogMel::new(LogMelConfig { num_mels: 80, window_s: 10.0 }).process(&samples(10));
    c.bench_function("audio_encoder/tiny/10s", |b| {
        b.iter(|| black_box(encoder.encode(&[&input], &device).embeddings.into_data()))
    });
}

criterion_group!(benches, log_mel, encoder);
criterion_main!(benches);
