//! Rotary position embedding (arXiv 2104.09864), half-split as in Llama and Qwen2.

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
    /// Shape `[N, 1, Dh]`.
    cos: Tensor<3>,
    /// Shape `[N, 1, Dh]`.
    sin: Tensor<3>,
}

impl Rotary {
    /// The rotation of `positions`, computed on the host in f64.
    ///
    /// Frequency `i` of `Dh / 2` is `theta^(-2 i / Dh)`; it turns the pair `(i, i + Dh / 2)`.
    pub fn new(config: RotaryConfig, positions: &[usize], device: &Device) -> Self {
        let half = config.d_head / 2;
        let frequencies: Vec<f64> =
            (0..half).map(|i| config.theta.powf(-2.0 * i as f64 / config.d_head as f64)).collect();
        let table = |function: fn(f64) -> f64| {
            let rows = positions.iter().flat_map(|&position| {
                let row =
                    frequencies.iter().map(move |frequency| function(position as f64 * frequency) as f32);
                row.clone().chain(row)
            });
            Tensor::from_data(TensorData::new(rows.collect(), [positions.len(), 1, config.d_head]), device)
        };
        Self { cos: table(f64::cos), sin: table(f64::sin) }
    }

    /// Turns every head by its token's position.
    ///
    /// # Shapes
    /// - input and output: `[N, H, Dh]`
    pub fn apply(&self, heads: Tensor<3>) -> Tensor<3> {
        fused::rotate(heads, &self.cos, &self.sin)
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
