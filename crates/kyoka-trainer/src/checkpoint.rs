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

use crate::{AdamW, AdamWConfig, Critic, CriticState, Progress, StageKind, TrainError, TrainableLm};

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

/// The layout of checkpoints that this library writes. Version 1 had no number, and a reward model in the critic's place.
pub(crate) const VERSION: u32 = 2;

fn version_1() -> u32 {
    1
}

/// `state.json`.
#[derive(Serialize, Deserialize)]
pub(crate) struct State {
    #[serde(default = "version_1")]
    pub version: u32,
    pub progress: Progress,
    pub optimizer_steps: u64,
    #[serde(default)]
    pub critic: Option<HeadRecord>,
    #[serde(default)]
    pub reward_model: Option<HeadRecord>,
    /// Bytes of the checkpoint's other files, by name: one that was cut is known by its length.
    #[serde(default)]
    pub files: BTreeMap<String, u64>,
}

/// What `state.json` says of a critic or a reward model.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(from = "HeadOnDisk")]
pub(crate) struct HeadRecord {
    /// Steps of its optimizer.
    pub optimizer_steps: u64,
    /// Whether it has a trunk of its own.
    pub own_trunk: bool,
}

/// As versions have written it.
#[derive(Deserialize)]
#[serde(untagged)]
enum HeadOnDisk {
    Version1(u64, bool),
    Version2 { optimizer_steps: u64, own_trunk: bool },
}

impl From<HeadOnDisk> for HeadRecord {
    fn from(written: HeadOnDisk) -> Self {
        match written {
            HeadOnDisk::Version1(optimizer_steps, own_trunk)
            | HeadOnDisk::Version2 { optimizer_steps, own_trunk } => Self { optimizer_steps, own_trunk },
        }
    }
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
    /// The reward model with its optimizer, if the run has one.
    pub reward_model: Option<CriticState<M>>,
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
        #[derive(Deserialize)]
        struct Versioned {
            #[serde(default = "version_1")]
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(&bytes).map_err(|error| failed(&path, error))?;
        if version > VERSION {
            return Err(TrainError::NewerCheckpoint { path, expected: VERSION, got: version });
        }
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
        let State { version, progress, optimizer_steps, critic, reward_model, .. } = State::load(path)?;
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
        let head = |name: &str, record: Option<HeadRecord>| -> Result<Option<CriticState<M>>, TrainError> {
            let Some(HeadRecord { optimizer_steps, own_trunk }) = record else { return Ok(None) };
            let (weights, moments) = head_files(name);
            let critic = load_head(&path.join(weights), &model, own_trunk)?;
            let optimizer = restore(path.join(moments), optimizer_steps)?;
            Ok(Some(CriticState { critic, optimizer }))
        };
        let (critic, reward_model) = match (version, is_of(StageKind::RewardModel, path)) {
            (1, true) => (None, head(CRITIC, critic)?),
            _ => (head(CRITIC, critic)?, head(REWARD_MODEL, reward_model)?),
        };
        let stage_path = path.join("stage.json");
        let stage_state = match stage_path.is_file() {
            true => Some(fs::read(&stage_path).map_err(|error| failed(&stage_path, error))?),
            false => None,
        };
        Ok(Self { model, optimizer, progress, reference, critic, reward_model, stage_state })
    }
}

/// What the files of a critic are named after.
pub(crate) const CRITIC: &str = "critic";
/// What those of a reward model are.
pub(crate) const REWARD_MODEL: &str = "reward_model";

/// The files of weights and moments of a critic or a reward model.
pub(crate) fn head_files(name: &str) -> (String, String) {
    (format!("{name}.safetensors"), format!("{name}_optimizer.safetensors"))
}

/// Whether a checkpoint's folder is named as those of a stage of a kind; in version 1, where a stage had its kind for a
/// name, the reward model is in the critic's place in those of the stage that trains it.
fn is_of(kind: StageKind, checkpoint: &Path) -> bool {
    let named = format!("-{}-", kind.name());
    checkpoint.file_name().is_some_and(|name| name.to_string_lossy().contains(&named))
}

