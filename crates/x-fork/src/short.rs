//! A reward: 1 for a completion of few letters.

use kyoka::core::{Completion, Reward, RewardContext, RewardError, RewardFn};
use serde::Deserialize;

/// 1 for a completion of at most so many letters, else the share of them that it may have.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Short {
    /// Letters of a completion that costs nothing.
    pub letters: usize,
}

impl RewardFn for Short {
    fn name(&self) -> &str {
        "short"
    }

    fn score(&self, _: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let letters = completion.text.chars().count().max(self.letters).max(1);
        Ok(Reward::graded(self.name(), self.letters as f32 / letters as f32))
    }
}
