//! AdamW with its state under parameter names.
//!
//! Burn's own optimizer keys its state by parameter ids that are drawn anew in every process; a checkpoint that another
//! tool can read, and that fits the model after a restart, wants names.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleMapper, Param},
    optim::GradientsParams,
    tensor::{DType, Device, FloatDType, Tensor, TensorData},
};
use kyoka_core::ParameterPath;
use serde::{Deserialize, Serialize};

/// Settings of AdamW (arXiv 1711.05101).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// Decay of the first moment. Default 0.9.
    pub beta_1: f64,
    /// Decay of the second moment. Default 0.98.
    pub beta_2: f64,
    /// Added to the root of the second moment. Default 1e-8.
    pub epsilon: f64,
    /// Decoupled decay of matrices; norms and biases are not decayed. Default 0.05.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm. Default 1.
    pub max_grad_norm: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta_1: 0.9, beta_2: 0.98, epsilon: 1e-8, weight_decay: 0.05, max_grad_norm: 1.0 }
    }
}

/// The optimizer: moments of every parameter, and how many steps were taken.
///
/// Everything is kept and computed in 32-bit numbers. Parameters in a shorter format, such as bf16, have a 32-bit copy here
/// that takes the steps; the parameter is that copy, rounded: steps too small for its format are not lost.
#[derive(Debug, Clone)]
pub struct AdamW {
    config: AdamWConfig,
    steps: u64,
    moments: BTreeMap<String, (Tensor<1>, Tensor<1>)>,
    /// 32-bit copies of parameters in shorter formats.
    masters: BTreeMap<String, Tensor<1>>,
}

impl AdamW {
    /// A fresh optimizer.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, steps: 0, moments: BTreeMap::new(), masters: BTreeMap::new() }
    }

    /// Its settings.
    pub fn config(&self) -> &AdamWConfig {
        &self.config
    }

    /// `w <- w (1 - lr decay) - lr m^ / (sqrt(v^) + eps)` for every parameter with a gradient.
    pub fn step<M: Module>(&mut self, learning_rate: f64, module: M, gradients: GradientsParams) -> M {
        self.steps += 1;
        let mut update = Update { optimizer: self, learning_rate, gradients, path: ParameterPath::default() };
        module.map(&mut update)
    }

    /// The state as named tensors: `exp_avg.<parameter>`, `exp_avg_sq.<parameter>`, and `master.<parameter>` where there is
    /// a 32-bit copy; and the number of steps.
    pub fn state(&self) -> (u64, BTreeMap<String, TensorData>) {
        let tensors = self.moments.iter().flat_map(|(name, (first, second))| {
            [(format!("exp_avg.{name}"), first.to_data()), (format!("exp_avg_sq.{name}"), second.to_data())]
        });
        let masters = self.masters.iter().map(|(name, master)| (format!("master.{name}"), master.to_data()));
        (self.steps, tensors.chain(masters).collect())
    }

    /// Steps taken.
    pub fn num_steps(&self) -> u64 {
        self.steps
    }

    /// Restores what [`state`](Self::state) gave.
    ///
    /// # Errors
    /// Names a tensor that is not part of such a state, or whose partner is missing.
    pub fn restore(
        config: AdamWConfig,
        steps: u64,
        mut tensors: BTreeMap<String, TensorData>,
        device: &Device,
    ) -> Result<Self, String> {
        let (mut moments, mut masters) = (BTreeMap::new(), BTreeMap::new());
        let full = |data| Tensor::from_data(data, (device, DType::F32));
        while let Some((key, first)) = tensors.pop_first() {
            if let Some(name) = key.strip_prefix("master.") {
                masters.insert(name.to_owned(), full(first));
                continue;
            }
            let name = key.strip_prefix("exp_avg.").ok_or_else(|| format!("{key}: not a first moment"))?;
            let second = tensors
                .remove(&format!("exp_avg_sq.{name}"))
                .ok_or_else(|| format!("{name}: its second moment is missing"))?;
            moments.insert(name.to_owned(), (full(first), full(second)));
        }
        Ok(Self { config, steps, moments, masters })
    }
}

struct Update<'a> {
    optimizer: &'a mut AdamW,
    learning_rate: f64,
    gradients: GradientsParams,
    path: ParameterPath,
}

