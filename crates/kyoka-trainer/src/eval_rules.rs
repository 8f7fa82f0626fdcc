//! When a run is evaluated, and what is best.

use crate::EvalReport;

/// When a run is evaluated besides what its stages say, and what decides which checkpoint is best.
#[derive(Debug, Clone, Default)]
pub struct EvalRules {
    /// Evaluate before the first step of the run.
    pub at_start: bool,
    /// Split and part whose mean decides what is best. By default the total of the first split.
    pub best: Option<(String, String)>,
    /// The settings of evaluations as text. What was evaluated with others counts as not evaluated when a run is resumed,
    /// and a best value of others is forgotten.
    pub settings: String,
}

impl EvalRules {
    /// The mean that is watched, if the evaluation has it.
    pub(crate) fn watched(&self, splits: &[EvalReport]) -> Option<f64> {
        let Some((split, part)) = &self.best else {
            return splits.first()?.summary.part("total");
        };
        splits.iter().find(|report| report.summary.split == *split)?.summary.part(part)
    }
}
