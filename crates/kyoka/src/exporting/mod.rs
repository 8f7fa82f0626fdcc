//! Giving a policy back in the layout it came in.

mod reading_back;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::TensorData;
use kyoka_core::named_parameters;
use kyoka_nn::{CheckpointFiles, CheckpointLayout, Dtype, WeightRule, write_checkpoint};

use reading_back::{Export, Written};

use crate::{
    Error, Policy, PolicyConfig,
    adapters::{AdapterFile, Adapters, Naming, merged, write_adapter},
    hub::name_of_snapshot,
    load_policy,
    model_folder::locate,
    policy::Source,
    pretrained::{Family, OnDisk, read_family, read_json},
    text_side::SOURCE_FOLDER,
};

/// Bytes after which a new file of weights is begun, as `transformers` does.
const SHARD_BYTES: usize = 5_000_000_000;

/// Numbers of an exported checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportDtype {
    /// As the checkpoint had them; an adapter in 32 bits, as it was trained.
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

/// Writes a policy as a folder that `transformers` or PEFT loads, reads it back, and compares its weights and answers with
/// the policy's. Only then do the files count: until then they lie in a folder `unchecked` inside.
///
/// # Errors
/// If the policy does not come from a Hugging Face checkpoint, the folder is not empty or cannot be written, or what was read
/// back is another policy: everything written is removed then. An adapter stands beside its checkpoint, which must be there.
pub fn export(options: &ExportOptions) -> Result<Exported, Error> {
    let (_, checkpoint) = locate(&options.model)?;
    let device = crate::open_device("cpu")?;
    let (policy, config, text) = load_policy(&checkpoint, &device)?;
    let Some(source) = config.source.clone() else {
        let reason = "the policy was composed of several checkpoints or built from scratch; only one that began as a \
                      single Hugging Face checkpoint can be given back as one";
        return Err(Error::file(&checkpoint, reason));
    };
    let made = !options.to.exists();
    if fs::read_dir(&options.to).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::file(&options.to, "expected a new or an empty folder"));
    }
    let unchecked = options.to.join("unchecked");
    fs::create_dir_all(&unchecked).map_err(|error| Error::file(&unchecked, error))?;
    let layout = Layout::read(&checkpoint, &config, &source);
    let written = layout.and_then(|layout| {
        let export = Export { config: &config, source: &source, text, folder: &unchecked, device: &device };
        let file = File { export, checkpoint: &checkpoint, layout, dtype: options.dtype };
        match &config.adapters {
            Some(adapters) if !options.merge => file.adapter(policy, adapters),
            _ => file.whole(merged(policy)),
        }
    });
    let counted = written.and_then(|exported| move_up(&unchecked, &options.to).map(|()| exported));
    if counted.is_err() {
        let _ = fs::remove_dir_all(if made { &options.to } else { &unchecked });
    }
    counted
}

/// Moves everything out of a folder into the one that holds it.
fn move_up(from: &Path, to: &Path) -> Result<(), Error> {
    let fail = |error| Error::file(to, error);
    for entry in fs::read_dir(from).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        fs::rename(entry.path(), to.join(entry.file_name())).map_err(fail)?;
    }
    fs::remove_dir(from).map_err(fail)
}

/// How the checkpoint that a policy comes from lies on disk.
struct Layout {
    tensors: CheckpointLayout,
    /// How parameters are made of them.
    rules: Vec<WeightRule>,
    /// Whether embedding and output are two now and were one.
    untied: bool,
}

impl Layout {
    fn read(checkpoint: &Path, config: &PolicyConfig, source: &Source) -> Result<Self, Error> {
        let side = checkpoint.join(SOURCE_FOLDER);
        let path = side.join("layout.json");
        let text = fs::read(&path).map_err(|error| Error::file(&path, error))?;
        let tensors: CheckpointLayout =
            serde_json::from_slice(&text).map_err(|error| Error::file(&path, error))?;
        let tied = config.decoder.tie_embeddings;
        let has = |name: &str| tensors.contains_key(name);
        let one_matrix = ["lm_head.weight", "embed_tokens.weight"]
            .into_iter()
            .find(|end| !tensors.keys().any(|name| name.ends_with(end)));
        let untied = one_matrix.filter(|_| !tied);
        // What was one matrix and is two now needs a second name; an embedding stands beside the last norm.
        let needed = |name: &str| match untied {
            Some("lm_head.weight") => name.ends_with("lm_head.weight"),
            Some(end) => name.ends_with(end) && has(&name.replace("embed_tokens", "norm")),
            None => false,
        };
        let has_or_needs = |name: &str| has(name) || needed(name);
        let on_disk = OnDisk { has: &has_or_needs, same: &|_, _| tied };
        let Family { rules, .. } = read_family(&source.config, on_disk)
            .map_err(|reason| Error::file(side.join("config.json"), reason))?;
        Ok(Self { untied: untied.is_some(), tensors, rules })
    }

    /// The kind of the numbers of a parameter on disk.
    fn dtype_of(&self, parameter: &str) -> Dtype {
        let rules = self.rules.iter().filter(|rule| rule.parameter == parameter);
        let infos = rules.flat_map(WeightRule::on_disk).filter_map(|name| self.tensors.get(name));
        infos.map(|info| info.dtype).next().unwrap_or(Dtype::F32)
    }
}

/// An export on its way to disk.
struct File<'a> {
    export: Export<'a>,
    checkpoint: &'a Path,
    layout: Layout,
    dtype: ExportDtype,
}

