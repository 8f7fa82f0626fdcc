//! An adapter in PEFT's layout, read and put beside a policy.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Tensor, TensorData},
};
use kyoka_core::{ParameterPath, nearest};
use kyoka_nn::{CheckpointFiles, Linear, Linears, NamedLinears, WeightInit, WeightRule};

use super::{
    peft_config::PeftConfig,
    places::{AdapterPlace, Adapters, device_of, modules},
    saved::SavedParameter,
    tensors::{Names, Pair, Tensors, Whole, sorted},
};
use crate::{Error, Policy, PolicyConfig, pretrained::read_json};

/// Whether a folder holds an adapter in PEFT's layout.
pub(crate) fn is_adapter(folder: &Path) -> bool {
    folder.join("adapter_config.json").is_file()
}

/// Reads an adapter in PEFT's layout, puts it beside the policy's linear maps, and says so in its configuration.
///
/// Weights of the base model that the adapter brings with it take the place of the policy's. A low-rank change of the
/// embedding is folded in. Where an adapter changes only one of an embedding and an output that were one matrix, they are
/// two from then on.
///
/// # Errors
/// Names the file, every setting that is not plain LoRA, and every tensor that the policy has no place for or whose shape
/// differs.
pub(crate) fn read_adapter(
    folder: &Path,
    (policy, config): (&mut Policy, &mut PolicyConfig),
    rules: &[WeightRule],
) -> Result<(), Error> {
    let path = folder.join("adapter_config.json");
    let settings = PeftConfig::read(&read_json(&path)?).map_err(|reason| Error::file(&path, reason))?;
    let path = folder.join("adapter_model.safetensors");
    if !path.exists() && folder.join("adapter_model.bin").exists() {
        let reason = "expected the adapter in safetensors, got adapter_model.bin; PEFT writes it anew with save_pretrained";
        return Err(Error::file(&path, reason));
    }
    let files = CheckpointFiles::open_file(&path)?;
    let fail = |faults: Vec<String>| Error::file(&path, faults.join("\n  "));
    let names = Names { model_type: config.model_type().to_owned(), rules: rules.to_vec() };
    let tensors = sorted(&files, &settings, &names).map_err(fail)?;
    let names = match policy.decoder.head.is_none() && tensors.untie(&files, &settings, &names) {
        true => untied(policy, config, names),
        false => names,
    };
    let found = placed(policy, &tensors, (&files, &settings), &names).map_err(fail)?;
    let adapters = Adapters { lora: settings.lora.clone(), places: found.places(), saved: found.saved() };
    adapters.attach(policy, &mut WeightInit::new(0, &device_of(policy)));
    found.fill(policy, &files, &settings).map_err(|reason| fail(vec![reason]))?;
    config.adapters = Some(adapters);
    Ok(())
}

/// Gives the policy an output of its own, which is still the embedding.
fn untied(policy: &mut Policy, config: &mut PolicyConfig, names: Names) -> Names {
    config.decoder.tie_embeddings = false;
    let embedding = policy.decoder.embedding.val();
    let turned = embedding.clone().transpose().into_data();
    let weight = Param::from_data(turned, &embedding.device());
    policy.decoder.head = Some(Linear { weight, bias: None, adapters: Vec::new() });
    let (head, embedding) = (names.head(), names.embedding());
    let of_embedding = |rule: &WeightRule| rule.parameter == "decoder.embedding";
    let mut rules: Vec<WeightRule> = names.rules.into_iter().filter(|rule| !of_embedding(rule)).collect();
    rules.push(WeightRule::same("decoder.embedding", format!("{embedding}.weight")));
    rules.extend(WeightRule::linear("decoder.head", &[head], false));
    Names { rules, ..names }
}

/// The parts of an adapter, each with its place in the policy.
struct Found {
    low_rank: Vec<(AdapterPlace, [String; 2])>,
    /// Rules whose tensors are named as in the file.
    whole: Vec<(WeightRule, bool)>,
    embedding: Option<[String; 2]>,
    embedding_module: String,
}

