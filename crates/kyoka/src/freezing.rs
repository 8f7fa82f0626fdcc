//! Which parameters a stage trains.

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::Tensor,
};
use kyoka_core::{ParameterPath, nearest};

use crate::{PolicyConfig, adapters::matches};

/// What is frozen: parts of a policy (`decoder`, `image.encoder`, `audio`, ...) or patterns of parameter names, and with
/// adapters everything but these and the modules saved with them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Frozen {
    patterns: Vec<String>,
    adapters: Option<crate::Adapters>,
}

impl Frozen {
    pub fn new(patterns: &[String], config: &PolicyConfig) -> Self {
        Self { patterns: patterns.to_vec(), adapters: config.adapters.clone() }
    }

    /// Whether a parameter keeps its value.
    pub fn holds(&self, parameter: &str) -> bool {
        let named = self.patterns.iter().any(|pattern| is_part(pattern, parameter));
        named || self.adapters.as_ref().is_some_and(|adapters| adapters.freezes(parameter))
    }

    /// Whether all towers that the policy has keep their weights, so that their features can be kept too.
    pub fn holds_towers(&self, config: &PolicyConfig) -> bool {
        let towers = [(config.vision.is_some(), "image.encoder"), (config.audio.is_some(), "audio.encoder")];
        let present: Vec<&str> =
            towers.into_iter().filter(|(there, _)| *there).map(|(_, name)| name).collect();
        let whole = |tower: &&str| {
            let named = self.patterns.iter().any(|pattern| is_part(pattern, tower));
            named || self.adapters.as_ref().is_some_and(|adapters| adapters.freezes_all_of(tower))
        };
        !present.is_empty() && present.iter().all(whole)
    }

    /// The module with its trained parameters tracked and the others not.
    ///
    /// # Errors
    /// If a pattern names no parameter, or nothing is left to train.
    pub fn apply<M: Module>(&self, module: M) -> Result<M, String> {
        let mut mapper = Mapper { path: ParameterPath::default(), frozen: self, names: Vec::new() };
        let module = module.map(&mut mapper);
        let names = mapper.names;
        for pattern in &self.patterns {
            if !names.iter().any(|name| is_part(pattern, name)) {
                let hint = nearest(pattern, names.iter().map(String::as_str));
                let hint = hint.map(|near| format!("; the nearest is {near}")).unwrap_or_default();
                return Err(format!("freeze: {pattern:?} names no parameter{hint}"));
            }
        }
        if names.iter().all(|name| self.holds(name)) {
            return Err("freeze: nothing is left to train".to_owned());
        }
        Ok(module)
    }
}

/// A pattern, or a name with all that is below it.
fn is_part(pattern: &str, parameter: &str) -> bool {
    if pattern.contains('*') {
        return matches(pattern, parameter);
    }
    parameter.strip_prefix(pattern).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

struct Mapper<'a> {
    path: ParameterPath,
    frozen: &'a Frozen,
    names: Vec<String>,
}

impl ModuleMapper for Mapper<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.name();
        let trained = !self.frozen.holds(&name);
        self.names.push(name);
        param.set_require_grad(trained)
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn frozen_parts_take_no_gradient_and_wrong_names_are_refused() {
        let config = PolicyConfig::tiny(20);
        let policy = || config.build(1, &Device::flex().autodiff());
        let frozen = |patterns: &[&str]| {
            Frozen::new(&patterns.iter().map(|&pattern| pattern.to_owned()).collect::<Vec<_>>(), &config)
        };
        let policy_with = frozen(&["decoder", "image.encoder"]).apply(policy()).unwrap();
        assert!(!policy_with.decoder.embedding.val().is_require_grad());
        let image = policy_with.image.as_ref().unwrap();
        assert!(image.projector.mlp.as_ref().unwrap().fc1.weight.val().is_require_grad());
        let error = frozen(&["decodr"]).apply(policy()).unwrap_err();
        assert!(error.contains("decodr") && error.contains("decoder"), "{error}");
        assert!(frozen(&["*"]).apply(policy()).unwrap_err().contains("nothing is left"));
    }
}
