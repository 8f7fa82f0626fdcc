//! A run: stages one after the other, with evaluation, checkpoints and a way to stop.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use burn::optim::GradientsParams;
use kyoka_core::{Metrics, Stream, stream_rng};
use rand::Rng;
use serde::Serialize;

use crate::{
    AdamW, AdamWConfig, Checkpoint, CheckpointStore, CriticState, EvalReport, LearningRate, NotFiniteUpdate,
    Progress, TrainError, TrainableLm, checkpoint::SavedState, global_norm, scale_gradients,
};

/// A sampled completion, for the log.
#[derive(Debug, Clone, Serialize)]
pub struct SampleRecord {
    /// The row.
    pub id: String,
    /// Prompt text with placeholders.
    pub prompt: String,
    /// Files of the prompt's pictures.
    pub images: Vec<PathBuf>,
    /// Files of the prompt's sounds.
    pub audios: Vec<PathBuf>,
    /// The row's answer.
    pub answer: Option<String>,
    /// What the policy wrote.
    pub completion: String,
    /// Reward, `None` if ungraded.
    pub reward: Option<f32>,
    /// Its parts.
    pub parts: Vec<(String, f32)>,
}

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

    /// An evaluation is done; `step` counts the steps of the stage before it.
    fn on_eval(&mut self, stage: &'static str, step: usize, splits: &[EvalReport]) -> Result<(), TrainError>;

    /// Something was lost or is not as the user may think; the run goes on. Does nothing by default.
    fn on_warning(&mut self, _warning: &str) -> Result<(), TrainError> {
        Ok(())
    }
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
    /// Set from outside to stop after the step under way.
    pub stop: Arc<AtomicBool>,
    /// Whether layers are computed again on the way back instead of kept: less memory, a forward pass more.
    pub gradient_checkpointing: bool,
    /// Where checkpoints go.
    pub checkpoints: CheckpointStore,
    /// Which parameters a stage trains: gives the model back with those tracked and the others not.
    pub trainable: Option<TrainableFn<M>>,
    /// What the stage under way had to remember, with the file it came from.
    stage_state: Option<(PathBuf, Vec<u8>)>,
}

