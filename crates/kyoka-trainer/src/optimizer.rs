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

use crate::range::{SettingError, number};

/// Settings of AdamW (arXiv 1711.05101).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// Decay of the first moment, in [0, 1). Default 0.9.
    pub beta_1: f64,
    /// Decay of the second moment, in [0, 1). Default 0.98.
    pub beta_2: f64,
    /// Added to the root of the second moment; a finite number above 0. Default 1e-8.
    pub epsilon: f64,
    /// Decoupled decay of matrices; norms and biases are not decayed. A finite number of at least 0. Default 0.05.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm; above 0, or `"none"` (infinity) to leave them as they are.
    /// Default 1.
    #[serde(with = "norm_bound")]
    pub max_grad_norm: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta_1: 0.9, beta_2: 0.98, epsilon: 1e-8, weight_decay: 0.05, max_grad_norm: 1.0 }
    }
}

impl AdamWConfig {
    /// Checks the ranges named at the fields; `prefix` is the settings' place in the recipe.
    ///
    /// # Errors
    /// Names the setting, its range and the value.
    pub fn check(&self, prefix: &str) -> Result<(), SettingError> {
        for beta in [("beta_1", self.beta_1), ("beta_2", self.beta_2)] {
            number(prefix, beta, (0.0..1.0).contains(&beta.1), "a number in [0, 1)")?;
        }
        let (epsilon, decay, norm) = (self.epsilon, self.weight_decay, self.max_grad_norm);
        let holds = epsilon > 0.0 && epsilon.is_finite();
        number(prefix, ("epsilon", epsilon), holds, "a finite number above 0")?;
        let holds = decay >= 0.0 && decay.is_finite();
        number(prefix, ("weight_decay", decay), holds, "a finite number of at least 0")?;
        number(prefix, ("max_grad_norm", norm), norm > 0.0, "a number above 0, or \"none\" not to clip")
    }
}

/// A number, or `"none"` for infinity, which is no JSON.
mod norm_bound {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bound: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if *bound == f64::INFINITY {
            serializer.serialize_str("none")
        } else {
            serializer.serialize_f64(*bound)
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Bound {
            Number(f64),
            Name(String),
        }
        let expected = "expected a number above 0, or \"none\" not to clip";
        match Bound::deserialize(deserializer).map_err(|_| D::Error::custom(expected))? {
            Bound::Number(bound) => Ok(bound),
            Bound::Name(name) if name == "none" => Ok(f64::INFINITY),
            Bound::Name(name) => Err(D::Error::custom(format!("{expected}; got {name:?}"))),
        }
    }
}

/// An update that would make a weight, or a moment of its gradient, no number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the update of {parameter} is not finite")]
pub struct NotFiniteUpdate {
    /// Name of the first such parameter.
    pub parameter: String,
}

/// The optimizer: moments of every parameter, and how many updates it had.
///
/// Everything is kept and computed in 32-bit numbers. Parameters in a shorter format, such as bf16, have a 32-bit copy here
/// that takes the steps; the parameter is that copy, rounded: steps too small for its format are not lost.
#[derive(Debug, Clone)]
pub struct AdamW {
    config: AdamWConfig,
    steps: u64,
    moments: BTreeMap<String, Moments>,
    /// 32-bit copies of parameters in shorter formats.
    masters: BTreeMap<String, Tensor<1>>,
}

/// Averages of a parameter's gradients and of their squares, both flat.
#[derive(Debug, Clone)]
struct Moments {
    first: Tensor<1>,
    second: Tensor<1>,
    /// Updates of this parameter: what the bias of the averages depends on. A parameter that was frozen, or whose stage
    /// began without it, has fewer than others.
    updates: u64,
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