impl Update<'_> {
    /// The new value of one parameter, both flat.
    fn apply(&mut self, name: String, weight: Tensor<1>, gradient: Tensor<1>, decayed: bool) -> Tensor<1> {
        let AdamWConfig { beta_1, beta_2, epsilon, weight_decay, .. } = self.optimizer.config;
        let steps = self.optimizer.steps as i32;
        let gradient = full(gradient);
        let zero = || (gradient.zeros_like(), gradient.zeros_like());
        let (first, second) = self.optimizer.moments.remove(&name).unwrap_or_else(zero);
        let first = first * beta_1 + gradient.clone() * (1.0 - beta_1);
        let second = second * beta_2 + gradient.square() * (1.0 - beta_2);
        let root = (second.clone() / (1.0 - beta_2.powi(steps))).sqrt() + epsilon;
        let change = first.clone() / root * (self.learning_rate / (1.0 - beta_1.powi(steps)));
        self.optimizer.moments.insert(name.clone(), (first, second));
        let shrink = if decayed { 1.0 - self.learning_rate * weight_decay } else { 1.0 };
        let format = weight.dtype();
        let master = self.optimizer.masters.remove(&name).unwrap_or_else(|| full(weight));
        let moved = master * shrink - change;
        if format == DType::F32 {
            return moved;
        }
        self.optimizer.masters.insert(name, moved.clone());
        moved.cast(format)
    }
}

/// In 32-bit numbers.
fn full(tensor: Tensor<1>) -> Tensor<1> {
    if tensor.dtype() == DType::F32 { tensor } else { tensor.cast(FloatDType::F32) }
}

impl ModuleMapper for Update<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return param };
        let (id, value, mapper) = param.consume();
        let (tracked, trained, strategy) =
            (value.is_autodiff(), value.is_require_grad(), value.gradient_checkpointing_strategy());
        let shape = value.shape();
        let count = shape.num_elements();
        let name = self.path.name();
        let flat = self.apply(name, value.inner().reshape([count]), gradient.reshape([count]), D >= 2);
        let mut value: Tensor<D> = flat.reshape(shape);
        if tracked {
            value = value.autodiff();
            if let Some(strategy) = strategy {
                value = value.with_gradient_checkpointing_strategy(strategy);
            }
            value = value.set_require_grad(trained);
        }
        Param::from_mapped_value(id, value, mapper)
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::{Linear, LinearConfig};

    use super::*;

    fn gradients(layer: &Linear) -> GradientsParams {
        let input = Tensor::<2>::ones([1, 2], &layer.weight.device());
        GradientsParams::from_grads(layer.forward(input).sum().backward(), layer)
    }

    fn weights(layer: &Linear) -> Vec<f32> {
        layer.weight.val().into_data().try_to_vec().unwrap()
    }

    #[test]
    fn first_step_moves_every_weight_by_the_rate_against_its_gradient() {
        let device = Device::default().autodiff();
        let layer = LinearConfig::new(2, 1).init(&device);
        let before = weights(&layer);
        let config = AdamWConfig { weight_decay: 0.5, ..AdamWConfig::default() };
        let gradients = gradients(&layer);
        let after = weights(&AdamW::new(config).step(0.01, layer, gradients));
        for (before, after) in before.iter().zip(after) {
            assert!((before * (1.0 - 0.005) - 0.01 - after).abs() < 1e-6);
        }
    }

    #[test]
    fn a_restored_optimizer_goes_on_to_the_same_bits() {
        let device = Device::default().autodiff();
        let mut layer = LinearConfig::new(2, 3).init(&device);
        let mut optimizer = AdamW::new(AdamWConfig::default());
        for _ in 0..3 {
            let gradients = gradients(&layer);
            layer = optimizer.step(0.1, layer, gradients);
        }
        let (steps, state) = optimizer.state();
        let mut restored = AdamW::restore(AdamWConfig::default(), steps, state, &Device::default()).unwrap();
        let straight = optimizer.step(0.1, layer.clone(), gradients(&layer));
        let resumed = restored.step(0.1, layer.clone(), gradients(&layer));
        assert_eq!(weights(&straight), weights(&resumed));
    }

    #[test]
    fn steps_too_small_for_bf16_add_up_in_the_master_copy() {
        let device = Device::default().autodiff();
        let mut layer = LinearConfig::new(2, 1).init(&device);
        let ones = Tensor::<2>::ones([2, 1], &device).cast(FloatDType::BF16);
        layer.weight = layer.weight.map(|_| ones.require_grad());
        layer.bias = None;
        let mut optimizer = AdamW::new(AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() });
        // A step of 0.001 is less than half of what bf16 tells apart below 1.
        for _ in 0..8 {
            let mut gradients = GradientsParams::new();
            gradients.register(layer.weight.id, Tensor::<2>::ones([2, 1], &Device::default()));
            layer = optimizer.step(0.001, layer, gradients);
        }
        assert_eq!(layer.weight.val().dtype(), DType::BF16);
        let (steps, state) = optimizer.state();
        let master: Vec<f32> = state["master.weight"].clone().try_into_vec().unwrap();
        assert!(master.iter().all(|weight| (weight - 0.992).abs() < 1e-5), "{master:?}");
        let weight: Vec<f32> = layer.weight.val().cast(FloatDType::F32).into_data().try_into_vec().unwrap();
        assert!(weight.iter().all(|weight| (weight - 0.992).abs() < 2e-3), "{weight:?}");
        let restored = AdamW::restore(AdamWConfig::default(), steps, state, &Device::default()).unwrap();
        assert_eq!(restored.masters.len(), 1);
    }
}
