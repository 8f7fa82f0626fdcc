//! A rule under another name.

use kyoka_core::{Completion, Reward, RewardContext, RewardError, RewardFn, Sample, UnfitRow};

/// A rule whose part is called otherwise in logs and reports: where one is used twice, each has a part of its own. Parts that a
/// rule reports under other names than its own, or that name and a point, keep theirs.
pub struct Named {
    name: String,
    rule: Box<dyn RewardFn>,
}

impl Named {
    /// A rule under a name.
    pub fn new(name: impl Into<String>, rule: Box<dyn RewardFn>) -> Self {
        Self { name: name.into(), rule }
    }

    fn renamed(&self, mut reward: Reward) -> Reward {
        for (part, _) in &mut reward.parts {
            // `program.tone` is a part of a part.
            if let Some(rest) =
                part.strip_prefix(self.rule.name()).filter(|rest| rest.is_empty() || rest.starts_with('.'))
            {
                *part = format!("{}{rest}", self.name);
            }
        }
        reward
    }
}

impl RewardFn for Named {
    fn name(&self) -> &str {
        &self.name
    }

    fn part_names(&self) -> Vec<&str> {
        let own = self.rule.name();
        self.rule.part_names().into_iter().map(|part| if part == own { &self.name } else { part }).collect()
    }

    fn concurrency(&self) -> usize {
        self.rule.concurrency()
    }

    fn counters(&self) -> Vec<(String, f64)> {
        let own = self.rule.name();
        let renamed = |(name, count): (String, f64)| match name.strip_prefix(own) {
            Some(rest) => (format!("{}{rest}", self.name), count),
            None => (name, count),
        };
        self.rule.counters().into_iter().map(renamed).collect()
    }

    fn check_sample(&self, sample: &Sample) -> Result<(), UnfitRow> {
        self.rule.check_sample(sample)
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        Ok(self.renamed(self.rule.score(context, completion)?))
    }

    fn score_group(
        &self,
        context: &RewardContext<'_>,
        completions: &[Completion],
    ) -> Result<Vec<Reward>, RewardError> {
        let rewards = self.rule.score_group(context, completions)?;
        Ok(rewards.into_iter().map(|reward| self.renamed(reward)).collect())
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
    fn a_rule_reports_under_its_name() {
        let sample = sample(Some("2"), &[]);
        let context = RewardContext::of(&sample);
        let (rule, text) =
            (Named::new("final", Box::new(ExactAnswer::default())), completion("<answer>2</answer>"));
        let plain = ExactAnswer::default().score(&context, &text).unwrap();
        let named = rule.judge(&context, std::slice::from_ref(&text)).unwrap().remove(0);
        assert_eq!((plain.part("accuracy"), named.part("final")), (Some(1.0), Some(1.0)));
        assert_eq!((named.part("accuracy"), named.right, named.total), (None, plain.right, plain.total));
        assert_eq!(rule.score(&context, &text).unwrap(), named);
    }
}
