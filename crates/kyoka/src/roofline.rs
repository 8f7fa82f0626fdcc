//! What the machine can do at most: the rate of matrix products and of moving memory.

use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use rayon::prelude::*;
use serde::Serialize;

use crate::{Error, open_device};

/// Rows, inner width and columns of the products: square, and as an MLP of the measured step has it.
const PRODUCTS: [[usize; 3]; 3] = [[2048, 2048, 2048], [3392, 256, 1376], [3392, 688, 256]];

/// Values of each of the three arrays that are moved: beyond any cache.
const MOVED: usize = 1 << 25;

/// Repetitions; the best counts, as for every limit.
const TIMES: usize = 7;

/// The two limits of a device.
#[derive(Debug, Clone, Serialize)]
pub struct Roofline {
    /// Always `kyoka`.
    pub tool: &'static str,
    /// Best rate of 32-bit matrix products, in 10^9 multiplications and additions a second.
    pub gemm_gflop_per_s: f64,
    /// Rates of the single products, as `ROWSxINNERxCOLUMNS`.
    pub products: Vec<(String, f64)>,
    /// Best rate of `a = b + s c` over arrays beyond any cache, in 10^9 bytes a second, two read and one written.
    pub memory_gb_per_s: f64,
}

/// Measures both limits on a device.
///
/// # Errors
/// If the device was not compiled in.
pub fn bench_roofline(device: &str) -> Result<Roofline, Error> {
    let device = open_device(device)?;
    let products: Vec<(String, f64)> = PRODUCTS
        .iter()
        .map(|&[rows, inner, columns]| {
            (format!("{rows}x{inner}x{columns}"), product_rate([rows, inner, columns], &device))
        })
        .collect();
    let gemm_gflop_per_s = products.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
    let on_host = kyoka_nn::caches_on_host(&device);
    let memory_gb_per_s = if on_host { host_memory_rate() } else { device_memory_rate(&device) };
    Ok(Roofline { tool: "kyoka", gemm_gflop_per_s, products, memory_gb_per_s })
}

/// Seconds of the fastest of some runs, after one that does not count.
fn fastest(mut run: impl FnMut()) -> f64 {
    run();
    let times = (0..TIMES).map(|_| {
        let started = Instant::now();
        run();
        started.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}

fn product_rate([rows, inner, columns]: [usize; 3], device: &Device) -> f64 {
    let random = |dims: [usize; 2]| Tensor::<2>::random(dims, Distribution::Normal(0.0, 1.0), device);
    let (left, right) = (random([rows, inner]), random([inner, columns]));
    let seconds = fastest(|| {
        let product = left.clone().matmul(right.clone());
        wait(device, product);
    });
    2.0 * (rows * inner * columns) as f64 / seconds / 1e9
}

/// Waits until a device has computed a tensor.
fn wait(device: &Device, tensor: Tensor<2>) {
    // A device that cannot be waited for gives rates that are too high, not none.
    let _ = device.sync();
    drop(tensor);
}

fn host_memory_rate() -> f64 {
    const PIECE: usize = 1 << 16;
    let (mut a, b, c) = (vec![0.0_f32; MOVED], vec![1.0_f32; MOVED], vec![2.0_f32; MOVED]);
    let seconds = fastest(|| {
        let pieces = a.par_chunks_mut(PIECE).zip(b.par_chunks(PIECE)).zip(c.par_chunks(PIECE));
        pieces.for_each(|((a, b), c)| {
            a.iter_mut().zip(b).zip(c).for_each(|((a, b), c)| *a = b + 3.0 * c);
        });
        std::hint::black_box(&mut a);
    });
    (3 * 4 * MOVED) as f64 / seconds / 1e9
}

fn device_memory_rate(device: &Device) -> f64 {
    let ones = |value: f32| Tensor::<2>::full([MOVED >> 10, 1 << 10], value, device);
    let (b, c) = (ones(1.0), ones(2.0));
    let seconds = fastest(|| wait(device, b.clone() + c.clone()));
    (3 * 4 * MOVED) as f64 / seconds / 1e9
}
