//! What learns of a policy in a stage.

use std::collections::BTreeMap;

use super::sizes::PolicySizes;
use crate::freezing::Frozen;

/// What learns of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Learning {
    /// Its matrices.
    Whole,
    /// Adapters beside them.
    Adapters,
    /// Nothing: slopes only pass through.
    Nothing,
}

/// What learns of a policy in a stage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Trained {
    /// Parameters of the policy, adapters included.
    pub all: usize,
    /// Parameters that learn.
    pub params: usize,
    pub decoder: Learning,
    /// Whether a tower learns.
    pub towers: bool,
    /// Whether the features of towers are kept by content, so that steps need not run them.
    pub kept_features: bool,
}

impl Trained {
    /// A policy that learns whole.
    pub fn whole(sizes: &PolicySizes) -> Self {
        let (all, decoder) = (sizes.params(), Learning::Whole);
        Self { all, params: all, decoder, towers: true, kept_features: false }
    }

    /// Of a policy's parameters, by name and number of values, what is not frozen.
    pub fn of(parameters: &BTreeMap<String, usize>, frozen: &Frozen, kept_features: bool) -> Self {
        let learning: Vec<(&str, usize)> = parameters
            .iter()
            .filter(|(name, _)| !frozen.holds(name))
            .map(|(name, values)| (name.as_str(), *values))
            .collect();
        let within = |part: &str, adapters: bool| {
            learning.iter().any(|(name, _)| name.starts_with(part) && name.contains(".adapters.") == adapters)
        };
        let decoder = match (within("decoder.", false), within("decoder.", true)) {
            (true, _) => Learning::Whole,
            (false, true) => Learning::Adapters,
            (false, false) => Learning::Nothing,
        };
        let tower = |part| within(part, false) || within(part, true);
        Self {
            all: parameters.values().sum(),
            params: learning.iter().map(|(_, values)| values).sum(),
            decoder,
            towers: tower("image.encoder.") || tower("audio.encoder."),
            kept_features,
        }
    }

    /// With adapters on a decoder that would learn whole otherwise; nothing else learns then.
    pub fn suggested(self, sizes: &PolicySizes, lora_rank: Option<usize>) -> Self {
        let Some(rank) = lora_rank.filter(|_| self.decoder == Learning::Whole) else { return self };
        let adapters = sizes.lora_params(rank);
        Self {
            all: self.all + adapters,
            params: adapters,
            decoder: Learning::Adapters,
            towers: false,
            ..self
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::{
        module::{Module, ModuleVisitor, Param},
        tensor::{Device, Tensor},
    };
    use kyoka_core::parameter_shapes;
    use kyoka_nn::WeightInit;

    use super::*;
    use crate::{
        PolicyConfig,
        adapters::{Adapters, LoraSettings, Naming},
    };

    /// Values of the parameters that take gradients.
    fn tracked(policy: &impl Module) -> usize {
        struct Count(usize);
        impl ModuleVisitor for Count {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let tensor = param.val();
                self.0 += if tensor.is_require_grad() { tensor.dims().iter().product() } else { 0 };
            }
        }
        let mut count = Count(0);
        policy.visit(&mut count);
        count.0
    }

    #[test]
    fn what_is_counted_as_learning_is_what_takes_gradients() {
        let mut config = PolicyConfig::tiny(20);
        for (patterns, with_adapters, decoder, towers) in [
            (&[][..], false, Learning::Whole, true),
            (&["image.encoder", "audio.encoder"], false, Learning::Whole, false),
            (&["decoder", "image.encoder"], false, Learning::Nothing, true),
            (&[], true, Learning::Adapters, false),
            (&["image.projector.mlp.fc1"], true, Learning::Adapters, false),
            (&["decoder"], true, Learning::Nothing, false),
        ] {
            config.adapters = None;
            if with_adapters {
                let mut blank = config.build_with(&mut WeightInit::blank(&Device::flex()));
                let targets = vec!["*decoder*".to_owned()];
                let modules_to_save = vec!["image.projector".to_owned()];
                let lora = LoraSettings { targets, modules_to_save, ..LoraSettings::default() };
                let naming = Naming { model_type: "composed", rules: &[] };
                config.adapters = Some(Adapters::of(lora, &mut blank, naming).unwrap());
            }
            let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
            let frozen = Frozen::new(&patterns, &config);
            let policy = frozen.apply(config.build(1, &Device::flex().autodiff())).unwrap();
            let shapes = parameter_shapes(&policy).into_iter();
            let parameters = shapes.map(|(name, shape)| (name, shape.iter().product())).collect();
            let trained = Trained::of(&parameters, &frozen, false);
            assert_eq!((trained.params, trained.all), (tracked(&policy), policy.num_params()));
            assert_eq!((trained.decoder, trained.towers), (decoder, towers), "{patterns:?}");
        }
    }

    #[test]
    fn suggested_adapters_take_the_place_of_everything() {
        let sizes = PolicySizes::new(&PolicyConfig::tiny(20));
        let whole = Trained::whole(&sizes);
        let suggested = whole.suggested(&sizes, Some(4));
        let adapters = sizes.lora_params(4);
        assert_eq!(suggested.all, sizes.params() + adapters);
        assert_eq!(suggested.params, adapters);
        assert!(!suggested.towers && suggested.decoder == Learning::Adapters);
        assert_eq!(suggested.suggested(&sizes, Some(8)), suggested, "a decoder with adapters keeps them");
        assert_eq!(whole.suggested(&sizes, None), whole);
    }
}
