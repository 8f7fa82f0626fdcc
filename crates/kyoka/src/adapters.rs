//! Low-rank adapters of a policy: where they sit, and their files in PEFT's layout.

use std::{collections::BTreeMap, path::Path};

use burn::{
    module::Param,
    tensor::{Tensor, TensorData},
};
use kyoka_core::nearest;
use kyoka_nn::{
    CheckpointFiles, DiskTensor, Dtype, Linear, Linears, LowRank, LowRankConfig, NamedLinears, TensorInfo,
    WeightInit, WeightRule, write_tensors,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Error, Policy, pretrained::read_json};

/// Settings of LoRA (arXiv 2106.09685).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraSettings {
    /// Width between the two matrices. Default 16.
    pub rank: usize,
    /// The change is multiplied by alpha over the rank. Default 32.
    pub alpha: f64,
    /// Share of the input dropped in SFT, preference and reward-model stages, in [0, 1); an RL stage trains the policy
    /// that samples and drops nothing. Default 0.
    pub dropout: f64,
    /// Modules that get an adapter: names or ends of names as the checkpoint has them, `*` for anything. Default the
    /// decoder's projections.
    pub targets: Vec<String>,
}

impl Default for LoraSettings {
    fn default() -> Self {
        let targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
        Self { rank: 16, alpha: 32.0, dropout: 0.0, targets: targets.map(str::to_owned).to_vec() }
    }
}

impl LoraSettings {
    /// Refuses numbers out of range.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.rank == 0 {
            return Err("rank: expected at least 1, got 0".to_owned());
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(format!("alpha: expected a number above 0, got {}", self.alpha));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(format!("dropout: expected a number in [0, 1), got {}", self.dropout));
        }
        if self.targets.is_empty() {
            return Err("targets: expected at least one module, got none".to_owned());
        }
        Ok(())
    }
}

/// Where one adapter sits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterPlace {
    /// Path of the linear map here.
    pub linear: String,
    /// First of its columns.
    pub start: usize,
    /// Column after the last.
    pub end: usize,
    /// Name of the module in the checkpoint.
    pub module: String,
    /// Width between the two matrices.
    pub rank: usize,
}

/// All adapters of a policy; part of its configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adapters {
    /// Settings.
    pub lora: LoraSettings,
    /// Places, by linear map and columns.
    pub places: Vec<AdapterPlace>,
}

/// The linear modules of a policy: every part of every linear map under its name in the checkpoint, or without one under
/// its own.
pub(crate) fn modules(policy: &mut Policy, rules: &[WeightRule]) -> Vec<AdapterPlace> {
    let rules: BTreeMap<&str, &WeightRule> =
        rules.iter().map(|rule| (rule.parameter.as_str(), rule)).collect();
    let mut linears = NamedLinears::new();
    policy.linears("", &mut linears);
    let mut places = Vec::new();
    for (path, linear) in linears {
        let [_, width] = linear.weight.lazy_shape().dims();
        let rule = rules.get(format!("{path}.weight").as_str());
        let place = |start, end, module: &str| {
            let module = module.strip_suffix(".weight").unwrap_or(module).to_owned();
            AdapterPlace { linear: path.clone(), start, end, module, rank: 0 }
        };
        match rule {
            Some(rule) if rule.tensors.len() > 1 => {
                let mut start = 0;
                for (name, rows) in rule.tensors.iter().zip(&rule.rows) {
                    places.push(place(start, start + rows, name));
                    start += rows;
                }
            }
            Some(rule) => places.push(place(0, width, &rule.tensors[0])),
            None => places.push(place(0, width, &path)),
        }
    }
    places
}

impl Adapters {
    /// Adapters on the modules that the settings name.
    ///
    /// # Errors
    /// If a target names no module.
    pub(crate) fn of(lora: LoraSettings, modules: &[AdapterPlace]) -> Result<Self, String> {
        lora.check()?;
        for target in &lora.targets {
            if !modules.iter().any(|place| names(target, &place.module)) {
                let ends = modules.iter().filter_map(|place| place.module.rsplit('.').next());
                let hint = nearest(target, ends).map(|near| format!("; did you mean {near}?"));
                return Err(format!("targets: {target:?} names no module{}", hint.unwrap_or_default()));
            }
        }
        let wanted = |place: &&AdapterPlace| lora.targets.iter().any(|target| names(target, &place.module));
        let places = modules.iter().filter(wanted).cloned();
        let places = places.map(|place| AdapterPlace { rank: lora.rank, ..place }).collect();
        Ok(Self { lora, places })
    }

