//! An adapter as PEFT loads it.

use std::{collections::BTreeMap, path::Path};

use burn::tensor::TensorData;
use kyoka_core::lazy_parameters;
use kyoka_nn::{
    CheckpointLayout, DiskTensor, Dtype, Linear, Linears, NamedLinears, TensorInfo, write_tensors,
};
use serde_json::{Map, Value, json};

use super::{
    PREFIX, canonical, head_module,
    places::{AdapterPlace, Adapters},
    saved::{Naming, module_of},
};
use crate::{Error, Policy};

/// What an adapter is written from, besides its policy.
pub(crate) struct AdapterFile<'a> {
    pub adapters: &'a Adapters,
    pub naming: Naming<'a>,
    /// Name or folder of the checkpoint it stands beside.
    pub base: &'a str,
    /// Kinds and shapes of that checkpoint's tensors.
    pub layout: &'a CheckpointLayout,
    /// The kind of the adapter's numbers.
    pub dtype: Dtype,
}

/// Writes `adapter_config.json` and `adapter_model.safetensors`.
///
/// # Errors
/// If the files cannot be written.
pub(crate) fn write_adapter(folder: &Path, policy: &mut Policy, file: &AdapterFile<'_>) -> Result<(), Error> {
    std::fs::create_dir_all(folder).map_err(|error| Error::file(folder, error))?;
    let mut tensors = matrices(policy, file);
    let values = saved_values(policy, file.adapters);
    let mut modules_to_save = Vec::new();
    for (parameter, value) in &values {
        for (module, tensor) in
            saved_tensors(parameter, value, file).map_err(|fault| Error::file(folder, fault))?
        {
            if !tensor.name.contains(".base_layer.") && !modules_to_save.contains(&module) {
                modules_to_save.push(module);
            }
            tensors.push(tensor);
        }
    }
    let tensors = tensors.into_iter().map(|tensor| tensor.with_dtype(file.dtype)).collect();
    write_tensors(&folder.join("adapter_model.safetensors"), tensors)?;
    let path = folder.join("adapter_config.json");
    let text =
        serde_json::to_string_pretty(&config(file, &modules_to_save)).expect("numbers and names serialise");
    std::fs::write(&path, text).map_err(|error| Error::file(&path, error))
}

/// The two matrices of every adapter.
fn matrices(policy: &mut Policy, file: &AdapterFile<'_>) -> Vec<DiskTensor<'static>> {
    let mut linears = NamedLinears::new();
    policy.linears("", &mut linears);
    let linears: BTreeMap<String, &mut Linear> = linears.into_iter().collect();
    let mut tensors = Vec::new();
    for place in &file.adapters.places {
        let linear = linears.get(&place.linear).expect("the places are those of the policy");
        let adapter = linear.adapters.iter().find(|adapter| adapter.columns().start == place.start);
        let adapter = adapter.expect("the places are those of the policy");
        let module = canonical(file.naming.model_type, &place.module);
        // Of a convolution the first matrix has the kernel's shape, the second one a kernel of ones.
        let base = file.layout.get(&format!("{}.weight", place.module));
        let kernel =
            base.map(|base| base.shape.get(1..).unwrap_or_default()).filter(|kernel| kernel.len() > 1);
        for (name, matrix) in [("lora_A", &adapter.a), ("lora_B", &adapter.b)] {
            let turned = matrix.val().transpose().into_data();
            let mut shape = turned.shape().to_vec();
            if let Some(kernel) = kernel {
                match name {
                    "lora_A" => shape = [&shape[..1], kernel].concat(),
                    _ => shape.extend(vec![1; kernel.len() - 1]),
                }
            }
            let info = TensorInfo { dtype: Dtype::F32, shape };
            let values: Vec<f32> = turned.convert::<f32>().try_into_vec().expect("they were converted");
            tensors.push(DiskTensor::values(format!("{PREFIX}{module}.{name}.weight"), info, values));
        }
    }
    tensors
}

fn saved_values(policy: &Policy, adapters: &Adapters) -> BTreeMap<String, TensorData> {
    let parameters = lazy_parameters(policy);
    let saved = adapters.saved.iter().filter_map(|saved| {
        let value = parameters.get(&saved.parameter)?.data().convert::<f32>();
        Some((saved.parameter.clone(), value))
    });
    saved.collect()
}

type SavedTensor<'a> = (String, DiskTensor<'a>);

/// A parameter that lies in the adapter whole: its tensors, each with its module.
fn saved_tensors<'a>(
    parameter: &str,
    value: &'a TensorData,
    file: &AdapterFile<'_>,
) -> Result<Vec<SavedTensor<'a>>, kyoka_nn::TensorFault> {
    let model_type = file.naming.model_type;
    let mut named = Vec::new();
    for rule in file.naming.rules.iter().filter(|rule| rule.parameter == parameter) {
        for tensor in rule.split(value, file.layout)? {
            let module = canonical(model_type, module_of(&tensor.name));
            let kind = tensor.name.rsplit('.').next().unwrap_or_default().to_owned();
            named.push((module, kind, tensor));
        }
    }
    let head = head_module(model_type);
    let tied = !file.naming.rules.iter().any(|rule| rule.parameter.starts_with("decoder.head."));
    if parameter == "decoder.embedding" && tied && !named.iter().any(|(module, ..)| *module == head) {
        // PEFT gives embedding and output a copy each; both are the one matrix.
        let (_, kind, tensor) = named[0].clone();
        named.push((head, kind, tensor));
    }
    let adapted = |module: &str| {
        file.adapters.places.iter().any(|place| canonical(model_type, &place.module) == module)
    };
    let placed = named.into_iter().map(|(module, kind, mut tensor)| {
        let layer = if adapted(&module) { ".base_layer" } else { "" };
        tensor.name = format!("{PREFIX}{module}{layer}.{kind}");
        (module, tensor)
    });
    Ok(placed.collect())
}

fn config(file: &AdapterFile<'_>, modules_to_save: &[String]) -> Value {
    let adapters = file.adapters;
    let path = |place: &AdapterPlace| canonical(file.naming.model_type, &place.module);
    let targets: std::collections::BTreeSet<String> = adapters.places.iter().map(path).collect();
    let (mut rank_pattern, mut alpha_pattern) = (Map::new(), Map::new());
    for place in &adapters.places {
        if place.rank != adapters.lora.rank {
            rank_pattern.insert(path(place), place.rank.into());
        }
        if let Some(alpha) = place.alpha {
            alpha_pattern.insert(path(place), alpha.into());
        }
    }
    let saved = if modules_to_save.is_empty() { Value::Null } else { json!(modules_to_save) };
    json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": file.base,
        "r": adapters.lora.rank, "lora_alpha": adapters.lora.alpha, "lora_dropout": adapters.lora.dropout,
        "target_modules": targets, "rank_pattern": rank_pattern, "alpha_pattern": alpha_pattern,
        "modules_to_save": saved, "bias": "none", "fan_in_fan_out": false, "inference_mode": true,
        "init_lora_weights": true, "use_rslora": false, "use_dora": false,
    })
}
