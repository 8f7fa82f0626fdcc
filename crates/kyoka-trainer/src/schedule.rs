//! The learning rate over a stage.

use serde::{Deserialize, Serialize};

/// Shape after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Stays at the peak.
    Constant,
    /// Falls linearly to the final share.
    Linear,
    /// Falls along half a cosine to the final share.
    Cosine,
}

/// A learning rate as a function of the step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearningRate {
    /// Highest rate.
    pub peak: f64,
    /// Shape after the warm-up. Default constant.
    #[serde(default = "LearningRate::constant")]
    pub schedule: Schedule,
    /// Steps of linear rise. Default 0.
    #[serde(default)]
    pub warmup_steps: usize,
    /// Rate of the last step as a share of the peak. Default 0.1.
    #[serde(default = "LearningRate::tenth")]
    pub final_share: f64,
}

impl LearningRate {
    fn constant() -> Schedule {
        Schedule::Constant
    }

    fn tenth() -> f64 {
        0.1
    }

    /// The rate of step `step` (from 0) of `total`.
    pub fn at(&self, step: usize, total: usize) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let span = total.saturating_sub(self.warmup_steps + 1).max(1) as f64;
        let done = ((step - self.warmup_steps) as f64 / span).min(1.0);
        let share = match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Linear => 1.0 - done,
            Schedule::Cosine => 0.5 + 0.5 * (std::f64::consts::PI * done).cos(),
        };
        match self.schedule {
            Schedule::Constant => self.peak,
            _ => self.peak * (self.final_share + (1.0 - self.final_share) * share),
        }
    }
}
