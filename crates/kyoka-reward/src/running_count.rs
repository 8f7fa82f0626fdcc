//! Does the reasoning count rightly what it names itself?

use kyoka_core::{Completion, OwnSettings, Reward, RewardContext, RewardError, RewardFn, StepVerdict};
use serde::{Deserialize, Serialize};

use crate::sections::reasoning_words;

/// Checks a running count against the completion's own words; no label is needed.
///
/// The first word of the reasoning is the thing to count. After every further word stands a number: right if it is how
/// often the thing was named among the further words so far. The value is the share of further words followed by the
/// right number; every number gets a verdict at its tokens, and a word followed by none gets a wrong one at the word.
/// A completion that names nothing to count scores 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunningCount {}

impl OwnSettings for RunningCount {}

impl RewardFn for RunningCount {
    fn name(&self) -> &str {
        "running_count"
    }

    fn score(&self, _: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let words = reasoning_words(completion);
        let is_number = |word: &str| word.parse::<f64>().is_ok();
        let mut steps = Vec::new();
        let (mut named, mut count, mut right) = (0, 0_usize, 0);
        let rest = words.get(1..).unwrap_or_default();
        for (place, (word, word_tokens)) in rest.iter().enumerate().filter(|(_, (word, _))| !is_number(word))
        {
            count += usize::from(*word == words[0].0);
            let number = rest.get(place + 1).filter(|(next, _)| is_number(next));
            let good = number.is_some_and(|(number, _)| *number == count.to_string());
            right += usize::from(good);
            if let Some(tokens) = number.map_or(word_tokens, |(_, tokens)| tokens).clone() {
                steps.push(StepVerdict { rule: 0, step: named, tokens, value: f32::from(good) });
            }
            named += 1;
        }
        let value = right as f32 / named.max(1) as f32;
        Ok(Reward {
            total: Some(value),
            parts: vec![(self.name().to_owned(), value)],
            steps,
            ..Reward::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sections::tests_support::{completion, sample};

    fn score(text: &str) -> (f32, Vec<(usize, usize, f32)>) {
        let sample = sample(None, &[]);
        let reward = RunningCount {}.score(&RewardContext::of(&sample), &completion(text)).unwrap();
        (reward.total.unwrap(), reward.steps.iter().map(|v| (v.step, v.tokens.start, v.value)).collect())
    }

    #[test]
    fn numbers_are_held_against_the_words_before_them() {
        let (value, verdicts) = score("<think> coat shirt 0 coat 1 coat 1 bag 2 </think>");
        assert_eq!(value, 0.75);
        assert_eq!(verdicts, [(0, 3, 1.0), (1, 5, 1.0), (2, 7, 0.0), (3, 9, 1.0)]);
    }

    #[test]
    fn a_word_without_a_number_is_wrong_and_nothing_named_is_worth_nothing() {
        assert_eq!(score("<think> coat bag coat 1 </think>").1, [(0, 2, 0.0), (1, 4, 1.0)]);
        assert_eq!(score("<think> coat </think>"), (0.0, vec![]));
        assert_eq!(score(""), (0.0, vec![]));
    }
}
