//! A linear map that low-rank adapters can be put beside.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};

use kyoka_core::{Stream, stream_rng};
use rand::Rng;

use crate::{SeededDropout, WeightInit};

/// `x W + b`, and for every adapter `scale (x A) B` added to its columns (LoRA, arXiv 2106.09685).
///
/// The adapters never touch the weight: with `W` frozen neither its gradient nor a merged copy is ever made.
#[derive(Module, Debug)]
pub struct Linear {
    /// Shape `[d_input, d_output]`.
    pub weight: Param<Tensor<2>>,
    /// Shape `[d_output]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// Adapters by increasing columns, none of which two share.
    pub adapters: Vec<LowRank>,
}

/// A low-rank change of some neighbouring columns of a linear map.
#[derive(Module, Debug)]
pub struct LowRank {
    /// Shape `[d_input, rank]`.
    pub a: Param<Tensor<2>>,
    /// Shape `[rank, columns]`; starts at zero.
    pub b: Param<Tensor<2>>,
    /// What is dropped of the input in training.
    #[module(skip)]
    pub dropout: SeededDropout,
    scale: f64,
    start: usize,
}

/// Settings of a low-rank adapter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LowRankConfig {
    /// Width between the two matrices.
    pub rank: usize,
    /// The change is multiplied by this number: LoRA's alpha over the rank.
    pub scale: f64,
    /// Share of the input that is dropped in training.
    pub dropout: f64,
}

/// Linear maps with their parameter paths.
pub type NamedLinears<'a> = Vec<(String, &'a mut Linear)>;

/// A module that lends out its linear maps, so that adapters can be put beside them.
pub trait Linears {
    /// Adds the linear maps; `prefix` is the path of the module, with a dot behind it unless it is empty. A module that
    /// lends out none adds none.
    fn linears<'a>(&'a mut self, prefix: &str, found: &mut NamedLinears<'a>);

    /// Seeds what the adapters drop in training, each in its own way, or lets them drop nothing.
    fn set_adapter_dropout(&mut self, seed: Option<u64>) {
        let mut linears = NamedLinears::new();
        self.linears("", &mut linears);
        let adapters = linears.iter().flat_map(|(_, linear)| &linear.adapters);
        for (number, adapter) in adapters.enumerate() {
            let own = |seed| stream_rng(seed, Stream::Dropout, &[number as u64]).next_u64();
            adapter.dropout.set(seed.map(own));
        }
    }
}

impl<T: Linears> Linears for Vec<T> {
    fn linears<'a>(&'a mut self, prefix: &str, found: &mut NamedLinears<'a>) {
        for (number, module) in self.iter_mut().enumerate() {
            module.linears(&format!("{prefix}{number}."), found);
        }
    }
}

impl LowRank {
    /// An adapter of `columns`; `A` is drawn with variance `1 / (3 d_input)`, as PEFT draws it.
    ///
    /// # Panics
    /// If the rank is 0.
    pub fn new(
        config: LowRankConfig,
        d_input: usize,
        columns: std::ops::Range<usize>,
        init: &mut WeightInit,
    ) -> Self {
        assert!(config.rank > 0, "low-rank adapter: expected a rank of at least 1");
        Self {
            a: init.uniform([d_input, config.rank], (d_input as f32).sqrt().recip()),
            b: init.zeros([config.rank, columns.len()]),
            dropout: SeededDropout::new(config.dropout),
            scale: config.scale,
            start: columns.start,
        }
    }

    /// The columns it changes.
    pub fn columns(&self) -> std::ops::Range<usize> {
        let [_, width] = self.b.dims();
        self.start..self.start + width
    }

    /// What it adds to the weight of its columns, `[d_input, columns]`.
    pub fn change(&self) -> Tensor<2> {
        self.a.val().matmul(self.b.val()) * self.scale
    }

    fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        self.dropout.forward(input).matmul(self.a.val()).matmul(self.b.val()) * self.scale
    }
}

