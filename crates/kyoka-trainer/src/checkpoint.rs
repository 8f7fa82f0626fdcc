//! A run's state on disk, never half-written.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use burn::{
    module::Module,
    tensor::{DType, TensorData},
};
use kyoka_core::{LazyParameter, lazy_parameters, load_parameters};
use safetensors::{Dtype, SafeTensorError, SafeTensors, View};
use serde::{Deserialize, Serialize};

use crate::{AdamW, AdamWConfig, Critic, CriticState, TrainError, TrainableLm};

/// Where a run stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Index of the stage under way.
    pub stage: usize,
    /// Steps done in it.
    pub step: usize,
    /// Rows consumed in it.
    pub position: u64,
    /// Tokens generated in it, those of greedy baselines and of groups thrown away included.
    #[serde(default)]
    pub generated_tokens: u64,
    /// Tokens that moved the policy in it, each counted once a step.
    #[serde(default)]
    pub trained_tokens: u64,
    /// Whether its end was evaluated.
    #[serde(default)]
    pub evaluated: bool,
    /// Whether the stage's optimizer and reference are set up.
    pub started: bool,
    /// Best value of the watched metric so far, over all stages.
    pub best: Option<f64>,
    /// Seconds of training before the last resume.
    pub elapsed_s: f64,
    /// Seconds by phase.
    pub phase_s: BTreeMap<String, f64>,
    /// Coefficients that the stage adapts, by name.
    #[serde(default)]
    pub coefs: BTreeMap<String, f64>,
}

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointPolicy {
    /// Steps between checkpoints; 0 writes one at the end of a stage only. Default 50.
    pub every: usize,
    /// Newest checkpoints kept; at least 1. The best one is kept besides. Default 2.
    pub keep_last: usize,
}

impl Default for CheckpointPolicy {
    fn default() -> Self {
        Self { every: 50, keep_last: 2 }
    }
}

#[derive(Serialize, Deserialize)]
struct State {
    progress: Progress,
    optimizer_steps: u64,
    /// Steps of the critic's optimizer, and whether it has a trunk of its own.
    #[serde(default)]
    critic: Option<(u64, bool)>,
}

/// A checkpoint read back.
pub struct Checkpoint<M: TrainableLm> {
    /// Weights.
    pub model: M,
    /// Moments.
    pub optimizer: AdamW,
    /// Where the run stood.
    pub progress: Progress,
    /// The reference policy, if the run has one.
    pub reference: Option<M>,
    /// The critic with its optimizer, if the run has one.
    pub critic: Option<CriticState<M>>,
    /// What the stage under way has to remember.
    pub stage_state: Option<Vec<u8>>,
}

/// What a checkpoint is written from.
pub struct SavedState<'a, M: TrainableLm> {
    /// Weights.
    pub model: &'a M,
    /// Moments.
    pub optimizer: &'a AdamW,
    /// Where the run stands.
    pub progress: &'a Progress,
    /// The reference policy, if the run has one.
    pub reference: Option<&'a M>,
    /// The critic with its optimizer, if the run has one.
    pub critic: Option<&'a CriticState<M>>,
    /// What the stage under way has to remember.
    pub stage_state: Option<Vec<u8>>,
    /// Whether evaluation likes it most so far.
    pub best: bool,
}

/// The `checkpoints/` folder of a run.
///
/// A checkpoint is a folder `<stage>-<name>-<step>` with `model.safetensors`, `optimizer.safetensors`, `state.json` and
/// the files the run adds (configuration, tokenizer). It is written under a temporary name, flushed, and renamed.
#[derive(Debug, Clone)]
pub struct CheckpointStore {
    folder: PathBuf,
    policy: CheckpointPolicy,
    /// Written into every checkpoint besides the state.
    extra_files: Vec<(String, Vec<u8>)>,
}

impl CheckpointStore {
    /// A store under `folder`, which is made on the first write.
    pub fn new(folder: PathBuf, policy: CheckpointPolicy, extra_files: Vec<(String, Vec<u8>)>) -> Self {
        Self { folder, policy, extra_files }
    }

    /// How often and how many.
    pub fn policy(&self) -> CheckpointPolicy {
        self.policy
    }

    /// Complete checkpoints, oldest first.
    pub fn list(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut found: Vec<PathBuf> = entries
            .filter(|path| path.join("state.json").is_file() && path.extension().is_none())
            .filter(|path| path.file_name().is_some_and(|name| name != "best"))
            .collect();
        found.sort();
        found
    }

