//! A running average of weights.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Tensor, TensorData},
};
use kyoka_core::{ParameterPath, named_parameters};

/// `decay * old + (1 - decay) * new` for every parameter; a decay of 0 copies.
pub(crate) fn averaged<M: Module>(old: M, new: &M, decay: f64) -> M {
    let new = named_parameters(new).into_iter().map(|(name, (_, data))| (name, data)).collect();
    old.map(&mut Average { new, decay, path: ParameterPath::default() })
}

struct Average {
    new: BTreeMap<String, TensorData>,
    decay: f64,
    path: ParameterPath,
}

impl ModuleMapper for Average {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let new = self.new.remove(&self.path.name()).expect("both have the same parameters");
        param.map(|old| {
            let new = Tensor::from_data(new, &old.device());
            if self.decay == 0.0 { new } else { old * self.decay + new * (1.0 - self.decay) }
        })
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
    use burn::{
        nn::{Linear, LinearConfig},
        tensor::Device,
    };

    use super::*;

    #[test]
    fn weights_move_by_the_share_that_is_left() {
        let device = Device::default();
        let filled = |value: f32| {
            let mut layer: Linear = LinearConfig::new(1, 1).with_bias(false).init(&device);
            layer.weight = Param::from_data(TensorData::new(vec![value], [1, 1]), &device);
            layer
        };
        let weight = |layer: Linear| layer.weight.val().into_scalar::<f32>();
        assert!((weight(averaged(filled(1.0), &filled(2.0), 0.75)) - 1.25).abs() < 1e-6);
        assert_eq!(weight(averaged(filled(1.0), &filled(2.0), 0.0)), 2.0);
    }
}
