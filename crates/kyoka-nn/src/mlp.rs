//! Feed-forward blocks.

use burn::{
    module::Module,
    tensor::{Tensor, activation},
};
use serde::{Deserialize, Serialize};

use crate::{Linear, Linears, NamedLinears, WeightInit, fused};

/// The gated MLP of Llama and Qwen2: `down(silu(gate(x)) * up(x))`.
///
/// Gate and up are one matrix, gate first: one product instead of two.
#[derive(Module, Debug)]
pub struct GatedMlp {
    /// Weight `[d_model, 2 * d_hidden]`, gate columns first.
    pub gate_up: Linear,
    /// Weight `[d_hidden, d_model]`.
    pub down: Linear,
}

impl GatedMlp {
    /// A block with or without biases.
    pub fn new(d_model: usize, d_hidden: usize, bias: bool, init: &mut WeightInit) -> Self {
        Self {
            gate_up: init.linear(d_model, 2 * d_hidden, bias),
            down: init.residual_linear(d_hidden, d_model, bias, 4),
        }
    }

    /// # Shapes
    /// - input and output: `[N, D]`
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        self.down.forward(fused::swiglu(self.gate_up.forward(input)))
    }
}

/// The function between the matrices of a plain MLP; names as in Hugging Face's `hidden_act`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x Phi(x)` with the exact distribution function.
    #[default]
    Gelu,
    /// Its approximation by a hyperbolic tangent: SigLIP.
    GeluPytorchTanh,
    /// `x sigmoid(1.702 x)`: CLIP, Qwen2-VL.
    QuickGelu,
    /// `x sigmoid(x)`, in gated blocks only.
    Silu,
}

impl Activation {
    /// # Shapes
    /// - input and output: `[N, D]`
    pub fn forward(self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Gelu => fused::gelu(x),
            Self::GeluPytorchTanh => fused::gelu_tanh(x),
            Self::QuickGelu => x.clone() * activation::sigmoid(x * 1.702),
            Self::Silu => activation::silu(x),
        }
    }
}

/// The MLP of vision and audio towers: `fc2(activation(fc1(x)))`.
#[derive(Module, Debug)]
pub struct GeluMlp {
    /// Weight `[d_model, d_hidden]`.
    pub fc1: Linear,
    /// Weight `[d_hidden, d_output]`.
    pub fc2: Linear,
    #[module(skip)]
    activation: Activation,
}

impl GeluMlp {
    /// A block with biases, from its three widths: input, hidden, output.
    pub fn new(
        [d_model, d_hidden, d_output]: [usize; 3],
        activation: Activation,
        init: &mut WeightInit,
    ) -> Self {
        Self {
            activation,
            fc1: init.linear(d_model, d_hidden, true),
            fc2: init.residual_linear(d_hidden, d_output, true, 1),
        }
    }

    /// # Shapes
    /// - input: `[N, d_model]`
    /// - output: `[N, d_output]`
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        self.fc2.forward(self.activation.forward(self.fc1.forward(input)))
    }
}

impl Linears for GatedMlp {
    fn linears<'a>(&'a mut self, prefix: &str, found: &mut NamedLinears<'a>) {
        found.push((format!("{prefix}gate_up"), &mut self.gate_up));
        found.push((format!("{prefix}down"), &mut self.down));
    }
}

impl Linears for GeluMlp {
    fn linears<'a>(&'a mut self, prefix: &str, found: &mut NamedLinears<'a>) {
        found.push((format!("{prefix}fc1"), &mut self.fc1));
        found.push((format!("{prefix}fc2"), &mut self.fc2));
    }
}
