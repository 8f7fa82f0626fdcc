//! Log-mel features of one second of sound.

use criterion::{Criterion, criterion_group, criterion_main};
use kyoka_audio::{LogMel, LogMelConfig};

fn log_mel(c: &mut Criterion) {
    let samples: Vec<f32> = (0..16_000).map(|i| (i as f32 * 0.05).sin()).collect();
    for num_mels in [80, 128] {
        let features = LogMel::new(LogMelConfig::new(num_mels, 1.0));
        c.bench_function(&format!("log_mel/{num_mels}/1s"), |b| b.iter(|| features.process(&samples)));
    }
}

criterion_group!(benches, log_mel);
criterion_main!(benches);
