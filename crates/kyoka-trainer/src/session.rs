//! A run: what it trains, where its checkpoints go, and who may stop it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use crate::{
    AdamWConfig, Checkpoint, CheckpointStore, EvalReport, EvalRules, Stage, TrainError, TrainState,
    TrainableLm,
};

/// What a run goes on from.
#[derive(Debug)]
pub struct Resumed {
    /// The checkpoint.
    pub checkpoint: PathBuf,
    /// Newer checkpoints that could not be read, and why; they were renamed and count as none.
    pub unreadable: Vec<(PathBuf, TrainError)>,
}

/// A run of stages over one state.
pub struct Session<M: TrainableLm> {
    /// What its steps change.
    pub state: TrainState<M>,
    /// Set from outside to stop: after the step under way, or before it where its engine gives up sampling.
    pub stop: Arc<AtomicBool>,
    /// When to evaluate besides what stages say, and what is best.
    pub evaluation: EvalRules,
    /// Where checkpoints go.
    pub checkpoints: CheckpointStore,
    /// Which parameters a stage trains: gives the model back with those tracked and the others not.
    pub trainable: Option<TrainableFn<M>>,
    /// What the stage under way had to remember, with the file it came from.
    pub(crate) stage_state: Option<(PathBuf, Vec<u8>)>,
}

/// From a stage's name and the model to the model as the stage trains it; an error says what is wrong.
pub type TrainableFn<M> = Box<dyn Fn(&str, M) -> Result<M, String>>;

/// Evaluates the policy on every watched split.
pub(crate) type EvaluateFn<'a, M> = &'a dyn Fn(&TrainState<M>) -> Result<Vec<EvalReport>, TrainError>;

impl<M: TrainableLm> Session<M> {
    /// A new run.
    pub fn new(model: M, seed: u64, checkpoints: CheckpointStore) -> Self {
        Self {
            state: TrainState::new(model, seed),
            stop: Arc::default(),
            evaluation: EvalRules::default(),
            checkpoints,
            trainable: None,
            stage_state: None,
        }
    }

    /// Mends what a killed process left, and takes over the newest checkpoint that can be read, if there is one; the
    /// optimizer's settings are those of the stage it stands in.
    ///
    /// # Errors
    /// If there are checkpoints and none can be read: what is wrong with the newest.
    pub fn resume(
        &mut self,
        settings_of_stage: impl Fn(usize) -> AdamWConfig,
    ) -> Result<Option<Resumed>, TrainError> {
        self.checkpoints.recover()?;
        let mut unreadable = Vec::new();
        for checkpoint in self.checkpoints.folders().into_iter().rev() {
            match Checkpoint::load(&checkpoint, self.state.model.clone(), &settings_of_stage) {
                // It is whole, and a newer program can go on from it.
                Err(error @ TrainError::NewerCheckpoint { .. }) => return Err(error),
                Err(error) => unreadable.push((checkpoint, error)),
                Ok(loaded) => {
                    for (path, _) in &unreadable {
                        self.checkpoints.set_aside(path)?;
                    }
                    self.take_over(loaded, &checkpoint);
                    return Ok(Some(Resumed { checkpoint, unreadable }));
                }
            }
        }
        unreadable.into_iter().next().map_or(Ok(None), |(_, error)| Err(error))
    }

    fn take_over(&mut self, loaded: Checkpoint<M>, path: &Path) {
        let Checkpoint { model, optimizer, progress, reference, critic, reward_model, .. } = loaded;
        let reference = reference.map(|reference| reference.valid());
        let TrainState { seed, gradient_checkpointing, .. } = self.state;
        self.state = TrainState {
            model,
            optimizer,
            reference,
            critic,
            reward_model,
            progress,
            seed,
            gradient_checkpointing,
        };
        self.stage_state = loaded.stage_state.map(|state| (path.join("stage.json"), state));
    }

    pub(crate) fn save(&self, stage: &dyn Stage<M>) -> Result<PathBuf, TrainError> {
        self.checkpoints.save(stage.name(), &self.state, stage.state())
    }
}