    /// The newest complete checkpoint.
    pub fn latest(&self) -> Option<PathBuf> {
        self.list().pop()
    }

    /// Writes a checkpoint; with `best` also as `best`, the one that evaluation liked most.
    pub fn save<M: TrainableLm>(
        &self,
        stage_name: &str,
        state: SavedState<'_, M>,
    ) -> Result<PathBuf, TrainError> {
        let SavedState { model, optimizer, progress, reference, critic, stage_state, best } = state;
        let name = format!("{}-{stage_name}-{:06}", progress.stage, progress.step);
        let mut files: Vec<(String, Content<'_>)> = vec![
            ("model.safetensors".into(), Content::Tensors(Box::new(|| weights(model)))),
            ("optimizer.safetensors".into(), Content::Tensors(Box::new(|| moments(optimizer)))),
        ];
        if let Some(reference) = reference {
            files.push(("reference.safetensors".into(), Content::Tensors(Box::new(|| weights(reference)))));
        }
        let extra_files = self.extra_files.iter().cloned();
        files.extend(extra_files.map(|(name, bytes)| (name, Content::Bytes(bytes))));
        files.extend(stage_state.map(|bytes| ("stage.json".into(), Content::Bytes(bytes))));
        if let Some(CriticState { critic, optimizer }) = critic {
            files.push(("critic.safetensors".into(), Content::Tensors(Box::new(|| weights(critic)))));
            let moments = Content::Tensors(Box::new(|| moments(optimizer)));
            files.push(("critic_optimizer.safetensors".into(), moments));
        }
        let critic = critic.map(|state| (state.optimizer.num_steps(), state.critic.trunk.is_some()));
        let state = State { progress: progress.clone(), optimizer_steps: optimizer.num_steps(), critic };
        let state = serde_json::to_vec_pretty(&state).expect("numbers and names serialise");
        files.push(("state.json".into(), Content::Bytes(state)));
        if best {
            self.place("best", &files)?;
        }
        let path = self.place(&name, &files)?;
        let kept = self.list();
        for old in &kept[..kept.len().saturating_sub(self.policy.keep_last.max(1))] {
            fs::remove_dir_all(old).map_err(|error| failed(old, error))?;
        }
        Ok(path)
    }