impl Linear {
    /// # Shapes
    /// - input: `[N, d_input]`
    /// - output: `[N, d_output]`
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        self.forward_with_bias(input, self.bias.as_ref().map(Param::val))
    }

    /// The same with another bias, `[d_output]`, in the place of its own.
    ///
    /// # Shapes
    /// - input: `[N, d_input]`
    /// - output: `[N, d_output]`
    pub(crate) fn forward_with_bias(&self, input: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        let weight = self.weight.val();
        let output = input.clone().matmul(weight);
        let output = match bias {
            Some(bias) => output + bias.unsqueeze(),
            None => output,
        };
        if self.adapters.is_empty() { output } else { output + self.adapted(input) }
    }

    /// The adapters' changes side by side, zeros between.
    fn adapted(&self, input: Tensor<2>) -> Tensor<2> {
        let ([n, _], [_, d_output]) = (input.dims(), self.weight.dims());
        let zeros = |width: usize| Tensor::zeros([n, width], &input.device());
        let mut parts = Vec::with_capacity(2 * self.adapters.len() + 1);
        let mut next = 0;
        for adapter in &self.adapters {
            let columns = adapter.columns();
            if columns.start > next {
                parts.push(zeros(columns.start - next));
            }
            parts.push(adapter.forward(input.clone()));
            next = columns.end;
        }
        if next < d_output {
            parts.push(zeros(d_output - next));
        }
        Tensor::cat(parts, 1)
    }

    /// The map with its adapters folded into the weight; of a module without autodiff.
    pub fn merged(mut self) -> Self {
        for adapter in std::mem::take(&mut self.adapters) {
            let ([rows, _], columns) = (self.weight.dims(), adapter.columns());
            let change = adapter.change();
            self.weight = self.weight.map(|weight| {
                let part = weight.clone().narrow(1, columns.start, columns.len()) + change;
                weight.slice_assign([0..rows, columns], part)
            });
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;

    fn adapted() -> Linear {
        let mut init = WeightInit::new(1, &Device::default());
        let mut linear = init.linear(6, 10, true);
        let config = LowRankConfig { rank: 2, scale: 1.5, dropout: 0.0 };
        for columns in [2..5, 5..6] {
            let mut adapter = LowRank::new(config, 6, columns.clone(), &mut init);
            adapter.b = init.uniform([2, columns.len()], 1.0);
            linear.adapters.push(adapter);
        }
        linear
    }

    #[test]
    fn adapters_change_their_columns_only_and_merging_changes_nothing() {
        let linear = adapted();
        let input = Tensor::<2>::random([7, 6], Distribution::Default, &Device::default());
        let plain = Linear { adapters: Vec::new(), ..linear.clone() }.forward(input.clone());
        let with = linear.forward(input.clone());
        let difference = (with.clone() - plain).abs().max_dim(0).into_data().try_to_vec::<f32>().unwrap();
        let changed: Vec<bool> = difference.iter().map(|&change| change > 1e-3).collect();
        assert_eq!(changed, [0, 0, 1, 1, 1, 1, 0, 0, 0, 0].map(|changed| changed == 1));
        let merged = linear.merged();
        assert!(merged.adapters.is_empty());
        let near = Tolerance::absolute(1e-5);
        merged.forward(input).into_data().assert_approx_eq::<f32>(&with.into_data(), near);
    }

    #[test]
    fn a_fresh_adapter_changes_nothing() {
        let mut init = WeightInit::new(1, &Device::default());
        let config = LowRankConfig { rank: 3, scale: 2.0, dropout: 0.0 };
        assert_eq!(LowRank::new(config, 4, 0..5, &mut init).change().abs().max().into_scalar::<f32>(), 0.0);
    }

    #[test]
    fn a_frozen_weight_gets_no_gradient_and_the_adapters_do() {
        let input = Tensor::<2>::ones([2, 6], &Device::default()).autodiff();
        let mut linear = adapted().train();
        linear.weight = linear.weight.set_require_grad(false);
        let gradients = linear.forward(input).sum().backward();
        assert!(linear.weight.val().grad(&gradients).is_none());
        assert!(linear.adapters[0].a.val().grad(&gradients).is_some());
    }
}
