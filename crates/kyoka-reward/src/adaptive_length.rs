//! Length that costs more where the question is easy.

use kyoka_core::{Completion, Reward, RewardContext, RewardError, RewardFn, Sample, UnfitRow};

/// The adaptive length penalty (ALP, arXiv 2506.05256): `-(y / L) max(p, 1 / K)`, with `y` the length, `L` the limit, `K` the
/// completions of the question and `p` the share of them that is right. A question that all of them answer is worth few tokens;
/// one that hardly any answers may be thought about at length. The paper's coefficient is the reward's weight, its length in
/// units of the limit here.
///
/// Right is what another reward says of the answer, or that it is above 0. A completion of which that reward can say nothing is ungraded, and
/// not counted.
pub struct AdaptiveLength<R> {
    /// Says whether an answer is right.
    pub accuracy: R,
}

impl<R: RewardFn> RewardFn for AdaptiveLength<R> {
    fn name(&self) -> &str {
        "adaptive_length"
    }

    fn concurrency(&self) -> usize {
        self.accuracy.concurrency()
    }

    fn check_sample(&self, sample: &Sample) -> Result<(), UnfitRow> {
        self.accuracy.check_sample(sample)
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
        let verdicts = self.accuracy.judge(context, completions)?;
        let graded: Vec<&Reward> = verdicts.iter().filter(|reward| reward.total.is_some()).collect();
        let right = graded.iter().filter(|reward| reward.is_right()).count();
        let share = right.max(1) as f32 / graded.len().max(1) as f32;
        let one = |(completion, verdict): (&Completion, Reward)| match verdict.total {
            None => verdict,
            Some(_) => {
                let length = completion.token_spans.len() as f32 / completion.max_new_tokens.max(1) as f32;
                Reward::graded(self.name(), -length.min(1.0) * share)
            }
        };
        Ok(completions.iter().zip(verdicts).map(one).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ExactAnswer,
        sections::tests_support::{completion, sample},
    };

    #[test]
    fn an_easy_question_makes_length_dear() {
        let rule = AdaptiveLength { accuracy: ExactAnswer::default() };
        let row = sample(Some("2"), &[]);
        // Of 1 and 4 words under a limit of 32.
        let (right, wrong) = (completion("<answer>2</answer>"), completion("<answer>3</answer> a b c"));
        let of = |group: &[&Completion]| -> Vec<f32> {
            let group: Vec<Completion> = group.iter().map(|one| (*one).clone()).collect();
            let rewards = rule.judge(&RewardContext::of(&row), &group).unwrap();
            rewards.iter().map(|reward| reward.total.unwrap()).collect()
        };
        assert_eq!(of(&[&right, &right]), [-1.0 / 32.0; 2]);
        assert_eq!(of(&[&right, &wrong]), [-0.5 / 32.0, -0.5 * 4.0 / 32.0]);
        assert_eq!(of(&[&wrong, &wrong, &wrong, &wrong]), [-0.25 * 4.0 / 32.0; 4], "as if one were right");
    }
}