    /// `w <- w (1 - lr decay) - lr m^ / (sqrt(v^) + eps)` for every parameter with a gradient; `m^` and `v^` are corrected
    /// for bias by the parameter's own number of updates.
    ///
    /// # Errors
    /// If a weight or a moment would not be finite: names the parameter. The moments are lost then; what a checkpoint
    /// holds is not, unless this optimizer is written over it.
    pub fn step<M: Module>(
        &mut self,
        learning_rate: f64,
        module: M,
        gradients: GradientsParams,
    ) -> Result<M, NotFiniteUpdate> {
        self.steps += 1;
        let (path, zeros) = (ParameterPath::default(), Vec::new());
        let mut update = Update { optimizer: self, learning_rate, gradients, path, zeros };
        let module = module.map(&mut update);
        update.check().map(|()| module)
    }

    /// The state as named tensors: `exp_avg.<parameter>`, `exp_avg_sq.<parameter>`, `step.<parameter>` (its updates, one
    /// number), and `master.<parameter>` where there is a 32-bit copy; and the number of steps.
    pub fn state(&self) -> (u64, BTreeMap<String, TensorData>) {
        let tensors = self.moments.iter().flat_map(|(name, Moments { first, second, updates })| {
            [
                (format!("exp_avg.{name}"), first.to_data()),
                (format!("exp_avg_sq.{name}"), second.to_data()),
                (format!("step.{name}"), TensorData::new(vec![*updates as f32], [1])),
            ]
        });
        let masters = self.masters.iter().map(|(name, master)| (format!("master.{name}"), master.to_data()));
        (self.steps, tensors.chain(masters).collect())
    }

    /// Steps taken.
    pub fn num_steps(&self) -> u64 {
        self.steps
    }

    /// Restores what [`state`](Self::state) gave. A state without a parameter's updates, as earlier versions wrote it,
    /// counts `steps` for it.
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
            let updates = match tensors.remove(&format!("step.{name}")) {
                Some(updates) => count(&updates).ok_or_else(|| {
                    format!("step.{name}: expected one whole number of at least 1, got {updates:?}")
                })?,
                None => steps,
            };
            let moment = Moments { first: full(first), second: full(second), updates };
            moments.insert(name.to_owned(), moment);
        }
        Ok(Self { config, steps, moments, masters })
    }
}

/// A number of updates as [`AdamW::state`] writes it.
fn count(updates: &TensorData) -> Option<u64> {
    let mut values = updates.iter::<f32>();
    let (value, rest) = (values.next()?, values.next());
    (rest.is_none() && value >= 1.0 && value.fract() == 0.0).then_some(value as u64)
}

struct Update<'a> {
    optimizer: &'a mut AdamW,
    learning_rate: f64,
    gradients: GradientsParams,
    path: ParameterPath,
    /// A number a parameter that is 0 if all of its new numbers are finite, and NaN otherwise.
    zeros: Vec<(String, Tensor<1>)>,
}

