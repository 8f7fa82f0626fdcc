//! The learning rate over a stage.

use serde::{Deserialize, Serialize};

use crate::range::{SettingError, Unread, number};

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

/// A learning rate as a function of the optimizer updates of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearningRate {
    /// Highest rate; a finite number of at least 0.
    pub peak: f64,
    /// Shape after the warm-up. Default constant.
    #[serde(default = "LearningRate::constant")]
    pub schedule: Schedule,
    /// Updates of linear rise. Default 0. A stage with fewer ends before the peak, with a warning.
    #[serde(default)]
    pub warmup_steps: usize,
    /// Linear and cosine: rate of the last update as a share of the peak, in [0, 1]. Default 0.1.
    #[serde(default = "LearningRate::tenth")]
    pub final_share: f64,
}

impl LearningRate {
    /// The same rate for every update.
    pub fn fixed(peak: f64) -> Self {
        Self { peak, schedule: Schedule::Constant, warmup_steps: 0, final_share: 1.0 }
    }

    fn constant() -> Schedule {
        Schedule::Constant
    }

    fn tenth() -> f64 {
        0.1
    }

    /// Checks the ranges named at the fields; `prefix` is the settings' place in the recipe.
    ///
    /// # Errors
    /// Names the setting, its range and the value.
    pub fn check(&self, prefix: &str) -> Result<(), SettingError> {
        let (peak, share) = (self.peak, self.final_share);
        number(prefix, ("peak", peak), peak >= 0.0 && peak.is_finite(), "a finite number of at least 0")?;
        number(prefix, ("final_share", share), (0.0..=1.0).contains(&share), "a number in [0, 1]")
    }

    /// What the schedule does not read.
    pub fn unread(&self, prefix: &str) -> Vec<Unread> {
        let reader = "schedule = \"linear\" or \"cosine\"";
        let unread = Unread { key: format!("{prefix}.final_share"), reader };
        if self.schedule == Schedule::Constant { vec![unread] } else { Vec::new() }
    }

    /// What the user should know before the first of `total` updates: a warm-up that takes longer than the stage.
    pub fn warning(&self, total: usize) -> Option<String> {
        let (warmup, share) = (self.warmup_steps, total as f64 / self.warmup_steps.max(1) as f64);
        (total > 0 && warmup > total).then(|| {
            format!(
                "learning_rate.warmup_steps = {warmup}, but the stage has {total} update(s): the rate ends at {:.0} % of \
                 its peak",
                100.0 * share
            )
        })
    }

    /// The rate of update `step` (from 0) of `total`.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(schedule: Schedule, warmup_steps: usize) -> LearningRate {
        LearningRate { peak: 2.0, schedule, warmup_steps, final_share: 0.5 }
    }

    #[test]
    fn hand_case() {
        let rates = |rate: LearningRate| (0..5).map(|step| rate.at(step, 5)).collect::<Vec<_>>();
        assert_eq!(rates(rate(Schedule::Constant, 2)), [1.0, 2.0, 2.0, 2.0, 2.0]);
        assert_eq!(rates(rate(Schedule::Linear, 2)), [1.0, 2.0, 2.0, 1.5, 1.0]);
        assert_eq!(rates(LearningRate { peak: 0.0, ..rate(Schedule::Cosine, 2) }), [0.0; 5]);
    }

    #[test]
    fn ranges_are_checked_and_a_long_warm_up_is_said() {
        let good = rate(Schedule::Cosine, 10);
        assert!(good.check("sft.learning_rate").is_ok() && good.unread("").is_empty());
        for (bad, message) in [
            (
                LearningRate { peak: f64::NAN, ..good },
                "sft.learning_rate.peak: expected a finite number of at least 0, got NaN",
            ),
            (
                LearningRate { peak: -1e-4, ..good },
                "sft.learning_rate.peak: expected a finite number of at least 0, got -0.0001",
            ),
            (
                LearningRate { peak: f64::INFINITY, ..good },
                "sft.learning_rate.peak: expected a finite number of at least 0, got inf",
            ),
            (
                LearningRate { final_share: 1.5, ..good },
                "sft.learning_rate.final_share: expected a number in [0, 1], got 1.5",
            ),
        ] {
            assert_eq!(bad.check("sft.learning_rate").unwrap_err().to_string(), message);
        }
        assert_eq!(rate(Schedule::Constant, 0).unread("rl")[0].key, "rl.final_share");
        assert_eq!((good.warning(10), good.warning(0)), (None, None));
        assert!(good.warning(3).unwrap().contains("ends at 30 % of its peak"));
    }
}