/// The weights of a reward model in a checkpoint, for a model of the same shape; without gradients.
///
/// # Errors
/// If the checkpoint holds no reward model, or one of another shape.
pub fn load_reward_model<M: TrainableLm>(checkpoint: &Path, policy: &M) -> Result<Critic<M>, TrainError> {
    let state = State::load(checkpoint)?;
    let is_there = match state.version {
        // A folder may have been renamed since: what is no critic of reinforcement learning is the reward model.
        1 => !is_of(StageKind::Rl, checkpoint) && state.critic.is_some_and(|critic| critic.own_trunk),
        _ => state.reward_model.is_some(),
    };
    if !is_there {
        let reason = "expected a checkpoint with a reward model, got one without: train it in a stage of kind reward_model";
        return Err(failed(checkpoint, reason));
    }
    let name = if state.version == 1 { CRITIC } else { REWARD_MODEL };
    Ok(load_head(&checkpoint.join(head_files(name).0), policy, true)?.valid())
}

/// A critic or a reward model with as many heads as its file has.
fn load_head<M: TrainableLm>(path: &Path, policy: &M, own_trunk: bool) -> Result<Critic<M>, TrainError> {
    let tensors = unpack(path)?;
    let heads = tensors.get("head.weight").and_then(|weight| weight.shape().get(1).copied()).unwrap_or(1);
    load_parameters(Critic::with_heads(policy, own_trunk, heads), tensors)
        .map_err(|source| TrainError::Parameters { path: path.to_owned(), source })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Coefficients, PhaseSeconds};

    fn state(text: &str) -> Result<State, String> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(STATE), text).unwrap();
        State::load(folder.path()).map_err(|error| error.to_string())
    }

    const PROGRESS: &str = r#""progress": {"stage": 1, "step": 2, "position": 3, "started": true, "best": null,
        "elapsed_s": 1.5, "phase_s": {"train": 2.0, "eval": 0.5}, "coefs": {"kl": 0.25}}, "optimizer_steps": 9"#;

    #[test]
    fn a_checkpoint_of_the_first_version_is_read() {
        let state = state(&format!("{{{PROGRESS}, \"critic\": [4, true]}}")).unwrap();
        assert_eq!((state.version, state.optimizer_steps), (1, 9));
        let critic = state.critic.unwrap();
        assert_eq!((critic.optimizer_steps, critic.own_trunk), (4, true));
        let Progress { phase_s, coefs, policy_version, .. } = state.progress;
        assert_eq!(phase_s, PhaseSeconds { train: 2.0, eval: 0.5, ..PhaseSeconds::default() });
        assert_eq!(coefs, Coefficients { kl: Some(0.25), ..Coefficients::default() });
        assert_eq!(policy_version, 0);
    }

    #[test]
    fn a_state_survives_being_written() {
        let record = HeadRecord { optimizer_steps: 4, own_trunk: false };
        let written = State {
            version: VERSION,
            progress: Progress { policy_version: 11, ..Progress::default() },
            optimizer_steps: 9,
            critic: Some(record),
            reward_model: None,
            files: BTreeMap::new(),
        };
        let read = state(&String::from_utf8(written.to_json()).unwrap()).unwrap();
        assert_eq!((read.version, read.progress, read.optimizer_steps), (VERSION, written.progress, 9));
        let critic = read.critic.unwrap();
        assert_eq!((critic.optimizer_steps, critic.own_trunk), (4, false));
        assert!(read.reward_model.is_none());
    }

    #[test]
    fn a_newer_version_is_refused_by_its_number() {
        // Whatever else it holds.
        for rest in [PROGRESS, "\"progress\": 5"] {
            let said = state(&format!("{{\"version\": 3, {rest}}}")).err().unwrap();
            let expected =
                "expected a checkpoint of version 2 or older, got version 3, which a newer Kyoka has written";
            assert!(said.ends_with(expected), "{said}");
        }
    }
}
