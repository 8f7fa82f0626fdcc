//! An environment: a wrong answer is met with the row's pictures and sounds once more.

use kyoka::core::{Action, Answer, Environment, EnvironmentError, EnvironmentFactory, Part, Sample};
use serde::Deserialize;

/// Shows again what was asked about, until the answer is right. Each turn costs a little.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Again {
    /// What a turn costs.
    pub cost: f32,
    #[serde(skip)]
    row: Sample,
}

impl EnvironmentFactory for Again {
    fn open(&self) -> Result<Box<dyn Environment>, EnvironmentError> {
        Ok(Box::new(self.clone()))
    }
}

impl Environment for Again {
    fn reset(&mut self, row: &Sample, _seed: u64) -> Result<Vec<Part>, EnvironmentError> {
        self.row.clone_from(row);
        Ok(Vec::new())
    }

    fn step(&mut self, action: &Action<'_>) -> Result<Answer, EnvironmentError> {
        let done = self.row.answers().iter().any(|answer| action.text.contains(answer.as_str()));
        Ok(Answer { parts: self.row.parts().cloned().collect(), reward: Some(-self.cost), done })
    }
}
