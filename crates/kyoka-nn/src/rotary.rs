//! Rotary position embedding (arXiv 2104.09864), half-split as in Llama and Qwen2.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::fused;

/// Settings of the rotation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RotaryConfig {
    /// Width of a head; even.
    pub d_head: usize,
    /// Base of the frequencies, `rope_theta` of Hugging Face checkpoints. Usually 10,000.
    pub theta: f64,
}

/// Cosines and sines for a row of positions.
#[derive(Debug, Clone)]
pub struct Rotary {
    /// Shape `[N, Dh / 2]`.
    cos: Arc<[f32]>,
    /// Shape `[N, Dh / 2]`.
    sin: Arc<[f32]>,
    d_half: usize,
    device: Device,
    /// Both as `[N, 1, Dh]`, made when first wanted.
    tensors: OnceLock<[Tensor<3>; 2]>,
}

impl Rotary {
    /// The rotation of `positions`, computed on the host in f64.
    ///
    /// Frequency `i` of `Dh / 2` is `theta^(-2 i / Dh)`; it turns the pair `(i, i + Dh / 2)`.
    pub fn new(config: RotaryConfig, positions: &[usize], device: &Device) -> Self {
        let d_half = config.d_head / 2;
        let frequency = |i: usize| config.theta.powf(-2.0 * i as f64 / config.d_head as f64);
        let frequencies: Vec<f64> = (0..d_half).map(frequency).collect();
        // Positions repeat in every row of a batch: each is computed once.
        let mut known: HashMap<usize, Vec<(f32, f32)>> = HashMap::new();
        let count = positions.len() * d_half;
        let (mut cos, mut sin) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for &position in positions {
            let row = known.entry(position).or_insert_with(|| {
                let angles = frequencies.iter().map(|frequency| position as f64 * frequency);
                angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).collect()
            });
            cos.extend(row.iter().map(|(cos, _)| *cos));
            sin.extend(row.iter().map(|(_, sin)| *sin));
        }
        let (cos, sin) = (cos.into(), sin.into());
        Self { cos, sin, d_half, device: device.clone(), tensors: OnceLock::new() }
    }

    /// Cosines and sines on the host, `[N, Dh / 2]` each.
    pub(crate) fn tables(&self) -> (&[f32], &[f32]) {
        (&self.cos, &self.sin)
    }

    /// Turns every head by its token's position.
    ///
    /// # Shapes
    /// - input and output: `[N, H, Dh]`
    pub fn apply(&self, heads: Tensor<3>) -> Tensor<3> {
        let [cos, sin] = self.tensors.get_or_init(|| {
            [&self.cos, &self.sin].map(|table| {
                let twice: Vec<f32> =
                    table.chunks_exact(self.d_half).flat_map(|row| row.iter().chain(row)).copied().collect();
                let shape = [table.len() / self.d_half, 1, 2 * self.d_half];
                Tensor::from_data(TensorData::new(twice, shape), &self.device)
            })
        });
        fused::rotate(heads, cos, sin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: RotaryConfig = RotaryConfig { d_head: 4, theta: 100.0 };

    fn rotate(position: usize, head: [f32; 4]) -> Vec<f32> {
        let device = Device::default();
        let head = Tensor::<1>::from_floats(head, &device).reshape([1, 1, 4]);
        Rotary::new(CONFIG, &[position], &device).apply(head).into_data().try_to_vec().unwrap()
    }

    #[test]
    fn pairs_turn_by_position_times_frequency() {
        // Frequencies 1 and 0.1; position 3 turns (x0, x2) by 3 and (x1, x3) by 0.3.
        let turned = rotate(3, [1.0, 2.0, 0.0, 0.5]);
        let expected = [
            3_f32.cos(),
            2.0 * 0.3_f32.cos() - 0.5 * 0.3_f32.sin(),
            3_f32.sin(),
            2.0 * 0.3_f32.sin() + 0.5 * 0.3_f32.cos(),
        ];
        for (got, expected) in turned.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{turned:?}");
        }
    }

    #[test]
    fn products_of_rotated_heads_depend_on_the_distance_only() {
        let dot = |a: Vec<f32>, b: Vec<f32>| a.iter().zip(&b).map(|(x, y)| x * y).sum::<f32>();
        let (query, key) = ([0.3, -1.0, 0.7, 0.2], [1.1, 0.4, -0.6, 0.9]);
        let near = dot(rotate(5, query), rotate(2, key));
        let far = dot(rotate(45, query), rotate(42, key));
        assert!((near - far).abs() < 1e-5);
    }
}