/// From a stage's name and the model to the model as the stage trains it; an error says what is wrong.
pub type TrainableFn<M> = Box<dyn Fn(&'static str, M) -> Result<M, String>>;

/// Evaluates the policy on every watched split. The first one's accuracy decides what is best.
type EvaluateFn<'a, M> = &'a dyn Fn(&M) -> Result<Vec<EvalReport>, TrainError>;

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
            gradient_checkpointing: false,
            checkpoints,
            trainable: None,
            stage_state: None,
        }
    }

    /// Takes over the newest checkpoint, if there is one; the optimizer's settings are those of the stage it stands in.
    pub fn resume(
        &mut self,
        settings_of_stage: impl Fn(usize) -> AdamWConfig,
    ) -> Result<Option<PathBuf>, TrainError> {
        let Some(path) = self.checkpoints.latest() else { return Ok(None) };
        let loaded = Checkpoint::load(&path, self.model.clone(), settings_of_stage)?;
        self.progress = loaded.progress;
        self.optimizer = loaded.optimizer;
        self.model = loaded.model;
        self.reference = loaded.reference.map(|reference| reference.valid());
        self.critic = loaded.critic;
        self.stage_state = loaded.stage_state.map(|state| (path.join("stage.json"), state));
        Ok(Some(path))
    }

    /// Runs stage number `index` from where the session stands; a stage already done is skipped.
    pub fn run_stage(
        &mut self,
        index: usize,
        stage: &mut dyn Stage<M>,
        observer: &mut dyn Observer,
        evaluate: EvaluateFn<'_, M>,
    ) -> Result<(), TrainError> {
        if self.progress.stage > index {
            return Ok(());
        }
        let (_, settings) = stage.optimization();
        if let Some(trainable) = &self.trainable {
            let expected = "parameters of the policy, and some left to train";
            let refused = |got| TrainError::Config { field: "model.freeze", expected, got };
            self.model = trainable(stage.name(), self.model.clone()).map_err(refused)?;
        }
        if self.progress.stage < index || !self.progress.started {
            let Progress { best, elapsed_s, ref phase_s, .. } = self.progress;
            self.progress = Progress {
                stage: index,
                started: true,
                best,
                elapsed_s,
                phase_s: phase_s.clone(),
                ..Progress::default()
            };
            self.optimizer = AdamW::new(settings);
            self.reference = stage.wants_reference().then(|| self.model.valid());
            self.critic = stage.critic().map(|own| CriticState::new(&self.model, own, settings));
        } else if let Some((path, state)) = self.stage_state.take() {
            let broken = |reason| TrainError::Checkpoint { path, reason };
            stage.restore(&state).map_err(broken)?;
        }
        // A run killed during the last evaluation makes up for it.
        if self.progress.step > 0 && stage.is_done(&self.progress) && !self.progress.evaluated {
            self.evaluate_and_save(stage, observer, evaluate)?;
        }
        while !stage.is_done(&self.progress) {
            let started = Instant::now();
            // What a step drops at random is a function of its place, so that a resumed run drops the same.
            let place = [self.progress.stage as u64, self.progress.step as u64];
            let seed = || stream_rng(self.seed, Stream::Dropout, &place).next_u64();
            let seed = stage.has_dropout().then(seed);
            self.model.set_dropout(seed);
            let report = stage.step(self)?;
            self.progress.step += 1;
            for phase in ["rollout", "reward", "train"] {
                let seconds = report.metrics.get(&format!("time/{phase}_s")).unwrap_or(0.0);
                *self.progress.phase_s.entry(phase.to_owned()).or_default() += seconds;
            }
            observer.on_step(&report)?;
            let done = stage.is_done(&self.progress);
            let due = |every: usize| every > 0 && self.progress.step.is_multiple_of(every);
            let (eval_due, save_due) = (due(stage.eval_every()), due(self.checkpoints.policy().every));
            self.progress.elapsed_s += started.elapsed().as_secs_f64();
            let stopping = self.stop.load(Ordering::Relaxed);
            // The steps are kept before anything else can fail.
            let save_now = done || eval_due || save_due || stopping;
            let saved = if save_now { Some(self.save(stage, false)?) } else { None };
            if let Some(path) = saved.filter(|_| stopping && !done) {
                let (stage, step) = (stage.name(), self.progress.step);
                return Err(TrainError::Interrupted { stage, step, checkpoint: path.display().to_string() });
            }
            if done || eval_due {
                self.evaluate_and_save(stage, observer, evaluate)?;
            }
        }
        Ok(())
    }

    fn evaluate_and_save(
        &mut self,
        stage: &dyn Stage<M>,
        observer: &mut dyn Observer,
        evaluate: EvaluateFn<'_, M>,
    ) -> Result<(), TrainError> {
        let started = Instant::now();
        let best = self.evaluate(stage.name(), observer, evaluate)?;
        self.progress.elapsed_s += started.elapsed().as_secs_f64();
        self.progress.evaluated = stage.is_done(&self.progress);
        self.save(stage, best)?;
        Ok(())
    }

    /// Evaluates and says whether this is the best so far.
    fn evaluate(
        &mut self,
        stage: &'static str,
        observer: &mut dyn Observer,
        evaluate: EvaluateFn<'_, M>,
    ) -> Result<bool, TrainError> {
        let started = Instant::now();
        let splits = evaluate(&self.model)?;
        *self.progress.phase_s.entry("eval".to_owned()).or_default() += started.elapsed().as_secs_f64();
        observer.on_eval(stage, self.progress.step, &splits)?;
        let Some(watched) = splits.first().and_then(|split| split.summary.part("accuracy")) else {
            return Ok(false);
        };
        let best = self.progress.best.is_none_or(|best| watched > best);
        if best {
            self.progress.best = Some(watched);
        }
        Ok(best)
    }

    fn save(&self, stage: &dyn Stage<M>, best: bool) -> Result<PathBuf, TrainError> {
        let state = SavedState {
            model: &self.model,
            optimizer: &self.optimizer,
            progress: &self.progress,
            reference: self.reference.as_ref(),
            critic: self.critic.as_ref(),
            stage_state: stage.state(),
            best,
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
