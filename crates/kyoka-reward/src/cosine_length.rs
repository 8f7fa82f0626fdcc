//! Length reward along a cosine.

use kyoka_core::{Completion, Reward, RewardContext, RewardError, RewardFn, Sample, UnfitRow};

/// The cosine length reward (arXiv 2502.03373, appendix C.1): with `y` the length, `L` the limit and
/// `c = cos(pi min(y / L, 1))`, a right answer earns `min_correct + (max_correct - min_correct) (1 + c) / 2`, best
/// when short; a wrong one `max_wrong + (min_wrong - max_wrong) (1 + c) / 2`, worst when short, so that thinking on is
/// worth it.
///
/// Right is what another reward says of the answer, or that it is above 0.
pub struct CosineLength<R> {
    /// Says whether the answer is right.
    pub accuracy: R,
    /// Reward of a wrong answer of no length. Default -1.
    pub min_wrong: f32,
    /// Reward of a wrong answer at the limit. Default -0.5.
    pub max_wrong: f32,
    /// Reward of a right answer at the limit. Default 0.5.
    pub min_correct: f32,
    /// Reward of a right answer of no length. Default 1.
    pub max_correct: f32,
}

impl<R> CosineLength<R> {
    /// The paper's values.
    pub fn new(accuracy: R) -> Self {
        Self { accuracy, min_wrong: -1.0, max_wrong: -0.5, min_correct: 0.5, max_correct: 1.0 }
    }

    /// The reward of `tokens` under a limit.
    pub fn reward(&self, tokens: usize, limit: usize, correct: bool) -> f32 {
        let progress = (tokens as f64 / limit.max(1) as f64).min(1.0);
        let share = (1.0 + (std::f64::consts::PI * progress).cos()) / 2.0;
        let (at_limit, at_start) =
            if correct { (self.min_correct, self.max_correct) } else { (self.max_wrong, self.min_wrong) };
        (f64::from(at_limit) + (f64::from(at_start) - f64::from(at_limit)) * share) as f32
    }
}

impl<R: RewardFn> RewardFn for CosineLength<R> {
    fn name(&self) -> &str {
        "cosine_length"
    }

    fn concurrency(&self) -> usize {
        self.accuracy.concurrency()
    }

    fn check_sample(&self, sample: &Sample) -> Result<(), UnfitRow> {
        self.accuracy.check_sample(sample)
    }

    /// Ungraded where the answer is.
    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let judged = self.accuracy.score(context, completion)?;
        if judged.total.is_none() {
            return Ok(judged);
        }
        let reward = self.reward(completion.token_spans.len(), completion.max_new_tokens, judged.is_right());
        Ok(Reward::graded(self.name(), reward))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_is_best_when_right_and_worst_when_wrong() {
        let rule = CosineLength::new(());
        let at = |tokens, correct| rule.reward(tokens, 100, correct);
        assert_eq!([at(0, true), at(50, true), at(100, true), at(500, true)], [1.0, 0.75, 0.5, 0.5]);
        assert_eq!([at(0, false), at(50, false), at(100, false)], [-1.0, -0.75, -0.5]);
    }
}
