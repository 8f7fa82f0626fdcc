//! Who says what a state is worth: a scalar head on hidden rows.

use burn::{
    module::{Module, ModuleDisplay, Param},
    nn::Linear,
    tensor::{FloatDType, Tensor, TensorData},
};
use kyoka_core::{Distribution, PackedGroup};

use crate::{AdamW, AdamWConfig, TrainableLm};

/// A value head, on a trunk of its own or on the policy's.
#[derive(Module, Debug)]
pub struct Critic<M: Module + ModuleDisplay> {
    /// The critic's own trunk; absent when it shares the policy's.
    pub trunk: Option<M>,
    /// From a hidden row to its values, `[D, K]`; starts at 0. A critic has one, a reward model as many as its ensemble.
    pub head: Linear,
}

impl<M: TrainableLm> Critic<M> {
    /// A critic that starts from the policy; its values are 0.
    pub fn new(policy: &M, own_trunk: bool) -> Self {
        Self::with_heads(policy, own_trunk, 1)
    }

    /// One with `num_heads` values, all of them 0.
    pub fn with_heads(policy: &M, own_trunk: bool, num_heads: usize) -> Self {
        let device = policy.device();
        let zeros = |shape: Vec<usize>| TensorData::zeros::<f32, _>(shape);
        let head = Linear {
            weight: Param::from_data(zeros(vec![policy.d_model(), num_heads]), &device),
            bias: Some(Param::from_data(zeros(vec![num_heads]), &device)),
        };
        Self { trunk: own_trunk.then(|| policy.clone()), head }
    }

    /// How many values it gives.
    pub fn num_heads(&self) -> usize {
        self.head.weight.dims()[1]
    }

    /// The value before each token, from the hidden rows of the trunk.
    ///
    /// # Shapes
    /// - input: `[R, T, D]`
    /// - output: `[R, T]`
    pub fn values(&self, hidden: Tensor<3>) -> Tensor<2> {
        let [r, t, d] = hidden.dims();
        let values: Tensor<2> = self.head.forward(hidden.reshape([r * t, d])).reshape([r, t]);
        values.cast(FloatDType::F32)
    }

    /// The values of given completions; `policy` is the trunk when it is shared.
    ///
    /// # Shapes
    /// - output: `[R, T]`
    pub fn evaluate(&self, policy: &M, groups: &[PackedGroup<'_>]) -> Tensor<2> {
        let trunk = self.trunk.as_ref().unwrap_or(policy);
        // Hidden rows come before any distribution over tokens.
        let (_, hidden) = trunk.score_with_hidden(groups, &Distribution::default());
        self.values(hidden)
    }
}

/// A critic with its optimizer.
#[derive(Debug, Clone)]
pub struct CriticState<M: TrainableLm> {
    /// The critic, on an autodiff device.
    pub critic: Critic<M>,
    /// Its optimizer.
    pub optimizer: AdamW,
}

impl<M: TrainableLm> CriticState<M> {
    /// A fresh critic of a policy.
    pub fn new(policy: &M, own_trunk: bool, config: AdamWConfig) -> Self {
        Self { critic: Critic::new(policy, own_trunk), optimizer: AdamW::new(config) }
    }
}