fn placed(
    policy: &mut Policy,
    tensors: &Tensors,
    (files, settings): (&CheckpointFiles, &PeftConfig),
    names: &Names,
) -> Result<Found, Vec<String>> {
    let mut faults = Vec::new();
    let known: BTreeMap<String, AdapterPlace> = modules(policy, &names.rules)
        .into_iter()
        .map(|place| (names.canonical(&place.module), place))
        .collect();
    let both = |pair: &Pair| [&pair.a, &pair.b].map(|name| name.clone().expect("both were found"));
    let mut low_rank = Vec::new();
    for (module, pair) in &tensors.low_rank {
        let [a, b] = both(pair);
        let rank = files.info(&a).and_then(|info| info.shape.first().copied()).unwrap_or(0);
        match known.get(module) {
            None => faults.push(unknown(module, "a module", known.keys())),
            Some(_) if rank == 0 => faults.push(format!("{a}: expected at least one row, got none")),
            Some(place) => {
                let alpha = settings.alpha_of(module, rank);
                let alpha = (alpha != settings.lora.alpha).then_some(alpha);
                low_rank.push((AdapterPlace { rank, alpha, ..place.clone() }, [a, b]));
            }
        }
    }
    low_rank.sort_by(|(a, _), (b, _)| (&a.linear, a.start).cmp(&(&b.linear, b.start)));
    let embedding_module = names.embedding();
    let mut embedding = None;
    for (module, pair) in &tensors.embeddings {
        match *module == embedding_module {
            true => embedding = Some(both(pair)),
            false => faults.push(unknown(module, "an embedding", [&embedding_module].into_iter())),
        }
    }
    let whole = whole_parameters(policy, tensors, names, &mut faults);
    match faults.is_empty() {
        true => Ok(Found { low_rank, whole, embedding, embedding_module }),
        false => Err(faults),
    }
}

fn unknown<'a>(name: &str, what: &str, known: impl Iterator<Item = &'a String>) -> String {
    let hint = nearest(name, known.map(String::as_str));
    let hint = hint.map(|near| format!(" (nearest: {near})")).unwrap_or_default();
    format!("{name}: not {what} of the base model{hint}")
}

/// The parameters whose tensors the adapter brings with it, as rules over the file's names.
fn whole_parameters(
    policy: &Policy,
    tensors: &Tensors,
    names: &Names,
    faults: &mut Vec<String>,
) -> Vec<(WeightRule, bool)> {
    let mut rules = names.rules.clone();
    let head = names.head();
    if policy.decoder.head.is_none() {
        // The one matrix may come under either name, or under both.
        rules.extend(
            [names.embedding(), head]
                .map(|module| WeightRule::same("decoder.embedding", format!("{module}.weight"))),
        );
    }
    let (mut found, mut used) = (Vec::<(WeightRule, bool)>::new(), BTreeSet::new());
    let mut known = BTreeSet::new();
    for rule in rules {
        let on_disk: Vec<String> = rule.on_disk().map(|name| names.tensor(name)).collect();
        known.extend(on_disk.iter().cloned());
        let brought: Vec<&Whole> = on_disk.iter().filter_map(|name| tensors.whole.get(name)).collect();
        if brought.is_empty() {
            continue;
        }
        used.extend(on_disk.iter().cloned());
        if brought.len() < on_disk.len() {
            let lacking = on_disk.iter().find(|name| !tensors.whole.contains_key(*name));
            faults.push(format!(
                "{}: expected {} with it, which is one parameter here, got it alone",
                brought[0].name,
                lacking.expect("fewer were brought")
            ));
        } else if !found.iter().any(|(other, _)| other.parameter == rule.parameter) {
            let file_name = |name: &String| match name.as_str() {
                WeightRule::ZEROS => name.clone(),
                name => tensors.whole[&names.tensor(name)].name.clone(),
            };
            let copy = brought.iter().any(|whole| whole.copy);
            found.push((WeightRule { tensors: rule.tensors.iter().map(file_name).collect(), ..rule }, copy));
        }
    }
    let unused = tensors.whole.keys().filter(|name| !used.contains(*name));
    faults.extend(unused.map(|name| unknown(name, "a tensor", known.iter())));
    found
}

impl Found {
    fn places(&self) -> Vec<AdapterPlace> {
        self.low_rank.iter().map(|(place, _)| place.clone()).collect()
    }

    fn saved(&self) -> Vec<SavedParameter> {
        let whole = self.whole.iter();
        let mut saved: Vec<SavedParameter> = whole
            .map(|(rule, copy)| SavedParameter { parameter: rule.parameter.clone(), trained: *copy })
            .collect();
        let folded = SavedParameter { parameter: "decoder.embedding".to_owned(), trained: false };
        if self.embedding.is_some() && !saved.iter().any(|saved| saved.parameter == folded.parameter) {
            saved.push(folded);
        }
        saved.sort_by(|a, b| a.parameter.cmp(&b.parameter));
        saved
    }

