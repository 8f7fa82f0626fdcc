//! What a step needs: weights, optimizers, and where the run stands.

use burn::optim::GradientsParams;

use crate::{
    AdamW, AdamWConfig, CriticState, NotFiniteUpdate, Progress, TrainError, TrainableLm, global_norm,
    scale_gradients,
};

/// Weights, optimizers and place of a run; what [`Stage::step`](crate::Stage::step) changes.
pub struct TrainState<M: TrainableLm> {
    /// The policy, on an autodiff device.
    pub model: M,
    /// Its optimizer; a fresh one for each stage.
    pub optimizer: AdamW,
    /// Weights at the start of the stage, if the stage wants them.
    pub reference: Option<M>,
    /// The critic, if the stage wants one.
    pub critic: Option<CriticState<M>>,
    /// The reward model that a stage of the run has trained or is training; it stays through the stages after.
    pub reward_model: Option<CriticState<M>>,
    /// Where the run stands.
    pub progress: Progress,
    /// The run's seed.
    pub seed: u64,
    /// Whether layers are recomputed in the backward pass instead of kept: less memory, a forward pass more.
    pub gradient_checkpointing: bool,
}

/// Which of a run's two critics is updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScalarHead {
    Critic,
    RewardModel,
}

impl<M: TrainableLm> TrainState<M> {
    /// The state at the start of a run.
    pub fn new(model: M, seed: u64) -> Self {
        Self {
            model,
            optimizer: AdamW::new(AdamWConfig::default()),
            reference: None,
            critic: None,
            reward_model: None,
            progress: Progress::default(),
            seed,
            gradient_checkpointing: false,
        }
    }

    /// Optimizer steps so far, those of critic and reward model too: equal numbers mean equal weights.
    pub(crate) fn num_updates(&self) -> u64 {
        let heads = [&self.critic, &self.reward_model].into_iter().flatten();
        self.optimizer.num_steps() + heads.map(|head| head.optimizer.num_steps()).sum::<u64>()
    }

    /// Clips the gradients and takes one optimizer step; returns the norm before clipping.
    ///
    /// # Errors
    /// If the gradient or a weight after the step is not finite: no weight is changed, and the error names the step, the
    /// parameter and the rows.
    pub(crate) fn update(
        &mut self,
        stage: &str,
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
        self.progress.policy_version += 1;
        Ok(norm)
    }

    /// Clips the gradients of the critic or the reward model and takes one step of its optimizer.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub(crate) fn update_head(
        &mut self,
        which: ScalarHead,
        (stage, learning_rate): (&str, f64),
        mut gradients: GradientsParams,
        rows: &dyn Fn() -> String,
    ) -> Result<(), TrainError> {
        let (slot, what) = match which {
            ScalarHead::Critic => (&mut self.critic, "critic's gradient"),
            ScalarHead::RewardModel => (&mut self.reward_model, "gradient"),
        };
        let Some(head) = slot else { return Ok(()) };
        let norm = global_norm(&head.critic, &mut gradients);
        if !norm.is_finite() {
            return Err(self.not_finite(stage, what, rows()));
        }
        let limit = head.optimizer.config().max_grad_norm;
        if norm > limit {
            scale_gradients(&head.critic, &mut gradients, limit / norm);
        }
        match head.optimizer.step(learning_rate, head.critic.clone(), gradients) {
            Ok(critic) => head.critic = critic,
            Err(error) => return Err(self.not_finite_update(stage, error, rows())),
        }
        Ok(())
    }

    fn not_finite_update(&self, stage: &str, error: NotFiniteUpdate, rows: String) -> TrainError {
        let (stage, step, parameter) = (stage.to_owned(), self.progress.step + 1, error.parameter);
        TrainError::NotFiniteUpdate { stage, step, parameter, rows, checkpoint: "none yet".to_owned() }
    }

    pub(crate) fn not_finite(&self, stage: &str, what: &'static str, rows: String) -> TrainError {
        let (stage, step) = (stage.to_owned(), self.progress.step + 1);
        TrainError::NotFinite { stage, step, what, rows, checkpoint: "none yet".to_owned() }
    }
}
