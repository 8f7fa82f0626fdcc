//! Several rewards as one.

use kyoka_core::{
    Completion, Reward, RewardContext, RewardError, RewardFn, RewardProgress, Sample, SettingsFault,
    StepVerdict, UnfitRow,
};
use serde::{Deserialize, Serialize};

/// How a rule counts in a sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Weight {
    /// By a number, which is finite; 0 logs the parts and passes step verdicts on without moving the total.
    Fixed(f32),
    /// By a number that changes as training goes on.
    Schedule(WeightSchedule),
    /// Not as a term: its value, in [0, 1], multiplies the sum of all the others. Where it is 0 nothing is earned; a sum below 0 is then
    /// 0 too.
    Gate,
}

impl From<f32> for Weight {
    fn from(weight: f32) -> Self {
        Self::Fixed(weight)
    }
}

/// A weight that goes from one number to another while something grows: from a simulator's partial reward to a learned one, say.
///
/// ```
/// use kyoka_core::RewardProgress;
/// use kyoka_reward::{ScheduleBy, WeightSchedule};
///
/// let fading = WeightSchedule { from: 1.0, to: 0.0, start: 0.2, end: 0.6, by: ScheduleBy::Steps };
/// let at = |step| fading.at(RewardProgress { step, total_steps: 10, accuracy: None });
/// assert_eq!([at(0), at(2), at(4), at(6), at(9)], [1.0, 1.0, 0.5, 0.0, 0.0]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightSchedule {
    /// The weight up to `start`, a finite number.
    pub from: f32,
    /// The weight from `end` on, a finite number.
    pub to: f32,
    /// Where it begins to change, in [0, 1]. Default 0.
    #[serde(default)]
    pub start: f64,
    /// Where it has changed, above `start` and at most 1. Default 1.
    #[serde(default = "one")]
    pub end: f64,
    /// What grows from 0 to 1. Default `steps`.
    #[serde(default)]
    pub by: ScheduleBy,
}

/// What a schedule goes by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleBy {
    /// The share of the stage's steps that is done; 1 in an evaluation.
    #[default]
    Steps,
    /// The part `accuracy` of the run's newest evaluation; 0 before the first one. In an evaluation it is 1, so that all of them
    /// measure the same.
    Accuracy,
}

fn one() -> f64 {
    1.0
}

impl WeightSchedule {
    /// Checks the ranges that the fields name.
    ///
    /// # Errors
    /// Names the field, its range and the value.
    pub fn check(&self) -> Result<(), SettingsFault> {
        SettingsFault::unless(self.from.is_finite(), "from", "a finite number", self.from)?;
        SettingsFault::unless(self.to.is_finite(), "to", "a finite number", self.to)?;
        SettingsFault::unless((0.0..1.0).contains(&self.start), "start", "a number in [0, 1)", self.start)?;
        let expected = format!("a number above start = {} and at most 1", self.start);
        SettingsFault::unless(self.end > self.start && self.end <= 1.0, "end", &expected, self.end)
    }

    /// The weight at a place of training.
    pub fn at(&self, progress: RewardProgress) -> f32 {
        let grown = match self.by {
            ScheduleBy::Accuracy if progress.total_steps > 0 => progress.accuracy.unwrap_or(0.0),
            ScheduleBy::Steps | ScheduleBy::Accuracy => progress.share(),
        };
        let share = ((grown - self.start) / (self.end - self.start)).clamp(0.0, 1.0);
        (f64::from(self.from) + (f64::from(self.to) - f64::from(self.from)) * share) as f32
    }
}

impl Weight {
    /// Its number at a place of training; `None` for a gate.
    fn at(self, progress: RewardProgress) -> Option<f32> {
        match self {
            Self::Fixed(weight) => Some(weight),
            Self::Schedule(schedule) => Some(schedule.at(progress)),
            Self::Gate => None,
        }
    }
}

/// The weighted sum of rules, times the gates; all their parts and step verdicts are kept.
///
/// If a gate, or a rule with a weight other than 0, leaves a completion ungraded, the sum is ungraded. Rules that move it are the
/// terms of the sum.
pub struct WeightedSum {
    rules: Vec<(Weight, Box<dyn RewardFn>)>,
}

impl WeightedSum {
    /// Combines rules with their weights, numbers or [`Weight`]s.
    ///
    /// # Panics
    /// If a weight is not finite, or there is no rule but gates.
    pub fn new<W: Into<Weight>>(rules: Vec<(W, Box<dyn RewardFn>)>) -> Self {
        let rules: Vec<(Weight, _)> = rules.into_iter().map(|(weight, rule)| (weight.into(), rule)).collect();
        let finite = |weight: &Weight| match weight {
            Weight::Fixed(weight) => weight.is_finite(),
            Weight::Schedule(schedule) => schedule.check().is_ok(),
            Weight::Gate => true,
        };
        assert!(
            rules.iter().any(|(weight, _)| *weight != Weight::Gate),
            "weighted sum: expected at least one rule, got none"
        );
        assert!(rules.iter().all(|(weight, _)| finite(weight)), "weighted sum: expected finite weights");
        Self { rules }
    }

    fn rules(&self) -> impl Iterator<Item = &dyn RewardFn> {
        self.rules.iter().map(|(_, rule)| &**rule)
    }
}

impl RewardFn for WeightedSum {
    fn name(&self) -> &str {
        "total"
    }

    fn part_names(&self) -> Vec<&str> {
        self.rules().flat_map(RewardFn::part_names).collect()
    }

    /// As many as the rule that waits the most wants.
    fn concurrency(&self) -> usize {
        self.rules().map(RewardFn::concurrency).max().unwrap_or(1)
    }

