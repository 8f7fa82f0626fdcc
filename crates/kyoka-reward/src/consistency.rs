//! Does the answer say what the reasoning ends with?

use kyoka_core::{Completion, OwnSettings, Reward, RewardContext, RewardError, RewardFn};
use serde::{Deserialize, Serialize};

use crate::{
    AnswerPlace,
    accuracy::is_tag,
    answer_place::end_of,
    choice_answer::{chosen, options},
    numbers::{Commas, numbers},
    quantity::Quantity,
    sections::{think, unboxed},
    text::normal,
};

/// 1 if the answer says what the reasoning came to; else 0, also where one of them is missing. It needs no answer of the row: beside
/// a rule for the answer it keeps the policy from reasoning one way and answering another.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Consistency {
    /// What is compared. Default `text`.
    pub by: Conclusion,
    /// Where the answer stands. Default `tag`.
    #[serde(skip_serializing_if = "is_tag")]
    pub answer: AnswerPlace,
}

/// What a reasoning ends with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    /// Its last line has the answer's words, one after the other.
    #[default]
    Text,
    /// The last number of its last 16 KiB is the answer.
    Number,
    /// The choice that its last line names is the answer's, as `choice_answer` reads both.
    Choice,
}

impl OwnSettings for Consistency {}

/// Words in one spelling, each between two spaces.
fn words(text: &str) -> String {
    let bare = |letter: char| if letter.is_alphanumeric() { letter } else { ' ' };
    let plain: String = normal(text).chars().map(bare).collect();
    format!(" {} ", plain.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn last_number(text: &str) -> Option<Quantity> {
    Quantity::read(&text[numbers(text, Commas::OfLists).pop()?])
}

impl Consistency {
    fn agrees(&self, context: &RewardContext<'_>, completion: &Completion) -> Option<bool> {
        let answer = unboxed(self.answer.find(completion)?);
        let reasoning = end_of(&completion.text[think(completion).pop()?]);
        let last_line = || reasoning.lines().rev().find(|line| !line.trim().is_empty());
        Some(match self.by {
            Conclusion::Text => {
                let answer = words(answer);
                !answer.trim().is_empty() && words(last_line()?).contains(&answer)
            }
            Conclusion::Number => last_number(reasoning)?.meets(&last_number(answer)?, 1e-6),
            Conclusion::Choice => {
                let options = options(context.sample);
                chosen(last_line()?, &options)? == chosen(answer, &options)?
            }
        })
    }
}

impl RewardFn for Consistency {
    fn name(&self) -> &str {
        "consistency"
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let agrees = self.agrees(context, completion).unwrap_or(false);
        Ok(Reward::graded(self.name(), f32::from(agrees)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sections::tests_support::{completion, sample};

    fn total(by: Conclusion, text: &str) -> Option<f32> {
        let rule = Consistency { by, ..Consistency::default() };
        rule.score(&RewardContext::of(&sample(None, &[])), &completion(text)).unwrap().total
    }

    #[test]
    fn answers_agree_with_what_the_reasoning_came_to() {
        for (by, text, expected) in [
            (
                Conclusion::Text,
                "<think> a cup\nSo it is the Red cup. </think> <answer> red cup </answer>",
                1.0,
            ),
            (
                Conclusion::Text,
                "<think> a red cup\nSo it is a plate. </think> <answer> red cup </answer>",
                0.0,
            ),
            (Conclusion::Text, "<think> so it is predicted </think> <answer> red </answer>", 0.0),
            (Conclusion::Text, "<think> so </think> <answer> </answer>", 0.0),
            (Conclusion::Text, "<answer> red </answer>", 0.0),
            (Conclusion::Text, "<think> red </think>", 0.0),
            (Conclusion::Number, "<think> 3 + 4, that is 7 in all </think> <answer> 7.0 cups </answer>", 1.0),
            (Conclusion::Number, "<think> 3 + 4 = 7 </think> <answer> 8 </answer>", 0.0),
            (Conclusion::Number, "<think> some </think> <answer> 8 </answer>", 0.0),
            (Conclusion::Choice, "<think> A? No.\nThe answer is (B). </think> <answer> B </answer>", 1.0),
            (Conclusion::Choice, "<think> The answer is (B). </think> <answer> (C) </answer>", 0.0),
        ] {
            assert_eq!(total(by, text), Some(expected), "{text}");
        }
    }
}
