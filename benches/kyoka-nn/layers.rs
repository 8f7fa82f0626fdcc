//! Layers with their gradients, on 3,072 rows of width 256, and a vision layer on 8 pictures of 256 patches.

use std::{hint::black_box, sync::Arc};

use burn::tensor::{Device, Distribution, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use kyoka_nn::{
    AttentionLayout, EncoderLayer, EncoderLayerConfig, GatedMlp, Norm, NormKind, WeightInit, fused,
};

const ROWS: usize = 3072;
const WIDTH: usize = 256;

fn random(rows: usize, columns: usize) -> Tensor<2> {
    Tensor::random([rows, columns], Distribution::Normal(0.0, 1.0), &Device::flex())
}

/// Measures a layer forward and backward; the parameters take part.
fn both_ways(c: &mut Criterion, name: &str, input: &Tensor<2>, layer: impl Fn(Tensor<2>) -> Tensor<2>) {
    c.bench_function(&format!("layer/{name}/forward_backward"), |b| {
        b.iter(|| {
            let leaf = input.clone().autodiff().require_grad();
            black_box(layer(leaf).sum().backward())
        })
    });
}

fn layers(c: &mut Criterion) {
    let device = Device::flex().autodiff();
    let mut init = WeightInit::new(1, &device);
    let rows = random(ROWS, WIDTH);
    for (name, kind) in [("rms_norm", NormKind::RootMeanSquare), ("layer_norm", NormKind::Layer)] {
        let norm = Norm::new(kind, WIDTH, 1e-6, &init);
        both_ways(c, name, &rows, |x| norm.forward(x));
    }
    let linear = init.linear(WIDTH, 2 * WIDTH, false);
    both_ways(c, "linear_256x512", &rows, |x| linear.forward(x));
    let mlp = GatedMlp::new(WIDTH, 688, false, &mut init);
    both_ways(c, "gated_mlp_688", &rows, |x| mlp.forward(x));
    both_ways(c, "gelu", &rows, fused::gelu);
    both_ways(c, "softmax", &rows, fused::softmax);
    let config = EncoderLayerConfig::plain(192, 3, 768, 1e-6);
    let encoder = [EncoderLayer::new(config, &mut init)];
    let layout = Arc::new(AttentionLayout::new(config.heads(), &[256; 8], false));
    both_ways(c, "vision_192", &random(8 * 256, 192), |x| EncoderLayer::run(&encoder, x, &layout));
}

criterion_group!(benches, layers);
criterion_main!(benches);
