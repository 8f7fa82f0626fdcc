//! Where a run stands, as its checkpoints keep it.

use serde::{Deserialize, Serialize};

/// Where a run stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Index of the stage under way.
    pub stage: usize,
    /// Steps done in it.
    pub step: usize,
    /// Steps of the stages before it.
    #[serde(default)]
    pub steps_before: Vec<usize>,
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
    pub phase_s: PhaseSeconds,
    /// The mean of the part `accuracy` over the splits of the run's newest evaluation, for rewards that go by it.
    #[serde(default)]
    pub accuracy: Option<f64>,
    /// Coefficients that the stage adapts.
    #[serde(default)]
    pub coefs: Coefficients,
    /// Updates of the policy since the run began: the version of its weights.
    #[serde(default)]
    pub policy_version: u64,
}

/// Seconds by what they were spent on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PhaseSeconds {
    /// Sampling.
    pub rollout: f64,
    /// Judging; it runs beside sampling, so that its seconds may be in those of sampling too.
    pub reward: f64,
    /// Updates.
    pub train: f64,
    /// Evaluations.
    pub eval: f64,
}

impl std::ops::AddAssign for PhaseSeconds {
    fn add_assign(&mut self, more: Self) {
        self.rollout += more.rollout;
        self.reward += more.reward;
        self.train += more.train;
        self.eval += more.eval;
    }
}

/// Coefficients that a stage moves as it goes; none where it does not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Coefficients {
    /// Of the divergence from the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// Of the entropy bonus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy: Option<f64>,
    /// The running mean of rewards, of MPO and BCO.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward_shift: Option<f64>,
    /// Of how many rewards BCO's is the mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward_count: Option<u64>,
}

/// An evaluation that a stage has had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluated {
    /// Steps of the stage before it.
    pub step: usize,
    /// Its settings, as [`EvalRules::settings`](crate::EvalRules::settings) says them.
    pub settings: String,
}
