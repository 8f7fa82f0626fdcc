//! The score of a reward model.

use kyoka_core::{Completion, ModelScore, Reward, RewardContext, RewardError, RewardFn, ScoreCompletion};

/// The score of a reward model, less what its members disagree by: `value - uncertainty_coef * deviation`, so that a policy gains
/// nothing where nobody has judged much like what it writes. Algorithms that compare completions need no scale. One version of
/// the model scores all completions of a prompt.
pub struct Learned {
    model: Box<dyn ScoreCompletion>,
    uncertainty_coef: f32,
}

impl Learned {
    /// A reward of a model's scores; `uncertainty_coef` is at least 0.
    pub fn new(model: Box<dyn ScoreCompletion>, uncertainty_coef: f32) -> Self {
        Self { model, uncertainty_coef }
    }
}

impl RewardFn for Learned {
    fn name(&self) -> &str {
        "learned"
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let rewards = self.score_group(context, std::slice::from_ref(completion))?;
        Ok(rewards.into_iter().next().expect("one reward a completion"))
    }

    fn score_group(
        &self,
        context: &RewardContext<'_>,
        completions: &[Completion],
    ) -> Result<Vec<Reward>, RewardError> {
        let scores = self.model.scores(context.sample, completions)?;
        let reward = |ModelScore { value, deviation }| {
            let value = value - self.uncertainty_coef * deviation.unwrap_or(0.0);
            let mut reward = Reward::graded(self.name(), value);
            let apart = deviation.map(|deviation| (format!("{}.deviation", self.name()), deviation));
            reward.parts.extend(apart);
            reward
        };
        Ok(scores.into_iter().map(reward).collect())
    }
}

#[cfg(test)]
mod tests {
    use kyoka_core::Sample;

    use super::*;

    /// Scores as they stand here.
    struct Given(Vec<ModelScore>);
    impl ScoreCompletion for Given {
        fn scores(&self, _: &Sample, _: &[Completion]) -> Result<Vec<ModelScore>, RewardError> {
            Ok(self.0.clone())
        }
    }

    #[test]
    fn what_members_disagree_about_is_worth_less() {
        let scores =
            vec![ModelScore { value: 2.0, deviation: Some(0.5) }, ModelScore { value: 2.0, deviation: None }];
        let row = Sample::default();
        let completions = [Completion::default(), Completion::default()];
        let rewards =
            Learned::new(Box::new(Given(scores)), 2.0).judge(&RewardContext::of(&row), &completions).unwrap();
        assert_eq!((rewards[0].total, rewards[0].part("learned.deviation")), (Some(1.0), Some(0.5)));
        assert_eq!((rewards[1].total, rewards[1].part("learned.deviation")), (Some(2.0), None));
    }
}