    /// Puts the values of the files into the policy; the adapters are fresh ones.
    fn fill(
        &self,
        policy: &mut Policy,
        files: &CheckpointFiles,
        settings: &PeftConfig,
    ) -> Result<(), String> {
        let mut values = BTreeMap::new();
        for (rule, _) in &self.whole {
            let assembled = rule
                .assemble(files)
                .map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "))?;
            values.insert(rule.parameter.clone(), assembled);
        }
        put(policy, values)?;
        if let Some(pair) = &self.embedding {
            fold(policy, files, pair, |rank| settings.alpha_of(&self.embedding_module, rank))?;
        }
        let mut linears = NamedLinears::new();
        policy.linears("", &mut linears);
        let mut linears: BTreeMap<String, &mut Linear> = linears.into_iter().collect();
        for (place, [a, b]) in &self.low_rank {
            let linear = linears.get_mut(&place.linear).expect("the places are those of the policy");
            let adapter = linear.adapters.iter_mut().find(|adapter| adapter.columns().start == place.start);
            let adapter = adapter.expect("every place has an adapter");
            adapter.a = turned(files, a, &adapter.a)?;
            adapter.b = turned(files, b, &adapter.b)?;
        }
        Ok(())
    }
}

/// A tensor `[columns, rows]` of the files as a parameter `[rows, columns]`; a kernel's dimensions count as rows.
fn turned(files: &CheckpointFiles, name: &str, old: &Param<Tensor<2>>) -> Result<Param<Tensor<2>>, String> {
    let data: TensorData = files.read_f32(name).map_err(|error| error.to_string())?;
    let [rows, columns] = old.dims();
    let shape = data.shape().to_vec();
    let flat = (shape.first().copied(), shape.iter().skip(1).product::<usize>());
    if shape.len() < 2 || flat != (Some(columns), rows) {
        return Err(format!("{name}: expected shape [{columns}, {rows}], got {shape:?}"));
    }
    let data = TensorData::new(data.try_into_vec::<f32>().expect("they were read as f32"), [columns, rows]);
    let value = Tensor::<2>::from_data(data, &old.val().device().without_autodiff()).transpose();
    Ok(Param::from_data(value.into_data(), &old.val().device()))
}

/// Adds a low-rank change to the embedding: `A` is `[rank, V]`, `B` `[D, rank]`.
fn fold(
    policy: &mut Policy,
    files: &CheckpointFiles,
    [a, b]: &[String; 2],
    alpha: impl Fn(usize) -> f64,
) -> Result<(), String> {
    let old = policy.decoder.embedding.val();
    let ([v, d], device) = (old.dims(), old.device().without_autodiff());
    let matrix = |name: &String, expected: [Option<usize>; 2]| {
        let data = files.read_f32(name).map_err(|error| error.to_string())?;
        let shape = data.shape().to_vec();
        let fits = shape.len() == 2
            && expected.iter().zip(&shape).all(|(size, got)| size.is_none_or(|size| size == *got));
        let sizes = expected.map(|size| size.map_or("_".to_owned(), |size| size.to_string())).join(", ");
        match fits {
            true => Ok(Tensor::<2>::from_data(data, &device)),
            false => Err(format!("{name}: expected shape [{sizes}], got {shape:?}")),
        }
    };
    let a = matrix(a, [None, Some(v)])?;
    let [rank, _] = a.dims();
    let b = matrix(b, [Some(d), Some(rank)])?;
    let base = Tensor::<2>::from_data(old.to_data(), &device);
    let changed = base + a.transpose().matmul(b.transpose()) * (alpha(rank) / rank.max(1) as f64);
    put(policy, BTreeMap::from([("decoder.embedding".to_owned(), changed.into_data())]))
}

/// Replaces some parameters by their values.
fn put(policy: &mut Policy, values: BTreeMap<String, TensorData>) -> Result<(), String> {
    let mut put = Put { path: ParameterPath::default(), values, faults: Vec::new() };
    *policy = policy.clone().map(&mut put);
    if put.faults.is_empty() { Ok(()) } else { Err(put.faults.join("\n  ")) }
}

struct Put {
    path: ParameterPath,
    values: BTreeMap<String, TensorData>,
    faults: Vec<String>,
}

impl ModuleMapper for Put {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.name();
        let Some(data) = self.values.remove(&name) else { return param };
        let (expected, got) = (param.lazy_shape().to_vec(), data.shape().to_vec());
        let longer = |shape: &[usize]| shape.iter().copied().filter(|size| *size != 1).collect::<Vec<_>>();
        if longer(&expected) != longer(&got) {
            self.faults.push(format!("{name}: expected shape {expected:?} of the base model, got {got:?}"));
            return param;
        }
        let (bytes, _, dtype) = data.into_parts();
        let data = TensorData::from_bytes(bytes, param.lazy_shape(), dtype);
        param.map(|old| {
            let (device, trained) = (old.device(), old.is_require_grad());
            Tensor::from_data(data, &device).set_require_grad(trained)
        })
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }
}