    /// Puts fresh adapters beside the linear maps.
    pub(crate) fn attach(&self, policy: &mut Policy, init: &mut WeightInit) {
        let mut linears = NamedLinears::new();
        policy.linears("", &mut linears);
        for (path, linear) in linears {
            let [d_input, _] = linear.weight.lazy_shape().dims();
            let places = self.places.iter().filter(|place| place.linear == path);
            linear.adapters = places
                .map(|place| {
                    let rank = place.rank;
                    let scale = self.lora.alpha / rank as f64;
                    let config = LowRankConfig { rank, scale, dropout: self.lora.dropout };
                    LowRank::new(config, d_input, place.start..place.end, init)
                })
                .collect();
        }
    }

    /// Whether a parameter is one of the frozen ones: everything but the adapters in a part that has some.
    pub(crate) fn freezes(&self, parameter: &str) -> bool {
        let part = |path: &str| {
            ["decoder.", "image.encoder.", "audio.encoder.", "image.projector.", "audio.projector."]
                .into_iter()
                .find(|part| path.starts_with(part))
        };
        let own = part(parameter);
        !parameter.contains(".adapters.")
            && own.is_some()
            && self.places.iter().any(|place| part(&place.linear) == own)
    }
}

/// Whether a target is a module's name, the end of it, or a pattern for it.
fn names(target: &str, module: &str) -> bool {
    if target.contains('*') {
        return matches(target, module);
    }
    module == target || module.strip_suffix(target).is_some_and(|rest| rest.ends_with('.'))
}

/// `*` stands for any text.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(first) else { return false };
    (0..=text.len()).filter(|&place| text.is_char_boundary(place)).any(|place| matches(rest, &text[place..]))
}

/// The policy with its adapters folded into the weights.
pub(crate) fn merged(mut policy: Policy) -> Policy {
    let mut linears = NamedLinears::new();
    policy.linears("", &mut linears);
    for (_, linear) in linears {
        let whole: Linear = linear.clone();
        *linear = whole.merged();
    }
    policy
}

/// Paths of a module in `transformers` where they differ from those on disk: disk, there.
const RENAMED: [(&str, &[(&str, &str)]); 4] = [
    (
        "qwen2_vl",
        &[
            ("model.language_model.", "model.language_model."),
            ("model.", "model.language_model."),
            ("visual.", "model.visual."),
        ],
    ),
    (
        "qwen2_5_vl",
        &[
            ("model.language_model.", "model.language_model."),
            ("model.", "model.language_model."),
            ("visual.", "model.visual."),
        ],
    ),
    (
        "qwen2_audio",
        &[
            ("language_model.model.", "model.language_model."),
            ("audio_tower.", "model.audio_tower."),
            ("multi_modal_projector.", "model.multi_modal_projector."),
        ],
    ),
    (
        "qwen2_5_omni_thinker",
        &[
            ("model.", "model.language_model."),
            ("visual.", "model.visual."),
            ("audio_tower.", "model.audio_tower."),
        ],
    ),
];

/// The module's path in `transformers`.
pub(crate) fn their_path(model_type: &str, module: &str) -> String {
    let renamed =
        RENAMED.iter().find(|(family, _)| *family == model_type).map_or(&[][..], |(_, names)| names);
    let found = renamed.iter().find_map(|(disk, there)| Some((module.strip_prefix(disk)?, there)));
    found.map_or_else(|| module.to_owned(), |(rest, there)| format!("{there}{rest}"))
}

const PREFIX: &str = "base_model.model.";

