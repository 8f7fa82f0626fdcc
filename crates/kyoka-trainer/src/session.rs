//! What a run holds: weights, optimizer, place, and who is told of it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use burn::optim::GradientsParams;
use kyoka_core::Metrics;

use crate::{
    AdamW, AdamWConfig, Checkpoint, CheckpointStore, CriticState, EvalReport, LearningRate, NotFiniteUpdate,
    Progress, SampleRecord, SavedState, TrainError, TrainableLm, global_norm, scale_gradients,
};

/// What a step tells.
#[derive(Debug, Clone)]
pub struct StepReport {
    /// The stage's name.
    pub stage: &'static str,
    /// Steps done, this one included.
    pub step: usize,
    /// Steps of the stage.
    pub total_steps: usize,
    /// Numbers of the step.
    pub metrics: Metrics,
    /// A few of the step's completions.
    pub samples: Vec<SampleRecord>,
    /// Something the user should know; training goes on.
    pub warning: Option<String>,
}

/// Hears of everything that happens.
pub trait Observer {
    /// A step is done.
    fn on_step(&mut self, report: &StepReport) -> Result<(), TrainError>;

    /// An evaluation is done; `step` counts the steps of the stage before it, 0 stands for the start of the run.
    fn on_eval(&mut self, stage: &'static str, step: usize, splits: &[EvalReport]) -> Result<(), TrainError>;

    /// Something was lost or is not as the user may think; the run goes on. Does nothing by default.
    fn on_warning(&mut self, _warning: &str) -> Result<(), TrainError> {
        Ok(())
    }
}

/// When a run is evaluated besides what its stages say, and what decides which checkpoint is best.
#[derive(Debug, Clone, Default)]
pub struct EvalRules {
    /// Evaluate before the first step of the run.
    pub at_start: bool,
    /// Split and part whose mean decides what is best. By default the first split, and its accuracy or, where no reward
    /// measures one, its total.
    pub best: Option<(String, String)>,
    /// The settings of evaluations as text. What was evaluated with others counts as not evaluated when a run is resumed,
    /// and a best value of others is forgotten.
    pub settings: String,
}

impl EvalRules {
    /// The mean that is watched, if the evaluation has it.
    pub(crate) fn watched(&self, splits: &[EvalReport]) -> Option<f64> {
        let Some((split, part)) = &self.best else {
            let summary = &splits.first()?.summary;
            return summary.part("accuracy").or(summary.part("total"));
        };
        splits.iter().find(|report| report.summary.split == *split)?.summary.part(part)
    }
}

/// What a run goes on from.
#[derive(Debug)]
pub struct Resumed {
    /// The checkpoint.
    pub checkpoint: PathBuf,
    /// Newer checkpoints that could not be read, and why; they were renamed and count as none.
    pub unreadable: Vec<(PathBuf, TrainError)>,
}

/// A part of a run with steps of one kind.
pub trait Stage<M: TrainableLm> {
    /// `sft` or `rl`.
    fn name(&self) -> &'static str;

    /// Steps to take at most.
    fn total_steps(&self) -> usize;

    /// Whether the stage ends where the run stands.
    fn is_done(&self, progress: &Progress) -> bool {
        progress.step >= self.total_steps()
    }

    /// Steps between evaluations; 0 evaluates at the end only.
    fn eval_every(&self) -> usize;

    /// Learning rate and optimizer.
    fn optimization(&self) -> (LearningRate, AdamWConfig);

    /// Whether a reference policy (the weights at the start of the stage) is wanted.
    fn wants_reference(&self) -> bool {
        false
    }

    /// Whether a critic is wanted, and if so, whether with a trunk of its own.
    fn critic(&self) -> Option<bool> {
        None
    }

    /// Whether adapters drop values in training, as their settings say. A stage that samples has none: what learns must be
    /// what samples.
    fn has_dropout(&self) -> bool {
        true
    }

    /// What the stage itself must remember to go on after a restart, for `stage.json` of a checkpoint.
    fn state(&self) -> Option<Vec<u8>> {
        None
    }

    /// Takes over what [`state`](Self::state) gave.
    ///
    /// # Errors
    /// Says what is wrong with it.
    fn restore(&mut self, _state: &[u8]) -> Result<(), String> {
        Ok(())
    }

