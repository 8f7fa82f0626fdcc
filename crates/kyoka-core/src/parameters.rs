//! A module's parameters under their path names, for checkpoints and optimizers.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    tensor::{Tensor, TensorData},
};

/// Why parameters could not be put into a module: everything that is wrong, at once.
#[derive(Debug, thiserror::Error)]
#[error("parameters do not fit the model:\n  {}", .faults.join("\n  "))]
pub struct ParameterError {
    /// One line a fault, naming the parameter.
    pub faults: Vec<String>,
}

/// Where a walk through a module is: the dotted path that names a parameter.
///
/// The variants of an enum of modules are no part of a name: towers of two kinds name alike what is alike.
#[derive(Debug, Clone, Default)]
pub struct ParameterPath {
    parts: Vec<Option<String>>,
}

impl ParameterPath {
    /// Goes into a field or variant; as Burn's `enter_module` has it.
    pub fn enter(&mut self, name: &str, container: &str) {
        self.parts.push((!container.starts_with("Enum:")).then(|| name.to_owned()));
    }

    /// Leaves it.
    pub fn exit(&mut self) {
        self.parts.pop();
    }

    /// The name of the parameter here.
    pub fn name(&self) -> String {
        self.parts.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(".")
    }
}

/// All float parameters by dotted path, in alphabetical order.
pub fn named_parameters<M: Module>(module: &M) -> BTreeMap<String, (ParamId, TensorData)> {
    let lazy = lazy_parameters(module).into_iter();
    lazy.map(|(name, parameter)| (name, (parameter.id, parameter.data()))).collect()
}

/// A parameter whose values are copied when they are asked for.
pub struct LazyParameter {
    /// What the optimizer knows it by.
    pub id: ParamId,
    /// Its shape.
    pub shape: Vec<usize>,
    read: Box<dyn Fn() -> TensorData>,
}

impl LazyParameter {
    /// A copy of its values.
    pub fn data(&self) -> TensorData {
        (self.read)()
    }
}

/// All float parameters by dotted path, in alphabetical order; no values are copied yet.
pub fn lazy_parameters<M: Module>(module: &M) -> BTreeMap<String, LazyParameter> {
    struct Collect {
        path: ParameterPath,
        found: BTreeMap<String, LazyParameter>,
    }
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            let shape = tensor.dims().to_vec();
            let parameter = LazyParameter { id: param.id, shape, read: Box::new(move || tensor.to_data()) };
            self.found.insert(self.path.name(), parameter);
        }
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
    }
    let mut collect = Collect { path: ParameterPath::default(), found: BTreeMap::new() };
    module.visit(&mut collect);
    collect.found
}

/// Shapes of all float parameters by dotted path, in alphabetical order; weights that are not read yet stay so.
pub fn parameter_shapes<M: Module>(module: &M) -> BTreeMap<String, Vec<usize>> {
    struct Shapes {
        path: ParameterPath,
        found: BTreeMap<String, Vec<usize>>,
    }
    impl ModuleVisitor for Shapes {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.found.insert(self.path.name(), param.lazy_shape().to_vec());
        }
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
    }
    let mut shapes = Shapes { path: ParameterPath::default(), found: BTreeMap::new() };
    module.visit(&mut shapes);
    shapes.found
}

/// Replaces every float parameter by the value of its name.
///
/// # Errors
/// Lists all parameters that are missing, superfluous or misshapen, with the nearest known name.
pub fn load_parameters<M: Module>(
    module: M,
    values: BTreeMap<String, TensorData>,
) -> Result<M, ParameterError> {
    let mut load = Load { path: ParameterPath::default(), values, known: Vec::new(), faults: Vec::new() };
    let module = module.map(&mut load);
    let Load { values, known, mut faults, .. } = load;
    for name in values.keys() {
        let hint = crate::nearest(name, known.iter().map(String::as_str));
        let hint = hint.map(|near| format!(" (nearest: {near})")).unwrap_or_default();
        faults.push(format!("{name}: not a parameter of this model{hint}"));
    }
    if faults.is_empty() { Ok(module) } else { Err(ParameterError { faults }) }
}

struct Load {
    path: ParameterPath,
    values: BTreeMap<String, TensorData>,
    known: Vec<String>,
    faults: Vec<String>,
}

impl ModuleMapper for Load {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.name();
        let expected = param.lazy_shape();
        let value = self.values.remove(&name);
        self.known.push(name.clone());
        match value {
            None => self.faults.push(format!("{name}: missing")),
            Some(data) if data.shape() != &expected => {
                self.faults.push(format!("{name}: expected shape {expected:?}, got {:?}", data.shape()));
            }
            Some(data) => {
                return param.map(|old| {
                    let (device, trained) = (old.device(), old.is_require_grad());
                    Tensor::from_data(data, &device).set_require_grad(trained)
                });
            }
        }
        param
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }
}