/// Writes `adapter_config.json` and `adapter_model.safetensors`.
///
/// # Errors
/// If the files cannot be written.
pub(crate) fn write_adapter(
    folder: &Path,
    (policy, adapters): (&mut Policy, &Adapters),
    (model_type, base): (&str, &str),
) -> Result<(), Error> {
    std::fs::create_dir_all(folder).map_err(|error| Error::file(folder, error))?;
    let mut linears = NamedLinears::new();
    policy.linears("", &mut linears);
    let linears: BTreeMap<String, &mut Linear> = linears.into_iter().collect();
    let mut tensors = Vec::new();
    for place in &adapters.places {
        let linear = linears.get(&place.linear).expect("the places are those of the policy");
        let adapter = linear.adapters.iter().find(|adapter| adapter.columns().start == place.start);
        let adapter = adapter.expect("the places are those of the policy");
        let module = their_path(model_type, &place.module);
        for (name, matrix) in [("lora_A", &adapter.a), ("lora_B", &adapter.b)] {
            let turned = matrix.val().transpose().into_data();
            let info = TensorInfo { dtype: Dtype::F32, shape: turned.shape().to_vec() };
            let values: Vec<f32> = turned.try_into_vec().expect("weights are f32 here");
            tensors.push(DiskTensor::values(format!("{PREFIX}{module}.{name}.weight"), info, values));
        }
    }
    let ends: std::collections::BTreeSet<String> =
        adapters.places.iter().map(|place| their_path(model_type, &place.module)).collect();
    let LoraSettings { rank, alpha, dropout, .. } = adapters.lora;
    let config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base,
        "r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "target_modules": ends,
        "bias": "none", "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true,
        "modules_to_save": null, "use_rslora": false, "use_dora": false,
    });
    write_tensors(&folder.join("adapter_model.safetensors"), tensors)?;
    let path = folder.join("adapter_config.json");
    let text = serde_json::to_string_pretty(&config).expect("numbers and names serialise");
    std::fs::write(&path, text).map_err(|error| Error::file(&path, error))
}

/// Reads an adapter in PEFT's layout and puts it beside the policy's linear maps.
///
/// # Errors
/// Names the file, and every module of the adapter that the policy does not have or whose shape differs.
pub(crate) fn read_adapter(
    folder: &Path,
    policy: &mut Policy,
    (model_type, rules): (&str, &[WeightRule]),
) -> Result<Adapters, Error> {
    let path = folder.join("adapter_config.json");
    let lora = lora_settings(&read_json(&path)?).map_err(|reason| Error::file(&path, reason))?;
    let path = folder.join("adapter_model.safetensors");
    let files = CheckpointFiles::open_file(&path)?;
    let modules = modules(policy, rules);
    let mut known: BTreeMap<String, &AdapterPlace> = BTreeMap::new();
    for place in &modules {
        known.insert(place.module.clone(), place);
        known.insert(their_path(model_type, &place.module), place);
    }
    let mut faults = Vec::new();
    let mut found = Vec::new();
    for name in files.names().filter(|name| name.ends_with(".lora_A.weight")) {
        let module = name.trim_start_matches(PREFIX).trim_end_matches(".lora_A.weight");
        let Some(place) = known.get(module) else {
            let hint = nearest(module, known.keys().map(String::as_str));
            let hint = hint.map(|near| format!(" (nearest: {near})")).unwrap_or_default();
            faults.push(format!("{module}: not a module of the base model{hint}"));
            continue;
        };
        let rank = files.info(name).and_then(|info| info.shape.first().copied()).unwrap_or(0);
        found.push((AdapterPlace { rank, ..(*place).clone() }, name.to_owned()));
    }
    let pairs = 2 * found.len() + 2 * faults.len();
    faults.extend(
        files
            .names()
            .filter(|name| !name.contains(".lora_A.") && !name.contains(".lora_B."))
            .map(|name| format!("{name}: expected lora_A and lora_B only")),
    );
    if files.names().count() != pairs && faults.is_empty() {
        faults.push("a lora_A or lora_B is without its partner".to_owned());
    }
    if found.iter().any(|(place, _)| place.rank == 0) {
        faults.push("a lora_A has no rows".to_owned());
    }
    if !faults.is_empty() {
        return Err(Error::file(&path, faults.join("\n  ")));
    }
    found.sort_by(|(a, _), (b, _)| (&a.linear, a.start).cmp(&(&b.linear, b.start)));
    let adapters = Adapters { lora, places: found.iter().map(|(place, _)| place.clone()).collect() };
    let device = burn::module::Module::devices(policy).into_iter().next().unwrap_or_default();
    adapters.attach(policy, &mut WeightInit::new(0, &device));
    fill(policy, &files, &found).map_err(|reason| Error::file(&path, reason))?;
    Ok(adapters)
}

/// Puts the values of the files into fresh adapters.
fn fill(
    policy: &mut Policy,
    files: &CheckpointFiles,
    found: &[(AdapterPlace, String)],
) -> Result<(), String> {
    let mut linears = NamedLinears::new();
    policy.linears("", &mut linears);
    let mut linears: BTreeMap<String, &mut Linear> = linears.into_iter().collect();
    for (place, name) in found {
        let linear = linears.get_mut(&place.linear).expect("the places are those of the policy");
        let adapter = linear.adapters.iter_mut().find(|adapter| adapter.columns().start == place.start);
        let adapter = adapter.expect("every place has an adapter");
        let partner = name.replace(".lora_A.", ".lora_B.");
        adapter.a = turned(files, name, &adapter.a)?;
        adapter.b = turned(files, &partner, &adapter.b)?;
    }
    Ok(())
}

