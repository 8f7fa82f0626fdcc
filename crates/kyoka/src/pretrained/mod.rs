//! Hugging Face checkpoints as policies and as towers.

mod families;
mod json;
mod towers;

use std::path::Path;

use burn::tensor::Device;
use kyoka_nn::{CheckpointFiles, CheckpointLayout, Fit, WeightInit, WeightRule};
use serde_json::Value;

pub(crate) use families::{Family, OnDisk, read_family};
pub use families::{Placeholders, is_known_family};
use json::open_folder;
pub(crate) use json::read_json;
pub use towers::{PretrainedTower, load_audio_encoder, load_image_encoder};
pub(crate) use towers::{audio_tower_config, image_tower_config};

use crate::{
    Error, Policy, PolicyConfig,
    adapters::{canonical, read_adapter},
    policy::Source,
};

/// A policy from a Hugging Face folder.
pub struct Pretrained {
    /// The policy.
    pub policy: Policy,
    /// Its sizes; they hold the checkpoint's own `config.json`, by which it can be written back.
    pub config: PolicyConfig,
    /// The tokens that stand for media.
    pub placeholders: Placeholders,
    /// The tokens that end a completion.
    pub end_ids: Vec<u32>,
    /// How its parameters are made of the tensors on disk.
    pub rules: Vec<WeightRule>,
}

/// A checkpoint with a PEFT adapter beside it.
///
/// # Errors
/// As [`load_pretrained`], and if the adapter is one for another model.
pub fn load_adapted(folder: &Path, adapter: &Path, device: &Device) -> Result<Pretrained, Error> {
    let mut loaded = load_pretrained(folder, device)?;
    read_adapter(adapter, (&mut loaded.policy, &mut loaded.config), &loaded.rules)?;
    Ok(loaded)
}

impl Pretrained {
    /// The path that a module on disk has in `transformers`, by which PEFT names it.
    pub fn path_in_transformers(&self, module: &str) -> String {
        canonical(self.config.model_type(), module)
    }
}

/// What a folder says of itself, before its weights are read.
pub(crate) struct Described {
    pub config: PolicyConfig,
    pub rules: Vec<WeightRule>,
    pub json: Value,
    pub layout: CheckpointLayout,
}

/// Reads the configuration and the names of the weights.
///
/// # Errors
/// Names the file and the field.
pub(crate) fn describe(folder: &Path) -> Result<Described, Error> {
    let (path, json, files) = open_folder(folder)?;
    let Family { config, rules, .. } = family_of(&json, &files, &path)?;
    Ok(Described { config, rules, json, layout: files.layout() })
}

fn family_of(json: &Value, files: &CheckpointFiles, path: &Path) -> Result<Family, Error> {
    let on_disk = OnDisk {
        has: &|name| files.info(name).is_some(),
        same: &|a, b| files.info(a) == files.info(b) && files.bytes(a) == files.bytes(b),
    };
    read_family(json, on_disk).map_err(|reason| Error::file(path, reason))
}

/// Reads `config.json` and the weights of a checkpoint of a known family: one file or shards, f32, f16 or bf16.
///
/// # Errors
/// Names the file and the field, and lists every tensor that is missing, superfluous or misshapen.
pub fn load_pretrained(folder: &Path, device: &Device) -> Result<Pretrained, Error> {
    let (path, json, files) = open_folder(folder)?;
    let Family { config, rules, unused, placeholders } = family_of(&json, &files, &path)?;
    let blank = config.build_with(&mut WeightInit::blank(device));
    let unused = |name: &str| unused.iter().any(|part| part.matches(name));
    let policy = files.load(blank, Fit { unused: &unused, ..Fit::exact(&rules) })?;
    let end_ids = end_ids(folder, &json)?;
    let source = Source { folder: folder.to_owned(), config: json };
    Ok(Pretrained {
        policy,
        config: PolicyConfig { source: Some(source), ..config },
        placeholders,
        end_ids,
        rules,
    })
}

/// The tokens that end a completion: those of `generation_config.json`, or else of the configuration.
fn end_ids(folder: &Path, config: &Value) -> Result<Vec<u32>, Error> {
    let path = folder.join("generation_config.json");
    let generation = if path.exists() { read_json(&path)? } else { Value::Null };
    let parts = ["text_config", "thinker_config"].map(|part| &config[part]);
    let deeper = parts.map(|part| &part["text_config"]);
    let places = [&generation, config].into_iter().chain(parts).chain(deeper);
    for place in places {
        let ids = match &place["eos_token_id"] {
            Value::Null => continue,
            Value::Array(ids) => ids.clone(),
            one => vec![one.clone()],
        };
        let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
        let fail =
            || Error::file(&path, format!("eos_token_id: expected token ids, got {}", place["eos_token_id"]));
        return ids.iter().map(|value| id(value).ok_or_else(fail)).collect();
    }
    Ok(Vec::new())
}