    fn counters(&self) -> Vec<(String, f64)> {
        self.rules().flat_map(RewardFn::counters).collect()
    }

    /// A row must suit every rule, also one that moves nothing: it is judged and logged all the same.
    fn check_sample(&self, sample: &Sample) -> Result<(), UnfitRow> {
        self.rules().try_for_each(|rule| rule.check_sample(sample))
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
        let mut gates = vec![Some(1.0_f32); completions.len()];
        for (index, (weight, rule)) in self.rules.iter().enumerate() {
            // Each rule is looked at under its own name: the sum of what is missing is a number too.
            let rewards = rule.judge(context, completions)?;
            let number = weight.at(context.progress);
            for ((sum, gate), reward) in sums.iter_mut().zip(&mut gates).zip(rewards) {
                match number {
                    Some(number) => add(sum, index, number, reward),
                    None => {
                        if let Some(got) = reward.total.filter(|value| !(0.0..=1.0).contains(value)) {
                            let (reward, id) = (rule.name().to_owned(), context.sample.id.clone());
                            return Err(RewardError::Gate { reward, id, got });
                        }
                        *gate = gate.zip(reward.total).map(|(gate, value)| gate * value);
                        keep(sum, index, reward);
                    }
                }
            }
        }
        for (sum, gate) in sums.iter_mut().zip(gates) {
            sum.total = sum.total.zip(gate).map(|(total, gate)| total * gate);
            sum.terms.iter_mut().for_each(|(_, value)| *value *= gate.unwrap_or(1.0));
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
    keep(sum, index, reward);
}

/// Keeps all of a reward that is no number of the sum.
fn keep(sum: &mut Reward, index: usize, reward: Reward) {
    sum.parts.extend(reward.parts);
    sum.right = sum.right.or(reward.right);
    sum.fault = sum.fault.take().or(reward.fault);
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

    fn judged(rules: Vec<(Weight, Box<dyn RewardFn>)>, progress: RewardProgress) -> Reward {
        let sample = sample(None, &[]);
        let context = RewardContext { sample: &sample, progress };
        WeightedSum::new(rules).judge(&context, &[completion("x")]).unwrap().remove(0)
    }

    #[test]
    fn a_gate_lets_the_sum_through_or_does_not() {
        let fixed = |value| Box::new(Fixed(value)) as Box<dyn RewardFn>;
        let gated = |gates: &[Option<f32>]| {
            let gates = gates.iter().map(|&gate| (Weight::Gate, fixed(gate)));
            let rules = gates
                .chain([(Weight::Fixed(2.0), fixed(Some(1.0))), (Weight::Fixed(1.0), fixed(Some(-0.5)))]);
            let reward = judged(rules.collect(), RewardProgress::default());
            (reward.total, reward.terms)
        };
        assert_eq!(gated(&[Some(1.0)]), (Some(1.5), vec![(2.0, 1.0), (1.0, -0.5)]));
        assert_eq!(gated(&[Some(0.5), Some(0.5)]), (Some(0.375), vec![(2.0, 0.25), (1.0, -0.125)]));
        assert_eq!(gated(&[Some(0.0)]).0, Some(0.0));
        assert_eq!(gated(&[Some(1.0), None]).0, None, "nothing can be said of what may not pass");
        let sample = sample(None, &[]);
        let rules = vec![(Weight::Gate, fixed(Some(-1.0))), (Weight::Fixed(1.0), fixed(Some(-1.0)))];
        let refused =
            WeightedSum::new(rules).judge(&RewardContext::of(&sample), &[completion("x")]).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "reward fixed: row r1: expected a number in [0, 1] of a gate, got -1"
        );
        let alone = std::panic::catch_unwind(|| {
            WeightedSum::new(vec![(Weight::Gate, Box::new(Fixed(None)) as Box<dyn RewardFn>)])
        });
        assert!(alone.is_err(), "a gate of nothing");
    }

    #[test]
    fn weights_follow_steps_or_accuracy() {
        let schedule = |by| WeightSchedule { from: 1.0, to: 0.0, start: 0.5, end: 1.0, by };
        let total = |by, progress| {
            let rule = Box::new(Fixed(Some(1.0))) as Box<dyn RewardFn>;
            judged(vec![(Weight::Schedule(schedule(by)), rule)], progress).total
        };
        let at = |step, accuracy| RewardProgress { step, total_steps: 4, accuracy };
        assert_eq!(
            [0, 2, 3, 4].map(|step| total(ScheduleBy::Steps, at(step, None))),
            [1.0, 1.0, 0.5, 0.0].map(Some)
        );
        let accuracies = [None, Some(0.4), Some(0.75), Some(1.0)];
        assert_eq!(
            accuracies.map(|now| total(ScheduleBy::Accuracy, at(4, now))),
            [1.0, 1.0, 0.5, 0.0].map(Some)
        );
        for by in [ScheduleBy::Steps, ScheduleBy::Accuracy] {
            assert_eq!(
                total(by, RewardProgress::default()),
                Some(0.0),
                "an evaluation measures as at the end"
            );
        }
        // What counts nothing now leaves nothing ungraded.
        let silent = Box::new(Fixed(None)) as Box<dyn RewardFn>;
        let rules = vec![(Weight::Schedule(schedule(ScheduleBy::Steps)), silent)];
        assert_eq!(judged(rules, at(4, None)).total, Some(0.0));
        let wrong = WeightSchedule { end: 0.5, ..schedule(ScheduleBy::Steps) };
        assert_eq!(
            wrong.check().unwrap_err().to_string(),
            "end: expected a number above start = 0.5 and at most 1, got 0.5"
        );
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