impl ExportDtype {
    /// The kind that was asked for, if one was.
    fn kind(self) -> Option<Dtype> {
        match self {
            Self::Same => None,
            Self::F32 => Some(Dtype::F32),
            Self::F16 => Some(Dtype::F16),
            Self::Bf16 => Some(Dtype::BF16),
        }
    }
}

impl File<'_> {
    fn adapter(&self, mut policy: Policy, adapters: &Adapters) -> Result<Exported, Error> {
        let source = self.export.source;
        let base = name_of_snapshot(&source.folder);
        let base = base.unwrap_or_else(|| source.folder.display().to_string());
        let naming = Naming { model_type: self.export.config.model_type(), rules: &self.layout.rules };
        let dtype = self.dtype.kind().unwrap_or(Dtype::F32);
        let file = AdapterFile { adapters, naming, base: &base, layout: &self.layout.tensors, dtype };
        write_adapter(self.export.folder, &mut policy, &file)?;
        let inside = |parameter: &str| {
            let saved = adapters.saved.iter().any(|saved| saved.parameter == parameter);
            saved || parameter.contains(".adapters.")
        };
        let dtype_of = |parameter: &str| if inside(parameter) { dtype } else { Dtype::F32 };
        self.export.check(policy, &dtype_of, Written::Adapter)?;
        Ok(Exported::Adapter)
    }

    fn whole(&self, policy: Policy) -> Result<Exported, Error> {
        self.write_whole(&policy)?;
        let dtype_of = |name: &str| self.dtype.kind().unwrap_or_else(|| self.layout.dtype_of(name));
        self.export.check(policy, &dtype_of, Written::Checkpoint)?;
        Ok(Exported::Checkpoint)
    }

    fn write_whole(&self, policy: &Policy) -> Result<(), Error> {
        let Layout { tensors: layout, rules, .. } = &self.layout;
        let values: BTreeMap<String, TensorData> =
            named_parameters(policy).into_iter().map(|(name, (_, value))| (name, value)).collect();
        let made: BTreeSet<&str> = rules.iter().map(|rule| rule.parameter.as_str()).collect();
        if let Some(lost) = values.keys().find(|name| !made.contains(name.as_str())) {
            return Err(Error::file(
                self.checkpoint,
                format!("{lost}: the checkpoint's layout has no place for it"),
            ));
        }
        let mut tensors = Vec::new();
        for rule in rules {
            let value = values.get(&rule.parameter).expect("the rules are those of the policy");
            let split = rule.split(value, layout).map_err(|fault| Error::file(self.checkpoint, fault))?;
            tensors.extend(split);
        }
        let written: BTreeSet<String> = tensors.iter().map(|tensor| tensor.name.clone()).collect();
        let left: Vec<&String> = layout.keys().filter(|name| !written.contains(*name)).collect();
        let original = self.original(&left)?;
        let copied = original.iter().flat_map(|files| left.iter().filter_map(|name| files.disk_tensor(name)));
        tensors.extend(copied);
        if let Some(kind) = self.dtype.kind() {
            tensors = tensors.into_iter().map(|tensor| tensor.with_dtype(kind)).collect();
        }
        self.copy_side_files()?;
        Ok(write_checkpoint(self.export.folder, tensors, SHARD_BYTES)?)
    }

    /// The checkpoint that the policy began as, if it has tensors that the policy does not use.
    fn original(&self, left: &[&String]) -> Result<Option<CheckpointFiles>, Error> {
        if left.is_empty() {
            return Ok(None);
        }
        let folder = &self.export.source.folder;
        let opened = CheckpointFiles::open(folder).map_err(|error| {
            let names: Vec<&str> = left.iter().take(3).map(|name| name.as_str()).collect();
            let (count, names) = (left.len(), names.join(", "));
            let reason = format!(
                "{count} tensor(s) that the policy does not use, such as {names}, are copied from there: {error}"
            );
            Error::file(folder, reason)
        });
        opened.map(Some)
    }

    /// Configuration, tokenizer, processors and template as they came; `config.json` names the new kind of numbers, and that
    /// embedding and output are two where they were one.
    fn copy_side_files(&self) -> Result<(), Error> {
        let (side, to) = (self.checkpoint.join(SOURCE_FOLDER), self.export.folder);
        let entries = fs::read_dir(&side).map_err(|error| Error::file(&side, error))?;
        for entry in entries.flatten().filter(|entry| entry.file_name() != "layout.json") {
            let to = to.join(entry.file_name());
            fs::copy(entry.path(), &to).map_err(|error| Error::file(&to, error))?;
        }
        let word = self.dtype.kind().map(|kind| match kind {
            Dtype::F16 => "float16",
            Dtype::BF16 => "bfloat16",
            _ => "float32",
        });
        let path = to.join("config.json");
        let old = read_json(&path)?;
        let mut config = old.clone();
        if let Some(word) = word {
            rename_dtype(&mut config, word);
        }
        if self.layout.untied {
            untie(&mut config);
        }
        if config == old {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(&config).expect("it was JSON before");
        fs::write(&path, text).map_err(|error| Error::file(&path, error))
    }
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

/// `tie_word_embeddings` of the whole and of its parts.
fn untie(config: &mut serde_json::Value) {
    let Some(fields) = config.as_object_mut() else { return };
    for (name, value) in fields.iter_mut() {
        if name == "tie_word_embeddings" && *value == true {
            *value = false.into();
        }
        untie(value);
    }
}
