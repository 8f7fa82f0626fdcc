//! Is the right number of things told?

use kyoka_core::{Completion, OwnSettings, Reward, RewardContext, RewardError, RewardFn, Sample, UnfitRow};
use serde::{Deserialize, Serialize};

use crate::{
    AnswerPlace,
    accuracy::{golds, has_answer, is_tag},
    numbers::{Commas, numbers},
    quantity::Quantity,
    sections::unboxed,
    text::normal,
};

/// 1 if the answer is the row's count, in digits or as a word up to twenty; else 0, or with `partial` less the further it is off:
/// `max(0, 1 - |given - right| / max(right, 1))`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SaidCount {
    /// Whether a near miss earns something. Default false.
    pub partial: bool,
    /// Where the answer stands. Default `tag`.
    #[serde(skip_serializing_if = "is_tag")]
    pub answer: AnswerPlace,
}

impl OwnSettings for SaidCount {}

const WORDS: [&str; 21] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];

/// Words that make another number of the one before them.
const MULTIPLES: [&str; 6] = ["hundred", "thousand", "million", "billion", "dozen", "half"];

/// The whole number that a text tells; `None` if it tells none, or several.
fn count(text: &str) -> Option<f64> {
    let text = normal(unboxed(text));
    let words = || text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
    if words().any(|word| MULTIPLES.iter().any(|name| word.trim_end_matches('s') == *name)) {
        return None;
    }
    let whole = |number: f64| (number.fract() == 0.0 && number >= 0.0).then_some(number);
    if let Some(number) = Quantity::read(&text) {
        return whole(number.value());
    }
    let named = words().filter_map(|word| WORDS.iter().position(|name| *name == word));
    let digits = numbers(&text, Commas::OfLists).into_iter();
    let digits = digits.map(|place| Quantity::read(&text[place]).map_or(f64::NAN, |number| number.value()));
    let mut told = named.map(|number| number as f64).chain(digits);
    let first = whole(told.next()?)?;
    told.all(|other| other == first).then_some(first)
}

impl RewardFn for SaidCount {
    fn name(&self) -> &str {
        "accuracy"
    }

    fn check_sample(&self, sample: &Sample) -> Result<(), UnfitRow> {
        has_answer("count_answer", sample)?;
        match sample.answers().iter().find(|gold| count(gold).is_none()) {
            None => Ok(()),
            Some(gold) => Err(UnfitRow {
                field: "answer",
                reason: format!(
                    "expected a whole number of at least 0 for the reward count_answer, got {gold:?}"
                ),
            }),
        }
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let golds: Vec<f64> = golds(self.name(), context)?.iter().filter_map(|gold| count(gold)).collect();
        if golds.is_empty() {
            return Ok(Reward::ungraded());
        }
        let Some(given) = self.answer.find(completion).and_then(count) else {
            return Ok(Reward::answered(self.name(), false));
        };
        let near = |right: &f64| (1.0 - (given - right).abs() / right.max(1.0)).max(0.0) as f32;
        let right = golds.contains(&given);
        if right || !self.partial {
            return Ok(Reward::answered(self.name(), right));
        }
        let value = golds.iter().map(near).fold(0.0, f32::max);
        Ok(Reward { right: Some(false), ..Reward::graded(self.name(), value) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sections::tests_support::{completion, sample};

    #[test]
    fn counts_in_digits_and_words_and_near_misses() {
        let total = |gold: &str, text: &str, partial: bool| {
            let rule = SaidCount { partial, ..SaidCount::default() };
            rule.score(&RewardContext::of(&sample(Some(gold), &[])), &completion(text)).unwrap().total
        };
        for right in ["4", "four", "Four cups", "4 cups", "There are 4.", "4.0"] {
            assert_eq!(total("4", &format!("<answer>{right}</answer>"), false), Some(1.0), "{right}");
        }
        for right in ["1,024", "There are 1,024.", "1024 cups"] {
            assert_eq!(total("1024", &format!("<answer>{right}</answer>"), false), Some(1.0), "{right}");
        }
        for wrong in [
            "5",
            "",
            "4.5",
            "four or five",
            "-4",
            "many",
            "four hundred",
            "4 million",
            "There are -4",
            "4 dozens",
        ] {
            assert_eq!(total("4", &format!("<answer>{wrong}</answer>"), false), Some(0.0), "{wrong}");
        }
        assert_eq!(total("4", "<answer>5</answer>", true), Some(0.75));
        assert_eq!(total("0", "<answer>9</answer>", true), Some(0.0));
        assert!(SaidCount::default().check_sample(&sample(Some("some"), &[])).is_err());
    }
}
