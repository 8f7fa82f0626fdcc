//! The score of a reward model.

use kyoka_core::{Completion, Reward, RewardContext, RewardError, RewardFn, ScoreCompletion};

/// The score of a reward model as it is; algorithms that compare completions need no scale. One version of the model scores
/// all completions of a prompt.
pub struct Learned {
    model: Box<dyn ScoreCompletion>,
}

impl Learned {
    /// A reward of a model's scores.
    pub fn new(model: Box<dyn ScoreCompletion>) -> Self {
        Self { model }
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
        Ok(scores.into_iter().map(|score| Reward::graded(self.name(), score)).collect())
    }
}
