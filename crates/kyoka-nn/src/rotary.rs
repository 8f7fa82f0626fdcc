//! Rotary position embedding (arXiv 2104.09864), half-split as in Llama and Qwen2, over one axis or several.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::{RopeScaling, fused};

/// A token's place: by time, row and column where a picture has them, three times the same number in running text.
pub type Position = [usize; 3];

/// Which part of a position turns which frequencies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotaryAxes {
    /// The first number of the position turns all of them.
    #[default]
    One,
    /// Neighbouring frequencies in sections, one an axis (multi-axis rope, Qwen2-VL, arXiv 2409.12191).
    Sections([usize; 3]),
    /// Rows turn one half, columns the other, each over the whole range of frequencies (vision towers).
    RowsAndColumns,
}

/// Settings of the rotation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RotaryConfig {
    /// Width of a head; even.
    pub d_head: usize,
    /// Base of the frequencies, `rope_theta` of Hugging Face checkpoints. Usually 10,000.
    pub theta: f64,
    /// What turns what.
    pub axes: RotaryAxes,
    /// How the frequencies are stretched, if they are.
    pub scaling: Option<RopeScaling>,
}

impl RotaryConfig {
    /// One axis, nothing stretched.
    pub fn new(d_head: usize, theta: f64) -> Self {
        Self { d_head, theta, axes: RotaryAxes::One, scaling: None }
    }

    /// For every pair `(i, i + Dh / 2)` the axis that turns it and its frequency.
    fn frequencies(&self) -> Vec<(usize, f64)> {
        let d_half = self.d_head / 2;
        let plain = |i: usize, d: usize| self.theta.powf(-2.0 * i as f64 / d as f64);
        let stretched = |i: usize| {
            let frequency = plain(i, self.d_head);
            let stretch = |scaling: &RopeScaling| scaling.stretch(frequency, i, self.d_head, self.theta);
            self.scaling.as_ref().map_or(frequency, stretch)
        };
        match self.axes {
            RotaryAxes::One => (0..d_half).map(|i| (0, stretched(i))).collect(),
            RotaryAxes::Sections([time, rows, _]) => {
                let axis = |i: usize| if i < time { 0 } else { 1 + usize::from(i >= time + rows) };
                (0..d_half).map(|i| (axis(i), stretched(i))).collect()
            }
            RotaryAxes::RowsAndColumns => {
                let of_axis = |axis| (0..d_half / 2).map(move |i| (axis, plain(i, d_half)));
                of_axis(1).chain(of_axis(2)).collect()
            }
        }
    }
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
    /// Frequency `i` of `Dh / 2` is `theta^(-2 i / Dh)`, stretched as configured; it turns the pair `(i, i + Dh / 2)`.
    ///
    /// # Panics
    /// If the sections of the axes do not make half a head.
    pub fn new(config: &RotaryConfig, positions: &[Position], device: &Device) -> Self {
        let d_half = config.d_head / 2;
        let frequencies = config.frequencies();
        if let RotaryAxes::Sections(sections) = config.axes {
            assert_eq!(sections.iter().sum::<usize>(), d_half, "rotary: expected sections of half a head");
        }
        let scale = config.scaling.as_ref().map_or(1.0, RopeScaling::attention_factor);
        // Positions repeat in every row of a batch: each is computed once.
        let mut known: HashMap<Position, Vec<(f32, f32)>> = HashMap::new();
        let count = positions.len() * d_half;
        let (mut cos, mut sin) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for &position in positions {
            let row = known.entry(position).or_insert_with(|| {
                let angles = frequencies.iter().map(|&(axis, frequency)| position[axis] as f64 * frequency);
                angles.map(|angle| ((scale * angle.cos()) as f32, (scale * angle.sin()) as f32)).collect()
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

    fn turn<const D: usize>(config: &RotaryConfig, position: Position, head: [f32; D]) -> Vec<f32> {
        let device = Device::default();
        let head = Tensor::<1>::from_floats(head, &device).reshape([1, 1, D]);
        Rotary::new(config, &[position], &device).apply(head).into_data().try_to_vec().unwrap()
    }

    fn rotate(position: usize, head: [f32; 4]) -> Vec<f32> {
        turn(&RotaryConfig::new(4, 100.0), [position; 3], head)
    }

    #[test]
    fn each_axis_turns_its_own_section() {
        let head = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0];
        let config = RotaryConfig { axes: RotaryAxes::Sections([1, 1, 1]), ..RotaryConfig::new(6, 1_000.0) };
        // Frequencies 1, 0.1 and 0.01 turn by time, row and column.
        let turned = turn(&config, [2, 30, 400], head);
        for (i, angle) in [2.0_f32, 3.0, 4.0].into_iter().enumerate() {
            assert!((turned[i] - angle.cos()).abs() < 1e-6 && (turned[i + 3] - angle.sin()).abs() < 1e-6);
        }
        let config = RotaryConfig { axes: RotaryAxes::RowsAndColumns, ..RotaryConfig::new(4, 100.0) };
        let turned = turn(&config, [9, 2, 3], [1.0, 1.0, 0.0, 0.0]);
        let expected = [2_f32.cos(), 3_f32.cos(), 2_f32.sin(), 3_f32.sin()];
        assert!(turned.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{turned:?}");
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
