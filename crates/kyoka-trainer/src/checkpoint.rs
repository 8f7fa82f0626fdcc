//! A run's state as files: what is in a checkpoint, and how it is read back.

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
    /// The newest evaluation of the stage.
    #[serde(default)]
    pub evaluation: Option<Evaluated>,
    /// The settings of the evaluation after the last step of the run, if it was made.
    #[serde(default)]
    pub final_evaluation: Option<String>,
    /// Whether the stage's optimizer and reference are set up.
    pub started: bool,
    /// Best value of the watched metric so far, over all stages.
    pub best: Option<f64>,
    /// The settings of evaluation that `best` was measured with.
    #[serde(default)]
    pub best_settings: String,
    /// Seconds of training before the last resume.
    pub elapsed_s: f64,
    /// Seconds by phase.
    pub phase_s: BTreeMap<String, f64>,
    /// Coefficients that the stage adapts, by name.
    #[serde(default)]
    pub coefs: BTreeMap<String, f64>,
}

/// An evaluation that a stage has had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluated {
    /// Steps of the stage before it.
    pub step: usize,
    /// Its settings, as [`EvalRules::settings`](crate::EvalRules::settings) says them.
    pub settings: String,
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

/// The file that is written last and makes a checkpoint whole.
pub(crate) const STATE: &str = "state.json";

/// `state.json`.
#[derive(Serialize, Deserialize)]
pub(crate) struct State {
    pub progress: Progress,
    pub optimizer_steps: u64,
    /// Steps of the critic's optimizer, and whether it has a trunk of its own.
    #[serde(default)]
    pub critic: Option<(u64, bool)>,
    /// Bytes of the checkpoint's other files, by name: one that was cut is known by its length.
    #[serde(default)]
    pub files: BTreeMap<String, u64>,
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

impl State {
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("numbers and names serialise")
    }

    /// The state of a checkpoint whose files are as long as they were when they were written.
    pub fn load(checkpoint: &Path) -> Result<Self, TrainError> {
        let path = checkpoint.join(STATE);
        let bytes = fs::read(&path).map_err(|error| failed(&path, error))?;
        let state: Self = serde_json::from_slice(&bytes).map_err(|error| failed(&path, error))?;
        for (name, &expected) in &state.files {
            let path = checkpoint.join(name);
            let got = fs::metadata(&path).map_err(|error| failed(&path, error))?.len();
            if got < expected {
                return Err(failed(&path, format!("expected {expected} bytes, got {got}: the file was cut")));
            }
        }
        Ok(state)
    }
}

impl Progress {
    /// Where the run of a checkpoint stood.
    ///
    /// # Errors
    /// If the checkpoint is not whole.
    pub fn of_checkpoint(checkpoint: &Path) -> Result<Self, TrainError> {
        Ok(State::load(checkpoint)?.progress)
    }
}

impl<M: TrainableLm> Checkpoint<M> {
    /// Reads a checkpoint into a model of the same shape; the optimizer's settings are those of the stage it stands in.
    pub fn load(
        path: &Path,
        model: M,
        settings_of_stage: impl Fn(usize) -> AdamWConfig,
    ) -> Result<Self, TrainError> {
        let State { progress, optimizer_steps, critic, .. } = State::load(path)?;
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
pub(crate) fn weights<M: Module>(model: &M) -> BTreeMap<String, Fetched> {
    let fetched = |(name, parameter): (String, LazyParameter)| {
        (name, Fetched { shape: parameter.shape.clone(), fetch: Box::new(move || parameter.data()) })
    };
    lazy_parameters(model).into_iter().map(fetched).collect()
}

/// Moments by name.
pub(crate) fn moments(optimizer: &AdamW) -> BTreeMap<String, Fetched> {
    let (_, tensors) = optimizer.state();
    let fetched = |(name, data): (String, TensorData)| {
        (name, Fetched { shape: data.shape().to_vec(), fetch: Box::new(move || data.clone()) })
    };
    tensors.into_iter().map(fetched).collect()
}

pub(crate) fn failed(path: &Path, reason: impl std::fmt::Display) -> TrainError {
    TrainError::Checkpoint { path: path.to_owned(), reason: reason.to_string() }
}

/// What a file of a checkpoint holds.
pub(crate) enum Content<'a> {
    Bytes(Vec<u8>),
    /// Asked for when the file is written: the tensors of one file at a time, and copies of its weights one by one.
    Tensors(Box<dyn Fn() -> BTreeMap<String, Fetched> + 'a>),
}

impl Content<'_> {
    /// Writes the file and flushes it to the disk.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
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
pub(crate) struct Fetched {
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
