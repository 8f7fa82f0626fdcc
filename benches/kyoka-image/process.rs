//! A photograph of 640 x 480 as encoder input of 224 x 224, and a vision tower on eight of them.

use std::hint::black_box;

use burn::tensor::Device;
use criterion::{Criterion, criterion_group, criterion_main};
use kyoka_core::{ImageInput, ModalityEncoder};
use kyoka_image::{ImageProcessor, Picture, VitConfig, VitEncoder};
use kyoka_nn::{EncoderLayerConfig, WeightInit};

fn input() -> (Picture, ImageProcessor) {
    let rgb = (0..640 * 480 * 3).map(|i| (i * 31 % 251) as u8).collect();
    let picture = Picture { height: 480, width: 640, rgb };
    (picture, ImageProcessor::fixed_size(224, 224))
}

fn process(c: &mut Criterion) {
    let (picture, processor) = input();
    c.bench_function("image/640x480_to_224", |b| b.iter(|| processor.process(&picture)));
}

fn encoder(c: &mut Criterion) {
    let device = Device::flex();
    let config = VitConfig::new(224, 16, 4, EncoderLayerConfig::plain(192, 3, 768, 1e-6));
    let encoder = VitEncoder::new(&config, &mut WeightInit::new(1, &device));
    let (picture, processor) = input();
    let pictures: Vec<ImageInput> =
        (0..8).map(|_| processor.process(&picture).expect("the picture has pixels")).collect();
    let references: Vec<&ImageInput> = pictures.iter().collect();
    let mut slow = c.benchmark_group("image_encoder");
    slow.sample_size(10);
    slow.bench_function("192x4/8_of_224", |b| {
        b.iter(|| black_box(encoder.encode(&references, &device).embeddings.into_data()))
    });
    slow.finish();
}

criterion_group!(benches, process, encoder);
criterion_main!(benches);
