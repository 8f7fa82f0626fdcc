//! Several rewards as one.

use kyoka_core::{Completion, Reward, RewardContext, RewardError, RewardFn, Sample, StepVerdict, UnfitRow};

/// The weighted sum of rules; all their parts and step verdicts are kept.
///
/// If a rule with a weight other than 0 leaves a completion ungraded, the sum is ungraded. A weight of 0 logs the
/// parts and passes step verdicts on without moving the total. Rules that move it are the terms of the sum.
pub struct WeightedSum {
    rules: Vec<(f32, Box<dyn RewardFn>)>,
}

impl WeightedSum {
    /// Combines rules with their weights.
    ///
    /// # Panics
    /// If a weight is not finite or there is no rule.
    pub fn new(rules: Vec<(f32, Box<dyn RewardFn>)>) -> Self {
        assert!(!rules.is_empty(), "weighted sum: expected at least one rule, got none");
        assert!(rules.iter().all(|(weight, _)| weight.is_finite()), "weighted sum: expected finite weights");
        Self { rules }
    }

    /// Names of the parts that its rules report.
    pub fn part_names(&self) -> Vec<&str> {
        self.rules.iter().map(|(_, rule)| rule.name()).collect()
    }
}

impl RewardFn for WeightedSum {
    fn name(&self) -> &str {
        "total"
    }

    /// A row must suit every rule, also one that moves nothing: it is judged and logged all the same.
    fn check_sample(&self, sample: &Sample) -> Result<(), UnfitRow> {
        self.rules.iter().try_for_each(|(_, rule)| rule.check_sample(sample))
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
        let mut sums = vec![Reward { total: Some(0.0), ..Reward::default() }; completions.len()];
        for (index, (weight, rule)) in self.rules.iter().enumerate() {
            // Each rule is looked at under its own name: the sum of what is missing is a number too.
            for (sum, reward) in sums.iter_mut().zip(rule.judge(context, completions)?) {
                add(sum, index, *weight, reward);
            }
        }
        Ok(sums)
    }
}

/// Adds the reward of rule number `index`.
fn add(sum: &mut Reward, index: usize, weight: f32, reward: Reward) {
    if weight != 0.0 {
        sum.total = sum.total.zip(reward.total).map(|(sum, part)| sum + weight * part);
        sum.terms.extend(reward.total.map(|total| (weight, total)));
    }
    sum.parts.extend(reward.parts);
    sum.right = sum.right.or(reward.right);
    sum.steps.extend(reward.steps.into_iter().map(|verdict| StepVerdict { rule: index, ..verdict }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sections::tests_support::{completion, sample};

    struct Fixed(Option<f32>);
    impl RewardFn for Fixed {
        fn name(&self) -> &str {
            "fixed"
        }
        fn score(&self, _: &RewardContext<'_>, _: &Completion) -> Result<Reward, RewardError> {
            Ok(Reward { total: self.0, ..Reward::default() })
        }
    }

    fn sum(rules: &[(f32, Option<f32>)]) -> Result<Option<f32>, RewardError> {
        let rules = rules.iter().map(|&(w, v)| (w, Box::new(Fixed(v)) as Box<dyn RewardFn>)).collect();
        let sample = sample(None, &[]);
        Ok(WeightedSum::new(rules).score(&RewardContext::of(&sample), &completion("x"))?.total)
    }

    #[test]
    fn ungraded_parts_make_the_sum_ungraded_unless_their_weight_is_zero() {
        assert_eq!(sum(&[(1.0, Some(0.5)), (2.0, Some(0.25))]).unwrap(), Some(1.0));
        assert_eq!(sum(&[(1.0, Some(0.5)), (2.0, None)]).unwrap(), None);
        assert_eq!(sum(&[(1.0, Some(0.5)), (0.0, None)]).unwrap(), Some(0.5));
    }

    #[test]
    fn rules_that_move_the_total_are_its_terms() {
        let fixed = |value| Box::new(Fixed(Some(value))) as Box<dyn RewardFn>;
        let rules = WeightedSum::new(vec![(2.0, fixed(0.5)), (0.0, fixed(7.0)), (-1.0, fixed(0.25))]);
        let sample = sample(None, &[]);
        let reward = rules.score(&RewardContext::of(&sample), &completion("x")).unwrap();
        assert_eq!((reward.total, reward.terms), (Some(0.75), vec![(2.0, 0.5), (-1.0, 0.25)]));
    }

    #[test]
    fn a_row_must_suit_every_rule() {
        let exact = Box::new(crate::ExactAnswer::default()) as Box<dyn RewardFn>;
        let rules = WeightedSum::new(vec![(1.0, Box::new(Fixed(None))), (0.0, exact)]);
        assert!(rules.check_sample(&sample(Some("2"), &[])).is_ok());
        assert_eq!(rules.check_sample(&sample(None, &[])).unwrap_err().field, "answer");
    }

    /// Judges all completions but the last.
    struct Forgetful;
    impl RewardFn for Forgetful {
        fn name(&self) -> &str {
            "forgetful"
        }
        fn score(&self, _: &RewardContext<'_>, _: &Completion) -> Result<Reward, RewardError> {
            Ok(Reward::graded("forgetful", 1.0))
        }
        fn score_group(&self, _: &RewardContext<'_>, all: &[Completion]) -> Result<Vec<Reward>, RewardError> {
            Ok(vec![Reward::graded("forgetful", 1.0); all.len() - 1])
        }
    }

    #[test]
    fn a_rule_that_forgets_a_completion_is_named() {
        let rules = WeightedSum::new(vec![(1.0, Box::new(Fixed(Some(0.5)))), (1.0, Box::new(Forgetful))]);
        let sample = sample(None, &[]);
        let judged = rules.judge(&RewardContext::of(&sample), &[completion("x"), completion("y")]);
        let said = judged.unwrap_err().to_string();
        assert_eq!(said, "reward forgetful: row r1: expected 2 rewards, one a completion, got 1");
    }

    #[test]
    fn a_reward_that_is_not_finite_names_the_row() {
        let error = sum(&[(1.0, Some(f32::NAN))]).unwrap_err();
        assert_eq!(error.to_string(), "reward fixed: row r1: expected a finite number, got NaN");
    }
}
