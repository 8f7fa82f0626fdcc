//! A photograph of 640 x 480 as encoder input of 224 x 224.

use criterion::{Criterion, criterion_group, criterion_main};
use kyoka_image::{ImageProcessor, Picture};

fn process(c: &mut Criterion) {
    let rgb = (0..640 * 480 * 3).map(|i| (i * 31 % 251) as u8).collect();
    let picture = Picture { height: 480, width: 640, rgb };
    let processor = ImageProcessor::fixed_size(224, 224);
    c.bench_function("image/640x480_to_224", |b| b.iter(|| processor.process(&picture)));
}

criterion_group!(benches, process);
criterion_main!(benches);
