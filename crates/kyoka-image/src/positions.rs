//! Learned positions laid over pictures of another size.

use burn::tensor::{Device, Tensor, TensorData};

/// Weights that interpolate a grid of learned positions to another grid: bicubic, edges repeated, pixel centres at
/// halves, no smoothing when the grid shrinks (PyTorch's `interpolate`, `a = -0.75`).
///
/// # Shapes
/// - output: `[rows * columns, learned rows * learned columns]`
pub(crate) fn bicubic(learned: [usize; 2], grid: [usize; 2], device: &Device) -> Tensor<2> {
    let [rows, columns] = [0, 1].map(|axis| axis_weights(learned[axis], grid[axis]));
    let total = learned[0] * learned[1];
    let mut weights = vec![0.0_f32; grid[0] * grid[1] * total];
    for (cell, weights) in weights.chunks_exact_mut(total).enumerate() {
        let (row, column) = (&rows[cell / grid[1]], &columns[cell % grid[1]]);
        for &(y, along_y) in row {
            for &(x, along_x) in column {
                weights[y * learned[1] + x] += (along_y * along_x) as f32;
            }
        }
    }
    Tensor::from_data(TensorData::new(weights, [grid[0] * grid[1], total]), device)
}

/// For every target place the four source places and their weights.
fn axis_weights(source: usize, target: usize) -> Vec<[(usize, f64); 4]> {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let taps = |place: usize| {
        let at = (place as f64 + 0.5) * source as f64 / target as f64 - 0.5;
        let (floor, t) = (at.floor(), at - at.floor());
        let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
        [0, 1, 2, 3].map(|tap| {
            let place = (floor as i64 + tap as i64 - 1).clamp(0, source as i64 - 1);
            (place as usize, weights[tap])
        })
    };
    (0..target).map(taps).collect()
}

/// For every patch of every view the learned position of the same fraction of height and width; 0 where the patch holds
/// nothing of the picture. Rounded as the published code rounds, in single precision.
///
/// # Shapes
/// - seen: `num_views * rows * columns` patches, `None`: all
pub(crate) fn buckets(
    learned: [usize; 2],
    [rows, columns]: [usize; 2],
    num_views: usize,
    seen: Option<&[bool]>,
) -> Vec<usize> {
    let view = |view: usize| {
        let seen = |patch: usize| seen.is_none_or(|seen| seen[view * rows * columns + patch]);
        let tall = (0..rows).filter(|row| seen(row * columns)).count();
        let wide = (0..columns).filter(|&column| seen(column)).count();
        let (by_row, by_column) =
            (axis_buckets(learned[0], rows, tall), axis_buckets(learned[1], columns, wide));
        let place = move |patch: usize| {
            let place = by_row[patch / columns] * learned[1] + by_column[patch % columns];
            if seen(patch) { place } else { 0 }
        };
        (0..rows * columns).map(place).collect::<Vec<_>>()
    };
    (0..num_views).flat_map(view).collect()
}

/// Bucket of each of `count` patches along an axis, of which `filled` hold the picture.
fn axis_buckets(learned: usize, count: usize, filled: usize) -> Vec<usize> {
    let width = 1.0 / learned as f64;
    let boundaries: Vec<f32> = (1..learned).map(|i| (width + (i - 1) as f64 * width) as f32).collect();
    let step = 1.0 / filled.max(1) as f32;
    let bucket = |patch: usize| {
        let fraction = (patch as f32 * step).min(1.0 - 1e-6);
        boundaries.partition_point(|&boundary| boundary <= fraction)
    };
    (0..count).map(bucket).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_of_its_own_size_is_left_alone() {
        let weights: Vec<f32> = bicubic([2, 3], [2, 3], &Device::default()).into_data().try_to_vec().unwrap();
        for (place, weight) in weights.into_iter().enumerate() {
            assert!((weight - f32::from(u8::from(place / 6 == place % 6))).abs() < 1e-6);
        }
    }

    #[test]
    fn weights_of_a_place_sum_to_one_and_follow_the_kernel() {
        // One row of two positions onto four: the first lies at -0.25, behind the edge.
        let weights = bicubic([1, 2], [1, 4], &Device::default());
        let weights: Vec<f32> = weights.into_data().try_to_vec().unwrap();
        assert!(weights.chunks(2).all(|row| (row[0] + row[1] - 1.0).abs() < 1e-6));
        // t = 0.75 between the places -1 and 0, which are the same; only the last tap reaches place 1.
        let far = |x: f32| ((-0.75 * x + 3.75) * x - 6.0) * x + 3.0;
        assert!((weights[1] - far(1.25)).abs() < 1e-6, "{weights:?}");
    }

    #[test]
    fn half_a_picture_uses_every_second_position() {
        // Two rows of four columns, of which the left two hold the picture.
        let seen = [true, true, false, false, true, true, false, false];
        assert_eq!(buckets([4, 4], [2, 4], 1, Some(&seen)), [0, 2, 0, 0, 8, 10, 0, 0]);
        assert_eq!(buckets([2, 2], [2, 2], 2, None), [0, 1, 2, 3, 0, 1, 2, 3]);
    }
}
