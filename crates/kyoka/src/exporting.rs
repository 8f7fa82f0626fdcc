//! Giving a policy back in the layout it came in.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::TensorData;
use kyoka_core::named_parameters;
use kyoka_nn::{CheckpointFiles, CheckpointLayout, DiskTensor, Dtype, write_checkpoint};

use crate::{
    Error, Policy, PolicyConfig,
    adapters::{merged, write_adapter},
    evaluating::locate,
    hub::name_of_snapshot,
    load_policy,
    policy::{SOURCE_FOLDER, Source},
    pretrained::{Family, OnDisk, read_family},
};

/// Bytes after which a new file of weights is begun, as `transformers` does.
const SHARD_BYTES: usize = 5_000_000_000;

/// Numbers of an exported checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportDtype {
    /// As the checkpoint had them.
    Same,
    /// 32 bits.
    F32,
    /// 16 bits, IEEE.
    F16,
    /// 16 bits, the upper half of f32.
    Bf16,
}

/// What `kyoka export` is asked.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// A run's folder or a checkpoint's.
    pub model: PathBuf,
    /// The folder to write; it must not exist, or be empty.
    pub to: PathBuf,
    /// The kind of numbers.
    pub dtype: ExportDtype,
    /// Fold adapters into the weights; without, a policy with adapters is given back as an adapter.
    pub merge: bool,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exported {
    /// A whole checkpoint.
    Checkpoint,
    /// An adapter in PEFT's layout.
    Adapter,
}

/// Writes a policy as a folder that `transformers` or PEFT loads.
///
/// # Errors
/// If the policy does not come from a Hugging Face checkpoint, the folder is not empty, or cannot be written.
pub fn export(options: &ExportOptions) -> Result<Exported, Error> {
    let (_, checkpoint) = locate(&options.model)?;
    let device = crate::open_device("cpu")?;
    let (mut policy, config, _) = load_policy(&checkpoint, &device)?;
    let Some(source) = config.source.clone() else {
        let reason = "the policy was composed of several checkpoints or built from scratch; only one that began as a \
                      single Hugging Face checkpoint can be given back as one";
        return Err(Error::file(&checkpoint, reason));
    };
    if fs::read_dir(&options.to).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::file(&options.to, "expected a new or an empty folder"));
    }
    let model_type = source.config["model_type"].as_str().unwrap_or_default().to_owned();
    match &config.adapters {
        Some(adapters) if !options.merge => {
            let base = name_of_snapshot(&source.folder);
            let base = base.unwrap_or_else(|| source.folder.display().to_string());
            write_adapter(&options.to, (&mut policy, adapters), (&model_type, &base))?;
            Ok(Exported::Adapter)
        }
        _ => {
            write_whole(&merged(policy), (&config, &source), &checkpoint, options)?;
            Ok(Exported::Checkpoint)
        }
    }
}

fn write_whole(
    policy: &Policy,
    (config, source): (&PolicyConfig, &Source),
    checkpoint: &Path,
    options: &ExportOptions,
) -> Result<(), Error> {
    let side = checkpoint.join(SOURCE_FOLDER);
    let layout = read_layout(&side.join("layout.json"))?;
    let tied = config.decoder.tie_embeddings;
    let on_disk = OnDisk { has: &|name| layout.contains_key(name), same: &|_, _| tied };
    let family = read_family(&source.config, on_disk);
    let Family { rules, .. } = family.map_err(|reason| Error::file(side.join("config.json"), reason))?;
    let values: BTreeMap<String, TensorData> =
        named_parameters(policy).into_iter().map(|(name, (_, value))| (name, value)).collect();
    let mut tensors = Vec::new();
    for rule in &rules {
        let value = values.get(&rule.parameter).expect("the rules are those of the policy");
        let split = rule.split(value, &layout).map_err(|fault| Error::file(checkpoint, fault))?;
        tensors.extend(split);
    }
    let written: BTreeSet<String> = tensors.iter().map(|tensor| tensor.name.clone()).collect();
    let left: Vec<&String> = layout.keys().filter(|name| !written.contains(*name)).collect();
    let original = match left.is_empty() {
        true => None,
        false => Some(CheckpointFiles::open(&source.folder).map_err(|error| {
            let names: Vec<&str> = left.iter().take(3).map(|name| name.as_str()).collect();
            Error::file(
                &source.folder,
                format!(
                    "{} tensor(s) that the policy does not use, such as {}, are copied from there: {error}",
                    left.len(),
                    names.join(", ")
                ),
            )
        })?),
    };
    let copied = original.iter().flat_map(|files| left.iter().filter_map(|name| files.disk_tensor(name)));
    tensors.extend(copied);
    let tensors: Vec<DiskTensor<'_>> =
        tensors.into_iter().map(|tensor| in_dtype(tensor, options.dtype)).collect();
    fs::create_dir_all(&options.to).map_err(|error| Error::file(&options.to, error))?;
    copy_side_files(&side, options)?;
    Ok(write_checkpoint(&options.to, tensors, SHARD_BYTES)?)
}

fn in_dtype(tensor: DiskTensor<'_>, dtype: ExportDtype) -> DiskTensor<'_> {
    match dtype {
        ExportDtype::Same => tensor,
        ExportDtype::F32 => tensor.with_dtype(Dtype::F32),
        ExportDtype::F16 => tensor.with_dtype(Dtype::F16),
        ExportDtype::Bf16 => tensor.with_dtype(Dtype::BF16),
    }
}

fn read_layout(path: &Path) -> Result<CheckpointLayout, Error> {
    let text = fs::read(path).map_err(|error| Error::file(path, error))?;
    serde_json::from_slice(&text).map_err(|error| Error::file(path, error))
}

/// Configuration, tokenizer, processors and template as they came; `config.json` names the new kind of numbers.
fn copy_side_files(side: &Path, options: &ExportOptions) -> Result<(), Error> {
    let entries = fs::read_dir(side).map_err(|error| Error::file(side, error))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name == "layout.json" {
            continue;
        }
        let to = options.to.join(&name);
        fs::copy(entry.path(), &to).map_err(|error| Error::file(&to, error))?;
    }
    let word = match options.dtype {
        ExportDtype::Same => return Ok(()),
        ExportDtype::F32 => "float32",
        ExportDtype::F16 => "float16",
        ExportDtype::Bf16 => "bfloat16",
    };
    let path = options.to.join("config.json");
    let mut config = crate::pretrained::read_json(&path)?;
    rename_dtype(&mut config, word);
    let text = serde_json::to_string_pretty(&config).expect("it was JSON before");
    fs::write(&path, text).map_err(|error| Error::file(&path, error))
}

/// `dtype`, `torch_dtype` in older files, of the whole and of its parts.
fn rename_dtype(config: &mut serde_json::Value, word: &str) {
    let Some(fields) = config.as_object_mut() else { return };
    for (name, value) in fields.iter_mut() {
        if (name == "dtype" || name == "torch_dtype") && value.is_string() {
            *value = word.into();
        }
        rename_dtype(value, word);
    }
}