/// A tensor `[columns, rows]` of the files as a parameter `[rows, columns]`.
fn turned(files: &CheckpointFiles, name: &str, old: &Param<Tensor<2>>) -> Result<Param<Tensor<2>>, String> {
    let data: TensorData = files.read_f32(name).map_err(|error| error.to_string())?;
    let [rows, columns] = old.dims();
    let shape = data.shape().to_vec();
    if shape != [columns, rows] {
        return Err(format!("{name}: expected shape [{columns}, {rows}], got {shape:?}"));
    }
    let value = Tensor::<2>::from_data(data, &old.val().device().without_autodiff()).transpose();
    Ok(Param::from_data(value.into_data(), &old.val().device()))
}

/// What `adapter_config.json` says.
fn lora_settings(config: &Value) -> Result<LoraSettings, String> {
    let plain = |key: &str, usual: &Value| {
        let value = &config[key];
        let empty = value.as_object().is_some_and(serde_json::Map::is_empty);
        if value.is_null() || value == usual || empty {
            Ok(())
        } else {
            Err(format!("{key}: {value} is not supported"))
        }
    };
    if config["peft_type"] != "LORA" {
        return Err(format!("peft_type: expected LORA, got {}", config["peft_type"]));
    }
    for (key, usual) in [
        ("bias", json!("none")),
        ("fan_in_fan_out", json!(false)),
        ("use_dora", json!(false)),
        ("modules_to_save", Value::Null),
        ("rank_pattern", json!({})),
        ("alpha_pattern", json!({})),
        ("layer_replication", Value::Null),
    ] {
        plain(key, &usual)?;
    }
    let rank =
        config["r"].as_u64().filter(|&rank| rank > 0).ok_or("r: expected a rank of at least 1")? as usize;
    let alpha = config["lora_alpha"].as_f64().ok_or("lora_alpha: expected a number")?;
    // Rank-stabilised scaling divides by the root of the rank.
    let rank_stabilised = config["use_rslora"].as_bool().unwrap_or(false);
    let alpha = if rank_stabilised { alpha * (rank as f64).sqrt() } else { alpha };
    let targets = match &config["target_modules"] {
        Value::String(one) => vec![one.clone()],
        list => {
            list.as_array().into_iter().flatten().filter_map(|name| Some(name.as_str()?.to_owned())).collect()
        }
    };
    let settings =
        LoraSettings { rank, alpha, dropout: config["lora_dropout"].as_f64().unwrap_or(0.0), targets };
    settings.check()?;
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_names_ends_or_patterns() {
        let module = "model.layers.3.self_attn.q_proj";
        for target in ["q_proj", "self_attn.q_proj", module, "model.*.q_proj", "*.3.*"] {
            assert!(names(target, module), "{target}");
        }
        for target in ["proj", "k_proj", "model.*.k_proj", "*.4.*", ""] {
            assert!(!names(target, module), "{target}");
        }
    }

    #[test]
    fn paths_follow_transformers() {
        assert_eq!(their_path("llama", "model.layers.0.x"), "model.layers.0.x");
        assert_eq!(their_path("qwen2_vl", "model.layers.0.x"), "model.language_model.layers.0.x");
        assert_eq!(their_path("qwen2_vl", "visual.blocks.0.x"), "model.visual.blocks.0.x");
        assert_eq!(
            their_path("qwen2_audio", "language_model.model.layers.0.x"),
            "model.language_model.layers.0.x"
        );
    }

    #[test]
    fn what_peft_can_do_and_we_cannot_is_refused() {
        let config = |extra: Value| {
            let mut config =
                json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]});
            config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            lora_settings(&config)
        };
        assert_eq!(config(json!({"use_rslora": true})).unwrap().alpha, 16.0);
        for (key, value) in [
            ("use_dora", json!(true)),
            ("bias", json!("all")),
            ("rank_pattern", json!({"a": 1})),
            ("r", json!(0)),
        ] {
            let error = config(json!({key: value})).unwrap_err();
            assert!(error.starts_with(key), "{error}");
        }
    }
}
