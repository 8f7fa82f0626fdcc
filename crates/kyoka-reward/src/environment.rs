//! What an environment gave for the turns of a completion.

use kyoka_core::{Completion, OwnSettings, Reward, RewardContext, RewardError, RewardFn};
use serde::{Deserialize, Serialize};

/// The sum of what the turns were worth by themselves. Ungraded where the environment said so of none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentReward {}

impl OwnSettings for EnvironmentReward {}

impl RewardFn for EnvironmentReward {
    fn name(&self) -> &str {
        "environment"
    }

    fn score(&self, _: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let mut given = completion.turns.iter().filter_map(|turn| turn.reward).peekable();
        Ok(match given.peek() {
            Some(_) => Reward::graded(self.name(), given.sum()),
            None => Reward::ungraded(),
        })
    }
}

#[cfg(test)]
mod tests {
    use kyoka_core::{CompletedTurn, Sample};

    use super::*;

    #[test]
    fn turns_add_up_and_none_is_no_zero() {
        let sample = Sample::default();
        let total = |rewards: &[Option<f32>]| {
            let turns = rewards.iter().map(|&reward| CompletedTurn { tokens: 0..1, reward }).collect();
            let completion = Completion { turns, ..Completion::default() };
            EnvironmentReward {}.score(&RewardContext::of(&sample), &completion).unwrap().total
        };
        assert_eq!(total(&[Some(0.25), None, Some(0.5)]), Some(0.75));
        assert_eq!([total(&[]), total(&[None])], [None, None]);
    }
}
