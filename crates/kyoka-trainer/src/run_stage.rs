//! A run: stages one after the other, with evaluation, checkpoints and a way to stop.

use std::{sync::atomic::Ordering, time::Instant};

use kyoka_algorithms::CriticKind;
use kyoka_core::{Stream, stream_rng};
use rand::Rng;

use crate::{
    AdamW, Critic, CriticState, EvalReport, Evaluated, Observer, Progress, Session, Stage, TrainError,
    TrainableLm, session::EvaluateFn,
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
        if self.state.progress.stage > index {
            // A checkpoint of a version that did not count the steps of stages: this one took all of its own.
            let steps_before = &mut self.state.progress.steps_before;
            if steps_before.len() == index {
                steps_before.push(stage.total_steps());
            }
            return Ok(());
        }
        if self.state.gradient_checkpointing && self.state.model.recompute().is_none() {
            return Err(TrainError::CannotRecompute);
        }
        self.begin_stage(index, stage)?;
        // At the start of the run, or one that a kill has cost.
        self.evaluate_if_due(stage, observer, evaluate)?;
        while !stage.is_done(&self.state.progress) {
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
            self.state.model = trainable(stage.name(), self.state.model.clone()).map_err(refused)?;
            // What was read back has not come from the model, as a fresh critic does.
            for head in [&mut self.state.critic, &mut self.state.reward_model].into_iter().flatten() {
                if let Some(trunk) = head.critic.trunk.take() {
                    head.critic.trunk = Some(trainable(stage.name(), trunk).map_err(refused)?);
                }
            }
        }
        if self.state.progress.stage < index || !self.state.progress.started {
            let Progress { best, elapsed_s, ref best_settings, phase_s, policy_version, accuracy, .. } =
                self.state.progress;
            let mut steps_before = self.state.progress.steps_before.clone();
            if self.state.progress.started {
                steps_before.push(self.state.progress.step);
            }
            self.state.progress = Progress {
                stage: index,
                steps_before,
                started: true,
                best,
                best_settings: best_settings.clone(),
                elapsed_s,
                phase_s,
                policy_version,
                accuracy,
                ..Progress::default()
            };
            let state = &mut self.state;
            state.optimizer = AdamW::new(settings);
            state.reference = stage.wants_reference().then(|| state.model.valid());
            state.critic = match stage.critic() {
                CriticKind::None => None,
                kind => Some(CriticState::new(&state.model, kind == CriticKind::Separate, settings)),
            };
            if let Some(heads) = stage.reward_heads() {
                let critic = Critic::with_heads(&state.model, true, heads);
                state.reward_model = Some(CriticState { critic, optimizer: AdamW::new(settings) });
            } else if let Some(trained) = &mut state.reward_model {
                // Its training is over: what is left to keep are its weights.
                trained.optimizer = AdamW::new(settings);
            }
        } else if let Some((path, state)) = self.stage_state.take() {
            let broken = |reason| TrainError::Checkpoint { path, reason };
            stage.restore(&state).map_err(broken)?;
        }
        Ok(())
    }

    /// One step, logged, and kept where a checkpoint is due.
    fn take_step(&mut self, stage: &mut dyn Stage<M>, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let started = Instant::now();
        let before = (self.state.progress.clone(), self.state.num_updates());
        // What a step drops at random is a function of its place, so that a resumed run drops the same.
        let place = [self.state.progress.stage as u64, self.state.progress.step as u64];
        let seed = || stream_rng(self.state.seed, Stream::Dropout, &place).next_u64();
        let seed = stage.has_dropout().then(seed);
        self.state.model.set_dropout(seed);
        let mut report = match stage.step(&mut self.state) {
            Ok(report) => report,
            Err(error) => return Err(self.step_failed(stage, before, error)),
        };
        self.state.progress.step += 1;
        self.state.progress.final_evaluation = None;
        let seconds = report.seconds;
        self.state.progress.phase_s += seconds;
        for (phase, seconds) in [
            ("time/rollout_s", seconds.rollout),
            ("time/reward_s", seconds.reward),
            ("time/train_s", seconds.train),
        ] {
            if seconds > 0.0 {
                report.metrics.set(phase, seconds);
            }
        }
        let logged = observer.on_step(&report);
        self.state.progress.elapsed_s += started.elapsed().as_secs_f64();
        let (done, stopping) = (stage.is_done(&self.state.progress), self.is_stopping());
        let save_due = is_multiple(self.state.progress.step, self.checkpoints.policy().every);
        // The steps are kept before anything else can fail.
        if done
            || save_due
            || stopping
            || logged.is_err()
            || is_multiple(self.state.progress.step, stage.eval_every())
        {
            self.save(stage).map_err(|error| self.stands(error))?;
        }
        logged.map_err(|error| self.stands(error))?;
        if stopping && !done {
            return Err(self.interrupted(stage.name()));
        }
        Ok(())
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
        if self.state.num_updates() == num_updates && unchanged {
            self.state.progress = progress;
            let path = self.checkpoints.path(stage.name(), &self.state.progress);
            if self.state.progress.step > 0
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

    fn interrupted(&self, stage: &str) -> TrainError {
        let latest = self.checkpoints.latest();
        let checkpoint =
            latest.map_or("the start, as no step was taken".to_owned(), |path| path.display().to_string());
        let (stage, step) = (stage.to_owned(), self.state.progress.step);
        TrainError::Interrupted { stage, step, checkpoint }
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
        let step = self.state.progress.step;
        let wanted = match step {
            0 => self.state.progress.stage == 0 && self.evaluation.at_start,
            _ => stage.is_done(&self.state.progress) || is_multiple(step, stage.eval_every()),
        };
        wanted && self.state.progress.evaluation.as_ref() != Some(&self.evaluated_now())
    }

    fn evaluated_now(&self) -> Evaluated {
        Evaluated { step: self.state.progress.step, settings: self.evaluation.settings.clone() }
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
        let best = self.state.progress.step > 0 && self.is_best(&splits);
        let accuracies = splits.iter().filter_map(|split| split.summary.part("accuracy"));
        let (count, sum) =
            accuracies.fold((0.0, 0.0), |(count, sum), accuracy| (count + 1.0, sum + accuracy));
        // Where nothing could be judged, what was known stays.
        let known = self.state.progress.accuracy;
        self.state.progress.accuracy = (count > 0.0).then_some(sum / count).or(known);
        self.state.progress.evaluation = Some(self.evaluated_now());
        let path = self.checkpoints.path(stage.name(), &self.state.progress);
        if path.exists() {
            self.checkpoints.update(&path, &self.state.progress, best).map_err(|error| self.stands(error))?;
        }
        Ok(())
    }

    /// Evaluates after the last stage, unless that was done before with these `settings`.
    ///
    /// # Errors
    /// If the evaluation fails; the error says which checkpoint stands.
    pub fn evaluate_at_end(
        &mut self,
        (stage, settings): (&str, &str),
        observer: &mut dyn Observer,
        evaluate: EvaluateFn<'_, M>,
    ) -> Result<(), TrainError> {
        if self.state.progress.final_evaluation.as_deref() == Some(settings) {
            return Ok(());
        }
        self.evaluate(stage, observer, evaluate)?;
        self.state.progress.final_evaluation = Some(settings.to_owned());
        let path = self.checkpoints.path(stage, &self.state.progress);
        if path.exists() {
            self.checkpoints
                .update(&path, &self.state.progress, false)
                .map_err(|error| self.stands(error))?;
        }
        Ok(())
    }

    fn evaluate(
        &mut self,
        stage: &str,
        observer: &mut dyn Observer,
        evaluate: EvaluateFn<'_, M>,
    ) -> Result<Vec<EvalReport>, TrainError> {
        let started = Instant::now();
        let splits = evaluate(&self.state).map_err(|error| match error.is_interruption() {
            true => self.interrupted(stage),
            false => self.stands(error),
        })?;
        let seconds = started.elapsed().as_secs_f64();
        self.state.progress.phase_s.eval += seconds;
        self.state.progress.elapsed_s += seconds;
        observer.on_eval(stage, self.state.progress.step, &splits).map_err(|error| self.stands(error))?;
        for (split, failures) in
            splits.iter().filter_map(|split| Some((&split.summary.split, split.summary.failures.as_ref()?)))
        {
            observer.on_warning(&format!("{split}: {failures}")).map_err(|error| self.stands(error))?;
        }
        Ok(splits)
    }

    /// Whether an evaluation is the best so far under the same settings.
    fn is_best(&mut self, splits: &[EvalReport]) -> bool {
        if self.state.progress.best_settings != self.evaluation.settings {
            self.state.progress.best = None;
            self.state.progress.best_settings = self.evaluation.settings.clone();
        }
        let Some(watched) = self.evaluation.watched(splits) else { return false };
        let best = self.state.progress.best.is_none_or(|best| watched > best);
        if best {
            self.state.progress.best = Some(watched);
        }
        best
    }
}

/// Whether something that is done every so many steps, 0 for never, is due.
fn is_multiple(step: usize, every: usize) -> bool {
    every > 0 && step.is_multiple_of(every)
}
