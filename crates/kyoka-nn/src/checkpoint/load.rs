//! A module's parameters from a checkpoint.

use std::collections::{BTreeMap, BTreeSet};

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Tensor, TensorData},
};

use kyoka_core::{ParameterPath, parameter_shapes};

use super::{CheckpointError, CheckpointFiles, TensorFault, error::differences};
use crate::WeightRule;

/// How a module and a checkpoint fit together.
#[derive(Clone, Copy)]
pub struct Fit<'a> {
    /// What every parameter is made of.
    pub rules: &'a [WeightRule],
    /// Tensors that the module does without, by name on disk: parts of the checkpoint that are not wanted.
    pub unused: &'a dyn Fn(&str) -> bool,
    /// Parameters that stay as they are: parts of the module that the checkpoint does not have.
    pub fresh: &'a dyn Fn(&str) -> bool,
}

impl<'a> Fit<'a> {
    /// Every tensor is used, every parameter is made.
    pub fn exact(rules: &'a [WeightRule]) -> Self {
        Self { rules, unused: &|_| false, fresh: &|_| false }
    }
}

impl CheckpointFiles {
    /// Puts the tensors into the module's parameters, one after the other, straight from the files.
    ///
    /// # Errors
    /// One error that lists every tensor that is missing, superfluous or misshapen or holds no floats, with the nearest
    /// known names, and every parameter without a rule. Nothing is read before all this is known.
    pub fn load<M: Module>(&self, module: M, fit: Fit<'_>) -> Result<M, CheckpointError> {
        self.check(&parameter_shapes(&module), fit)?;
        let rules = fit.rules.iter().map(|rule| (rule.parameter.as_str(), rule)).collect();
        Ok(module.map(&mut Fill { path: ParameterPath::default(), rules, files: self }))
    }

    fn check(&self, shapes: &BTreeMap<String, Vec<usize>>, fit: Fit<'_>) -> Result<(), CheckpointError> {
        let mut faults = Vec::new();
        let no_rule = |name: &str, reason| TensorFault::NoRule { name: name.to_owned(), reason };
        let made: BTreeSet<&str> = fit.rules.iter().map(|rule| rule.parameter.as_str()).collect();
        let forgotten = shapes.keys().filter(|name| !made.contains(name.as_str()) && !(fit.fresh)(name));
        faults.extend(forgotten.map(|name| no_rule(name, "nothing on disk belongs to this parameter")));
        let (mut used, mut missing) = (BTreeSet::new(), BTreeSet::new());
        for rule in fit.rules {
            used.extend(rule.on_disk());
            missing.extend(rule.on_disk().filter(|name| self.info(name).is_none()));
            match shapes.get(&rule.parameter) {
                None => faults.push(no_rule(&rule.parameter, "no parameter of this model")),
                Some(shape) => faults.extend(rule.faults(self, Some(shape))),
            }
        }
        let superfluous: Vec<&str> =
            self.names().filter(|name| !used.contains(name) && !(fit.unused)(name)).collect();
        faults.retain(|fault| !matches!(fault, TensorFault::Missing { .. }));
        let (missing, used) = (Vec::from_iter(missing), Vec::from_iter(used));
        faults.extend(differences(&missing, &superfluous, &used));
        CheckpointError::unless_empty(self.path(), faults)
    }
}

struct Fill<'a> {
    path: ParameterPath,
    rules: BTreeMap<&'a str, &'a WeightRule>,
    files: &'a CheckpointFiles,
}

impl ModuleMapper for Fill<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(rule) = self.rules.get(self.path.name().as_str()) else { return param };
        let (bytes, _, dtype) =
            rule.assemble(self.files).expect("everything was checked before").into_parts();
        // A rule may leave out or add sizes of 1.
        let data = TensorData::from_bytes(bytes, param.lazy_shape(), dtype);
        let tensor = Tensor::from_data(data, &param.lazy_device());
        let id = param.id;
        param.transform_for_load(tensor, id)
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }
}
