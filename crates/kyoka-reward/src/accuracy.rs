//! Is the answer right?

use kyoka_core::{Completion, Reward, RewardContext, RewardError, RewardFn};

use crate::answer;

fn gold<'a>(reward: &str, context: &RewardContext<'a>) -> Result<&'a str, RewardError> {
    context.sample.answer.as_deref().map(str::trim).ok_or_else(|| RewardError::MissingField {
        reward: reward.to_owned(),
        id: context.sample.id.clone(),
        field: "answer",
    })
}

/// 1 if the `<answer>` section equals the row's answer, white space and letter case aside; else 0.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExactAnswer;

impl RewardFn for ExactAnswer {
    fn name(&self) -> &str {
        "accuracy"
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let gold = gold(self.name(), context)?;
        let same = |given: &str| given.split_whitespace().map(str::to_lowercase).eq(words(gold));
        let right = answer(&completion.text).is_some_and(same);
        Ok(Reward::graded(self.name(), f32::from(right)))
    }
}

fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split_whitespace().map(str::to_lowercase)
}

/// 1 if the `<answer>` section is a number within a relative tolerance of the row's answer; else 0.
///
/// Thousands separators are read (`1,024`); a row whose answer is no number is ungraded.
#[derive(Debug, Clone, Copy)]
pub struct NumericAnswer {
    /// Largest difference as a share of `max(1, |answer|)`. Default 1e-6.
    pub relative_tolerance: f64,
}

impl Default for NumericAnswer {
    fn default() -> Self {
        Self { relative_tolerance: 1e-6 }
    }
}

impl RewardFn for NumericAnswer {
    fn name(&self) -> &str {
        "accuracy"
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let Some(gold) = number(gold(self.name(), context)?) else { return Ok(Reward::ungraded()) };
        let close = |given: f64| (given - gold).abs() <= self.relative_tolerance * gold.abs().max(1.0);
        let right = answer(&completion.text).and_then(number).is_some_and(close);
        Ok(Reward::graded(self.name(), f32::from(right)))
    }
}

fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    let whole = text.split('.').next().unwrap_or_default();
    // A comma separates thousands: groups of three digits follow it.
    if whole.split(',').skip(1).any(|group| group.len() != 3) {
        return None;
    }
    text.replace(',', "").parse().ok().filter(|value: &f64| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sections::tests_support::{completion, sample};

    fn total(rule: &dyn RewardFn, gold: &str, text: &str) -> Option<f32> {
        let sample = sample(Some(gold), &[]);
        rule.score(&RewardContext { sample: &sample }, &completion(text)).unwrap().total
    }

    #[test]
    fn exact_answer_ignores_case_and_space_only() {
        assert_eq!(total(&ExactAnswer, "Ankle boot", "<answer>  ankle   BOOT </answer>"), Some(1.0));
        assert_eq!(total(&ExactAnswer, "2", "<answer> 22 </answer>"), Some(0.0));
        assert_eq!(total(&ExactAnswer, "2", "2"), Some(0.0));
    }

    #[test]
    fn numeric_answer_reads_separators_and_refuses_words() {
        let rule = NumericAnswer::default();
        assert_eq!(total(&rule, "1024", "<answer>1,024.0</answer>"), Some(1.0));
        assert_eq!(total(&rule, "12", "<answer>1,2</answer>"), Some(0.0));
        assert_eq!(total(&rule, "2", "<answer>two</answer>"), Some(0.0));
        assert_eq!(total(&rule, "2", "<answer>nan</answer>"), Some(0.0));
        assert_eq!(
            total(&rule, "two", "<answer>2</answer>"),
            None,
            "a gold that is no number cannot be judged"
        );
    }

    #[test]
    fn a_row_without_answer_is_an_error_not_a_zero() {
        let sample = sample(None, &[]);
        let error = ExactAnswer.score(&RewardContext { sample: &sample }, &completion("")).unwrap_err();
        assert_eq!(error.to_string(), "reward accuracy: row r1 has no answer");
    }
}
