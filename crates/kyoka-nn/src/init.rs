//! Initial weights drawn on the host: one seed gives the same weights on every device.

use burn::{
    module::{Param, ParamId},
    nn::{Linear, RmsNorm, RmsNormConfig},
    tensor::{Device, Tensor, TensorData},
};
use kyoka_core::{Stream, stream_rng};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Draws the weights of a model, one tensor after the other.
pub struct WeightInit {
    /// None where the weights come from a checkpoint.
    rng: Option<ChaCha8Rng>,
    device: Device,
}

impl WeightInit {
    /// Weights for `device`.
    pub fn new(seed: u64, device: &Device) -> Self {
        Self { rng: Some(stream_rng(seed, Stream::Init, &[])), device: device.clone() }
    }

    /// Weights that a checkpoint will give: shapes only, nothing is drawn and nothing takes memory before
    /// [`CheckpointFiles::load`](crate::CheckpointFiles::load). A weight that is asked for earlier is zero.
    pub fn blank(device: &Device) -> Self {
        Self { rng: None, device: device.clone() }
    }

    /// Where the weights are put.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Uniform in `[-bound, bound]`.
    pub fn uniform<const D: usize>(&mut self, shape: [usize; D], bound: f32) -> Param<Tensor<D>> {
        let Some(rng) = &mut self.rng else { return self.lazy_zeros(shape) };
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| rng.random_range(-bound..=bound)).collect();
        Param::from_data(TensorData::new(values, shape), &self.device)
    }

    fn lazy_zeros<const D: usize>(&self, shape: [usize; D]) -> Param<Tensor<D>> {
        let zeros = move |device: &Device, trained| Tensor::zeros(shape, device).set_require_grad(trained);
        Param::uninitialized(ParamId::new(), zeros, self.device.clone(), true, shape.into())
    }

    /// All zero.
    pub fn zeros<const D: usize>(&self, shape: [usize; D]) -> Param<Tensor<D>> {
        Param::from_data(TensorData::zeros::<f32, _>(shape), &self.device)
    }

    /// All one.
    pub fn ones<const D: usize>(&self, shape: [usize; D]) -> Param<Tensor<D>> {
        Param::from_data(TensorData::ones::<f32, _>(shape), &self.device)
    }

    /// A linear map with weight `[d_input, d_output]`, uniform with variance `1 / d_input`; the bias starts at 0.
    pub fn linear(&mut self, d_input: usize, d_output: usize, bias: bool) -> Linear {
        let bound = (3.0 / d_input as f32).sqrt();
        let weight = self.uniform([d_input, d_output], bound);
        Linear { weight, bias: bias.then(|| self.zeros([d_output])) }
    }

    /// A linear map that starts `1 / sqrt(num_layers)` smaller: the last one of a residual branch.
    pub fn residual_linear(
        &mut self,
        d_input: usize,
        d_output: usize,
        bias: bool,
        num_layers: usize,
    ) -> Linear {
        let bound = (3.0 / (d_input * 2 * num_layers.max(1)) as f32).sqrt();
        let weight = self.uniform([d_input, d_output], bound);
        Linear { weight, bias: bias.then(|| self.zeros([d_output])) }
    }

    /// Root-mean-square norm of width `d_model`.
    pub fn rms_norm(&self, d_model: usize, epsilon: f64) -> RmsNorm {
        RmsNormConfig::new(d_model).with_epsilon(epsilon).init(&self.device)
    }
}
