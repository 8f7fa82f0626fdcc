//! A run: stages one after the other, with evaluation, checkpoints and a way to stop.

use std::{sync::atomic::Ordering, time::Instant};

use kyoka_core::{Stream, stream_rng};
use rand::Rng;

use crate::{
    AdamW, CriticState, EvalReport, Evaluated, Observer, Progress, Session, Stage, TrainError, TrainableLm,
    session::EvaluateFn,
};

impl<M: TrainableLm> Session<M> {
    /// Runs stage number `index` from where the session stands; a stage already done is skipped.
    ///
    /// # Errors
    /// If a step or an evaluation fails, or the run is told to stop; the error says which checkpoint stands.
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
        self.begin_stage(index, stage)?;
        // At the start of the run, or one that a kill has cost.
        self.evaluate_if_due(stage, observer, evaluate)?;
        while !stage.is_done(&self.progress) {
            if self.is_stopping() {
                return Err(self.interrupted(stage.name()));
            }
            self.take_step(stage, observer)?;
            self.evaluate_if_due(stage, observer, evaluate)?;
        }
        Ok(())
    }

    /// Sets up a stage that begins, or gives back to one that goes on what it had to remember.
    fn begin_stage(&mut self, index: usize, stage: &mut dyn Stage<M>) -> Result<(), TrainError> {
        let (_, settings) = stage.optimization();
        if let Some(trainable) = &self.trainable {
            let expected = "parameters of the policy, and some left to train";
            let refused = |got| TrainError::Config { field: "model.freeze", expected, got };
            self.model = trainable(stage.name(), self.model.clone()).map_err(refused)?;
            // A critic that was read back has not come from the model, as a fresh one does.
            if let Some(CriticState { critic, .. }) = &mut self.critic
                && let Some(trunk) = critic.trunk.take()
            {
                critic.trunk = Some(trainable(stage.name(), trunk).map_err(refused)?);
            }
        }
        if self.progress.stage < index || !self.progress.started {
            let Progress { best, elapsed_s, ref best_settings, ref phase_s, .. } = self.progress;
            self.progress = Progress {
                stage: index,
                started: true,
                best,
                best_settings: best_settings.clone(),
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
        Ok(())
    }

    /// One step, logged, and kept where a checkpoint is due.
    fn take_step(&mut self, stage: &mut dyn Stage<M>, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let started = Instant::now();
        let before = (self.progress.clone(), self.num_updates());
        // What a step drops at random is a function of its place, so that a resumed run drops the same.
        let place = [self.progress.stage as u64, self.progress.step as u64];
        let seed = || stream_rng(self.seed, Stream::Dropout, &place).next_u64();
        let seed = stage.has_dropout().then(seed);
        self.model.set_dropout(seed);
        let report = match stage.step(self) {
            Ok(report) => report,
            Err(error) => return Err(self.step_failed(stage, before, error)),
        };
        self.progress.step += 1;
        self.progress.final_evaluation = None;
        for phase in ["rollout", "reward", "train"] {
            let seconds = report.metrics.get(&format!("time/{phase}_s")).unwrap_or(0.0);
            *self.progress.phase_s.entry(phase.to_owned()).or_default() += seconds;
        }
        let logged = observer.on_step(&report);
        self.progress.elapsed_s += started.elapsed().as_secs_f64();
        let (done, stopping) = (stage.is_done(&self.progress), self.is_stopping());
        let save_due = is_multiple(self.progress.step, self.checkpoints.policy().every);
        // The steps are kept before anything else can fail.
        if done
            || save_due
            || stopping
            || logged.is_err()
            || is_multiple(self.progress.step, stage.eval_every())
        {
            self.save(stage).map_err(|error| self.stands(error))?;
        }
        logged.map_err(|error| self.stands(error))?;
        if stopping && !done {
            return Err(self.interrupted(stage.name()));
        }
        Ok(())
    }

    /// Optimizer steps so far, the critic's too: equal numbers mean equal weights.
    fn num_updates(&self) -> u64 {
        self.optimizer.num_steps() + self.critic.as_ref().map_or(0, |critic| critic.optimizer.num_steps())
    }

    /// A step ended with an error. If it changed no weight, what was trained before it is kept.
    fn step_failed(
        &mut self,
        stage: &dyn Stage<M>,
        (progress, num_updates): (Progress, u64),
        mut error: TrainError,
    ) -> TrainError {
        // A stage with a state of its own may have changed it before it came to the update that gave no number.
        let not_finite = matches!(error, TrainError::NotFinite { .. } | TrainError::NotFiniteUpdate { .. });
        let unchanged = !not_finite || stage.state().is_none();
        if self.num_updates() == num_updates && unchanged {
            self.progress = progress;
            let path = self.checkpoints.path(stage.name(), &self.progress);
            if self.progress.step > 0
                && !path.exists()
                && let Err(unsaved) = self.save(stage)
            {
                let standing = format!("and the steps before could not be kept: {unsaved}");
                return TrainError::Failed { source: Box::new(error), standing };
            }
        }
        if error.is_interruption() {
            return self.interrupted(stage.name());
        }
        // These name the checkpoint themselves.
        if let TrainError::NotFinite { checkpoint, .. } | TrainError::NotFiniteUpdate { checkpoint, .. } =
            &mut error
        {
            if let Some(latest) = self.checkpoints.latest() {
                *checkpoint = latest.display().to_string();
            }
            return error;
        }
        self.stands(error)
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn interrupted(&self, stage: &'static str) -> TrainError {
        let latest = self.checkpoints.latest();
        let checkpoint =
            latest.map_or("the start, as no step was taken".to_owned(), |path| path.display().to_string());
        TrainError::Interrupted { stage, step: self.progress.step, checkpoint }
    }

    /// An error with the checkpoint that stands.
    fn stands(&self, error: TrainError) -> TrainError {
        let standing = match self.checkpoints.latest() {
            Some(path) => format!("the run can go on from {} (--resume)", path.display()),
            None => "there is no checkpoint yet".to_owned(),
        };
        TrainError::Failed { source: Box::new(error), standing }
    }

    /// Whether the place where the run stands is one to evaluate at, and was not.
    fn is_evaluation_due(&self, stage: &dyn Stage<M>) -> bool {
        let step = self.progress.step;
        let wanted = match step {
            0 => self.progress.stage == 0 && self.evaluation.at_start,
            _ => stage.is_done(&self.progress) || is_multiple(step, stage.eval_every()),
        };
        wanted && self.progress.evaluation.as_ref() != Some(&self.evaluated_now())
    }

    fn evaluated_now(&self) -> Evaluated {
        Evaluated { step: self.progress.step, settings: self.evaluation.settings.clone() }
    }

    /// Evaluates where that is due, and keeps what came of it.
    fn evaluate_if_due(
        &mut self,
        stage: &dyn Stage<M>,
        observer: &mut dyn Observer,
        evaluate: EvaluateFn<'_, M>,
    ) -> Result<(), TrainError> {
        if !self.is_evaluation_due(stage) {
            return Ok(());
        }
        let splits = self.evaluate(stage.name(), observer, evaluate)?;
        let best = self.progress.step > 0 && self.is_best(&splits);
        self.progress.evaluation = Some(self.evaluated_now());
        let path = self.checkpoints.path(stage.name(), &self.progress);
        if path.exists() {
            self.checkpoints.update(&path, &self.progress, best).map_err(|error| self.stands(error))?;
        }
        Ok(())
    }

    /// Evaluates after the last stage, unless that was done before with these `settings`.
    ///
    /// # Errors
    /// If the evaluation fails; the error says which checkpoint stands.
    pub fn evaluate_at_end(
        &mut self,
        (stage, settings): (&'static str, &str),
        observer: &mut dyn Observer,
        evaluate: EvaluateFn<'_, M>,
    ) -> Result<(), TrainError> {
        if self.progress.final_evaluation.as_deref() == Some(settings) {
            return Ok(());
        }
        self.evaluate(stage, observer, evaluate)?;
        self.progress.final_evaluation = Some(settings.to_owned());
        let path = self.checkpoints.path(stage, &self.progress);
        if path.exists() {
            self.checkpoints.update(&path, &self.progress, false).map_err(|error| self.stands(error))?;
        }
        Ok(())
    }

    fn evaluate(
        &mut self,
        stage: &'static str,
        observer: &mut dyn Observer,
        evaluate: EvaluateFn<'_, M>,
    ) -> Result<Vec<EvalReport>, TrainError> {
        let started = Instant::now();
        let splits = evaluate(&self.model).map_err(|error| match error.is_interruption() {
            true => self.interrupted(stage),
            false => self.stands(error),
        })?;
        let seconds = started.elapsed().as_secs_f64();
        *self.progress.phase_s.entry("eval".to_owned()).or_default() += seconds;
        self.progress.elapsed_s += seconds;
        observer.on_eval(stage, self.progress.step, &splits).map_err(|error| self.stands(error))?;
        Ok(splits)
    }

    /// Whether an evaluation is the best so far under the same settings.
    fn is_best(&mut self, splits: &[EvalReport]) -> bool {
        if self.progress.best_settings != self.evaluation.settings {
            self.progress.best = None;
            self.progress.best_settings = self.evaluation.settings.clone();
        }
        let Some(watched) = self.evaluation.watched(splits) else { return false };
        let best = self.progress.best.is_none_or(|best| watched > best);
        if best {
            self.progress.best = Some(watched);
        }
        best
    }
}

/// Whether something that is done every so many steps, 0 for never, is due.
fn is_multiple(step: usize, every: usize) -> bool {
    every > 0 && step.is_multiple_of(every)
}