    /// One step; updates the session's model.
    fn step(&mut self, session: &mut Session<M>) -> Result<StepReport, TrainError>;
}

/// Weights, optimizer and place of a run.
pub struct Session<M: TrainableLm> {
    /// The policy, on an autodiff device.
    pub model: M,
    /// Its optimizer; a fresh one for each stage.
    pub optimizer: AdamW,
    /// Weights at the start of the stage, if the stage wants them.
    pub reference: Option<M>,
    /// The critic, if the stage wants one.
    pub critic: Option<CriticState<M>>,
    /// Where the run stands.
    pub progress: Progress,
    /// The run's seed.
    pub seed: u64,
    /// Set from outside to stop: after the step under way, or before it where its engine gives up sampling.
    pub stop: Arc<AtomicBool>,
    /// When to evaluate besides what stages say, and what is best.
    pub evaluation: EvalRules,
    /// Whether layers are computed again on the way back instead of kept: less memory, a forward pass more.
    pub gradient_checkpointing: bool,
    /// Where checkpoints go.
    pub checkpoints: CheckpointStore,
    /// Which parameters a stage trains: gives the model back with those tracked and the others not.
    pub trainable: Option<TrainableFn<M>>,
    /// What the stage under way had to remember, with the file it came from.
    pub(crate) stage_state: Option<(PathBuf, Vec<u8>)>,
}

/// From a stage's name and the model to the model as the stage trains it; an error says what is wrong.
pub type TrainableFn<M> = Box<dyn Fn(&'static str, M) -> Result<M, String>>;

/// Evaluates the policy on every watched split.
pub(crate) type EvaluateFn<'a, M> = &'a dyn Fn(&M) -> Result<Vec<EvalReport>, TrainError>;

impl<M: TrainableLm> Session<M> {
    /// A new run.
    pub fn new(model: M, seed: u64, checkpoints: CheckpointStore) -> Self {
        Self {
            model,
            optimizer: AdamW::new(AdamWConfig::default()),
            reference: None,
            critic: None,
            progress: Progress::default(),
            seed,
            stop: Arc::default(),
            evaluation: EvalRules::default(),
            gradient_checkpointing: false,
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
            match Checkpoint::load(&checkpoint, self.model.clone(), &settings_of_stage) {
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
        self.progress = loaded.progress;
        self.optimizer = loaded.optimizer;
        self.model = loaded.model;
        self.reference = loaded.reference.map(|reference| reference.valid());
        self.critic = loaded.critic;
        self.stage_state = loaded.stage_state.map(|state| (path.join("stage.json"), state));
    }

    pub(crate) fn save(&self, stage: &dyn Stage<M>) -> Result<PathBuf, TrainError> {
        let state = SavedState {
            model: &self.model,
            optimizer: &self.optimizer,
            progress: &self.progress,
            reference: self.reference.as_ref(),
            critic: self.critic.as_ref(),
            stage_state: stage.state(),
        };
        self.checkpoints.save(stage.name(), state)
    }

    /// Clips the gradients and takes one optimizer step; returns the norm before clipping.
    ///
    /// # Errors
    /// If the gradient or a weight after the step is not finite: no weight is changed, and the error names the step, the
    /// parameter and the rows.
    pub(crate) fn update(
        &mut self,
        stage: &'static str,
        learning_rate: f64,
        mut gradients: GradientsParams,
        rows: &dyn Fn() -> String,
    ) -> Result<f64, TrainError> {
        let norm = global_norm(&self.model, &mut gradients);
        if !norm.is_finite() {
            return Err(self.not_finite(stage, "gradient", rows()));
        }
        let limit = self.optimizer.config().max_grad_norm;
        if norm > limit {
            scale_gradients(&self.model, &mut gradients, limit / norm);
        }
        let updated = self.optimizer.step(learning_rate, self.model.clone(), gradients);
        self.model = updated.map_err(|error| self.not_finite_update(stage, error, rows()))?;
        Ok(norm)
    }

    /// Clips the gradients of the critic and takes one step of its optimizer.
    pub(crate) fn update_critic(
        &mut self,
        learning_rate: f64,
        mut gradients: GradientsParams,
        rows: &dyn Fn() -> String,
    ) -> Result<(), TrainError> {
        let Some(state) = &mut self.critic else { return Ok(()) };
        let norm = global_norm(&state.critic, &mut gradients);
        if !norm.is_finite() {
            return Err(self.not_finite("rl", "critic's gradient", rows()));
        }
        let limit = state.optimizer.config().max_grad_norm;
        if norm > limit {
            scale_gradients(&state.critic, &mut gradients, limit / norm);
        }
        match state.optimizer.step(learning_rate, state.critic.clone(), gradients) {
            Ok(critic) => state.critic = critic,
            Err(error) => return Err(self.not_finite_update("rl", error, rows())),
        }
        Ok(())
    }

    fn not_finite_update(&self, stage: &'static str, error: NotFiniteUpdate, rows: String) -> TrainError {
        let latest = self.checkpoints.latest();
        let checkpoint = latest.map_or("none yet".to_owned(), |path| path.display().to_string());
        let (step, parameter) = (self.progress.step + 1, error.parameter);
        TrainError::NotFiniteUpdate { stage, step, parameter, rows, checkpoint }
    }

    pub(crate) fn not_finite(&self, stage: &'static str, what: &'static str, rows: String) -> TrainError {
        let latest = self.checkpoints.latest();
        let checkpoint = latest.map_or("none yet".to_owned(), |path| path.display().to_string());
        TrainError::NotFinite { stage, step: self.progress.step + 1, what, rows, checkpoint }
    }
}