impl Update<'_> {
    /// The new value of one parameter, both flat.
    fn apply(&mut self, name: String, weight: Tensor<1>, gradient: Tensor<1>, decayed: bool) -> Tensor<1> {
        let AdamWConfig { beta_1, beta_2, epsilon, weight_decay, .. } = self.optimizer.config;
        let gradient = full(gradient);
        let zero = || Moments { first: gradient.zeros_like(), second: gradient.zeros_like(), updates: 0 };
        let Moments { first, second, updates } = self.optimizer.moments.remove(&name).unwrap_or_else(zero);
        let updates = updates + 1;
        let unbiased = |beta: f64| 1.0 - beta.powi(i32::try_from(updates).unwrap_or(i32::MAX));
        let first = first * beta_1 + gradient.clone() * (1.0 - beta_1);
        let second = second * beta_2 + gradient.square() * (1.0 - beta_2);
        let root = (second.clone() / unbiased(beta_2)).sqrt() + epsilon;
        let change = first.clone() / root * (self.learning_rate / unbiased(beta_1));
        let shrink = if decayed { 1.0 - self.learning_rate * weight_decay } else { 1.0 };
        let format = weight.dtype();
        let master = self.optimizer.masters.remove(&name).unwrap_or_else(|| full(weight));
        let moved = master * shrink - change;
        // A first moment that is not finite shows in the weight; a second one that is infinite hides behind a change of 0.
        self.zeros.push((name.clone(), (moved.clone() * 0.0 + second.clone() * 0.0).sum()));
        self.optimizer.moments.insert(name.clone(), Moments { first, second, updates });
        if format == DType::F32 {
            return moved;
        }
        self.optimizer.masters.insert(name, moved.clone());
        moved.cast(format)
    }

    /// Names the first parameter whose numbers are not finite; the device is waited for once.
    fn check(self) -> Result<(), NotFiniteUpdate> {
        if self.zeros.is_empty() {
            return Ok(());
        }
        let (names, zeros): (Vec<String>, Vec<Tensor<1>>) = self.zeros.into_iter().unzip();
        let zeros = Tensor::cat(zeros, 0).into_data();
        let broken = zeros.iter::<f32>().position(|zero| !zero.is_finite());
        broken.map_or(Ok(()), |place| Err(NotFiniteUpdate { parameter: names[place].clone() }))
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
        let after = weights(&AdamW::new(config).step(0.01, layer, gradients).unwrap());
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
            layer = optimizer.step(0.1, layer, gradients).unwrap();
        }
        let (steps, state) = optimizer.state();
        let mut restored = AdamW::restore(AdamWConfig::default(), steps, state, &Device::default()).unwrap();
        let straight = optimizer.step(0.1, layer.clone(), gradients(&layer)).unwrap();
        let resumed = restored.step(0.1, layer.clone(), gradients(&layer)).unwrap();
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
            layer = optimizer.step(0.001, layer, gradients).unwrap();
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

    /// Gradients of some of a layer's parameters, all equal to `value`.
    fn given(layer: &Linear, value: f32, (weight, bias): (bool, bool)) -> GradientsParams {
        let mut gradients = GradientsParams::new();
        let device = Device::default();
        let full = |shape: burn::tensor::Shape| Tensor::<1>::ones([shape.num_elements()], &device) * value;
        if weight {
            let shape = layer.weight.shape();
            gradients.register(layer.weight.id, full(shape.clone()).reshape::<2, _>(shape));
        }
        if let Some(param) = layer.bias.as_ref().filter(|_| bias) {
            gradients.register(param.id, full(param.shape()));
        }
        gradients
    }

    #[test]
    fn a_parameter_that_learns_later_corrects_from_its_own_first_update() {
        let device = Device::default().autodiff();
        let mut layer = LinearConfig::new(2, 1).init(&device);
        let config = AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() };
        let mut optimizer = AdamW::new(config);
        let bias = |layer: &Linear| layer.bias.as_ref().unwrap().val().into_scalar::<f32>();
        for _ in 0..20 {
            let gradients = given(&layer, 0.3, (true, false));
            layer = optimizer.step(0.01, layer, gradients).unwrap();
        }
        let before = bias(&layer);
        // Corrected by the steps of all, its first change would be (1 - 0.9) / sqrt(1 - 0.98) = 0.7 of the rate, times
        // the roots of what is left: 0.41 here.
        let gradients = given(&layer, 0.3, (true, true));
        let late = optimizer.step(0.01, layer.clone(), gradients).unwrap();
        assert!((before - bias(&late) - 0.01).abs() < 1e-6, "{before} -> {}", bias(&late));
        let (steps, state) = optimizer.state();
        let updates = |state: &BTreeMap<String, TensorData>, name: &str| count(&state[name]);
        assert_eq!((updates(&state, "step.weight"), updates(&state, "step.bias")), (Some(21), Some(1)));
        let mut restored = AdamW::restore(config, steps, state, &Device::default()).unwrap();
        let gradients = || given(&late, 0.2, (true, true));
        let straight = optimizer.step(0.01, late.clone(), gradients()).unwrap();
        let resumed = restored.step(0.01, late.clone(), gradients()).unwrap();
        assert_eq!((weights(&straight), bias(&straight)), (weights(&resumed), bias(&resumed)));
    }

    #[test]
    fn a_state_without_updates_counts_the_steps() {
        let device = Device::default().autodiff();
        let layer = LinearConfig::new(2, 1).init(&device);
        let mut optimizer = AdamW::new(AdamWConfig::default());
        let layer = optimizer.step(0.1, layer.clone(), gradients(&layer)).unwrap();
        let (_, mut state) = optimizer.state();
        state.retain(|name, _| !name.starts_with("step."));
        let restored = AdamW::restore(AdamWConfig::default(), 7, state, &Device::default()).unwrap();
        assert_eq!(restored.moments["weight"].updates, 7);
        drop(layer);
        let broken = [("exp_avg.w", 1.0), ("exp_avg_sq.w", 1.0), ("step.w", 0.5)];
        let broken = broken.map(|(name, value)| (name.to_owned(), TensorData::new(vec![value], [1])));
        let error = AdamW::restore(AdamWConfig::default(), 7, broken.into(), &Device::default()).unwrap_err();
        assert!(error.contains("step.w: expected one whole number"), "{error}");
    }

    #[test]
    fn an_update_that_is_no_number_names_its_parameter() {
        let device = Device::default().autodiff();
        let layer = LinearConfig::new(2, 1).init(&device);
        let step = |config: AdamWConfig, rate: f64, gradients| {
            AdamW::new(config).step(rate, layer.clone(), gradients).map(|_| ()).unwrap_err().to_string()
        };
        let config = AdamWConfig::default();
        let zero = AdamWConfig { epsilon: 0.0, ..config };
        // 0 / 0; a rate beyond f32; a square beyond f32, whose change would be 0.
        let expected = "the update of weight is not finite";
        assert_eq!(step(zero, 0.1, given(&layer, 0.0, (true, true))), expected);
        assert_eq!(step(config, 1e39, given(&layer, 1.0, (true, true))), expected);
        assert_eq!(step(config, 0.1, given(&layer, 1e20, (true, true))), expected);
        assert_eq!(step(zero, 0.1, given(&layer, 0.0, (false, true))), "the update of bias is not finite");
    }

    #[test]
    fn settings_out_of_range_name_their_place() {
        let refused = |config: AdamWConfig| config.check("rl.optimizer").unwrap_err().to_string();
        let good = AdamWConfig::default();
        assert!(good.check("rl.optimizer").is_ok());
        assert!(AdamWConfig { max_grad_norm: f64::INFINITY, beta_1: 0.0, ..good }.check("").is_ok());
        for (config, message) in [
            (
                AdamWConfig { beta_1: -0.5, ..good },
                "rl.optimizer.beta_1: expected a number in [0, 1), got -0.5",
            ),
            (AdamWConfig { beta_2: 1.0, ..good }, "rl.optimizer.beta_2: expected a number in [0, 1), got 1"),
            (
                AdamWConfig { epsilon: 0.0, ..good },
                "rl.optimizer.epsilon: expected a finite number above 0, got 0",
            ),
            (
                AdamWConfig { weight_decay: f64::INFINITY, ..good },
                "rl.optimizer.weight_decay: expected a finite number of at least 0, got inf",
            ),
            (
                AdamWConfig { max_grad_norm: 0.0, ..good },
                "rl.optimizer.max_grad_norm: expected a number above 0, or \"none\" not to clip, got 0",
            ),
            (
                AdamWConfig { max_grad_norm: f64::NAN, ..good },
                "rl.optimizer.max_grad_norm: expected a number above 0, or \"none\" not to clip, got NaN",
            ),
        ] {
            assert_eq!(refused(config), message);
        }
    }

    #[test]
    fn clipping_is_switched_off_by_name() {
        let read = |text: &str| serde_json::from_str::<AdamWConfig>(text).map_err(|error| error.to_string());
        let none = read(r#"{"max_grad_norm": "none"}"#).unwrap();
        assert_eq!(none.max_grad_norm, f64::INFINITY);
        assert_eq!(read(&serde_json::to_string(&none).unwrap()).unwrap(), none);
        assert_eq!(read(r#"{"max_grad_norm": 2}"#).unwrap().max_grad_norm, 2.0);
        let error = read(r#"{"max_grad_norm": "off"}"#).unwrap_err();
        assert!(error.contains("or \"none\" not to clip"), "{error}");
    }
}