    /// Writes the files aside, flushes them, and renames the folder into place.
    fn place(&self, name: &str, files: &[(String, Content<'_>)]) -> Result<PathBuf, TrainError> {
        let (path, aside) = (self.folder.join(name), self.folder.join(format!("{name}.tmp")));
        let write = || -> std::io::Result<()> {
            if aside.exists() {
                fs::remove_dir_all(&aside)?;
            }
            fs::create_dir_all(&aside)?;
            for (file, content) in files {
                let file = aside.join(file);
                fs::create_dir_all(file.parent().unwrap_or(&aside))?;
                content.write(&file)?;
            }
            // An old folder of that name steps aside first: at every moment the name stands for a whole folder or for none.
            let old = self.folder.join(format!("{name}.old.tmp"));
            if path.exists() {
                let _ = fs::remove_dir_all(&old);
                fs::rename(&path, &old)?;
            }
            fs::rename(&aside, &path)?;
            if old.exists() {
                fs::remove_dir_all(&old)?;
            }
            Ok(())
        };
        write().map_err(|error| {
            // What is left of a failed write must not fill the disk further; the checkpoints before it stand.
            let _ = fs::remove_dir_all(&aside);
            failed(&path, error)
        })?;
        Ok(path)
    }
}

impl<M: TrainableLm> Checkpoint<M> {
    /// Reads a checkpoint into a model of the same shape; the optimizer's settings are those of the stage it stands in.
    pub fn load(
        path: &Path,
        model: M,
        settings_of_stage: impl Fn(usize) -> AdamWConfig,
    ) -> Result<Self, TrainError> {
        let state_path = path.join("state.json");
        let state = fs::read(&state_path).map_err(|error| failed(&state_path, error))?;
        let State { progress, optimizer_steps, critic } =
            serde_json::from_slice(&state).map_err(|error| failed(&state_path, error))?;
        let reference_path = path.join("reference.safetensors");
        let reference = match reference_path.is_file() {
            true => Some(load_weights(&reference_path, model.clone())?),
            false => None,
        };
        let model = load_weights(&path.join("model.safetensors"), model)?;
        let moments_path = path.join("optimizer.safetensors");
        let device = model.devices().into_iter().next().unwrap_or_default().without_autodiff();
        let settings = settings_of_stage(progress.stage);
        let restore = |path: PathBuf, steps: u64| {
            let restored = AdamW::restore(settings, steps, unpack(&path)?, &device);
            restored.map_err(|reason| TrainError::Checkpoint { path, reason })
        };
        let optimizer = restore(moments_path, optimizer_steps)?;
        let critic = match critic {
            Some((steps, own_trunk)) => Some(CriticState {
                critic: load_weights(&path.join("critic.safetensors"), Critic::new(&model, own_trunk))?,
                optimizer: restore(path.join("critic_optimizer.safetensors"), steps)?,
            }),
            None => None,
        };
        let stage_path = path.join("stage.json");
        let stage_state = match stage_path.is_file() {
            true => Some(fs::read(&stage_path).map_err(|error| failed(&stage_path, error))?),
            false => None,
        };
        Ok(Self { model, optimizer, progress, reference, critic, stage_state })
    }
}

/// Puts the weights of a safetensors file into a model of the same shape.
pub fn load_weights<M: Module>(path: &Path, model: M) -> Result<M, TrainError> {
    load_parameters(model, unpack(path)?)
        .map_err(|source| TrainError::Parameters { path: path.to_owned(), source })
}

/// Weights by name, each copied when it is written.
fn weights<M: Module>(model: &M) -> BTreeMap<String, Fetched> {
    let fetched = |(name, parameter): (String, LazyParameter)| {
        (name, Fetched { shape: parameter.shape.clone(), fetch: Box::new(move || parameter.data()) })
    };
    lazy_parameters(model).into_iter().map(fetched).collect()
}

/// Moments by name.
fn moments(optimizer: &AdamW) -> BTreeMap<String, Fetched> {
    let (_, tensors) = optimizer.state();
    let fetched = |(name, data): (String, TensorData)| {
        (name, Fetched { shape: data.shape().to_vec(), fetch: Box::new(move || data.clone()) })
    };
    tensors.into_iter().map(fetched).collect()
}

fn failed(path: &Path, reason: impl std::fmt::Display) -> TrainError {
    TrainError::Checkpoint { path: path.to_owned(), reason: reason.to_string() }
}

/// What a file of a checkpoint holds.
enum Content<'a> {
    Bytes(Vec<u8>),
    /// Asked for when the file is written: the tensors of one file at a time, and copies of its weights one by one.
    Tensors(Box<dyn Fn() -> BTreeMap<String, Fetched> + 'a>),
}

impl Content<'_> {
    /// Writes the file and flushes it to the disk.
    fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut out = fs::File::create(path)?;
        match self {
            Self::Bytes(bytes) => std::io::Write::write_all(&mut out, bytes)?,
            Self::Tensors(tensors) => {
                // The crate writes a file that its owner alone may read, and renames it.
                let permissions = out.metadata()?.permissions();
                safetensors::serialize_to_file(&tensors(), None, path).map_err(|error| match error {
                    SafeTensorError::IoError(error) => error,
                    error => std::io::Error::other(error),
                })?;
                fs::set_permissions(path, permissions)?;
                out = fs::OpenOptions::new().write(true).open(path)?;
            }
        }
        out.sync_all()
    }
}

/// A tensor of f32 that is copied when it is written.
struct Fetched {
    shape: Vec<usize>,
    fetch: Box<dyn Fn() -> TensorData>,
}

impl View for &Fetched {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        (self.fetch)().convert_dtype(DType::F32).as_bytes().to_vec().into()
    }
    fn data_len(&self) -> usize {
        4 * self.shape.iter().product::<usize>()
    }
}

/// All tensors of a safetensors file by name.
///
/// # Errors
/// If the file cannot be read or holds other than f32 values.
pub fn unpack(path: &Path) -> Result<BTreeMap<String, TensorData>, TrainError> {
    let bytes = fs::read(path).map_err(|error| failed(path, error))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| failed(path, error))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        if view.dtype() != Dtype::F32 {
            return Err(failed(path, format!("{name}: expected F32, got {:?}", view.dtype())));
        }
        let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        tensors.insert(name.to_owned(), TensorData::new(values.collect(), view.shape().to_vec()));
    }
    Ok(tensors)
}
