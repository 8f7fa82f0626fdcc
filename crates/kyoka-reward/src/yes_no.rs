//! Is the question answered with the right one of yes and no?

use kyoka_core::{Completion, OwnSettings, Reward, RewardContext, RewardError, RewardFn, Sample, UnfitRow};
use serde::{Deserialize, Serialize};

use crate::{
    AnswerPlace,
    accuracy::{golds, has_answer, is_tag},
    sections::unboxed,
    text::normal,
};

/// 1 if the answer says yes where the row does, or no; else 0. `true`, `correct` and `right` are a yes, `false`, `incorrect`,
/// `wrong` and `not` a no; an answer that begins with neither and says both, or none, is wrong.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct YesNo {
    /// Where the answer stands. Default `tag`.
    #[serde(skip_serializing_if = "is_tag")]
    pub answer: AnswerPlace,
}

impl OwnSettings for YesNo {}

/// What a text says; `None` if it says both or neither.
fn said(text: &str) -> Option<bool> {
    let normal = normal(unboxed(text));
    let word = |word: &str| match word.trim_matches(|letter: char| !letter.is_alphanumeric()) {
        "yes" | "true" | "correct" | "right" => Some(true),
        "no" | "false" | "incorrect" | "wrong" | "not" => Some(false),
        _ => None,
    };
    let mut words = normal.split([' ', ',']);
    if let Some(first) = words.next().and_then(word) {
        return Some(first);
    }
    let mut all: Vec<bool> = words.filter_map(word).collect();
    all.dedup();
    match all[..] {
        [one] => Some(one),
        _ => None,
    }
}

impl RewardFn for YesNo {
    fn name(&self) -> &str {
        "accuracy"
    }

    fn check_sample(&self, sample: &Sample) -> Result<(), UnfitRow> {
        has_answer("yes_no_answer", sample)?;
        match sample.answers().iter().find(|gold| said(gold).is_none()) {
            None => Ok(()),
            Some(gold) => Err(UnfitRow {
                field: "answer",
                reason: format!("expected yes or no for the reward yes_no_answer, got {gold:?}"),
            }),
        }
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let golds = golds(self.name(), context)?;
        let given = self.answer.find(completion).and_then(said);
        let right = given.is_some_and(|given| golds.iter().any(|gold| said(gold) == Some(given)));
        Ok(Reward::answered(self.name(), right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_yes_is_a_yes() {
        for yes in ["Yes", "yes, it is.", "TRUE", "It is correct.", "\\boxed{Yes}", "true"] {
            assert_eq!(said(yes), Some(true), "{yes}");
        }
        for no in ["No.", "no, that is wrong", "false", "It is not.", "**No**"] {
            assert_eq!(said(no), Some(false), "{no}");
        }
        for neither in ["", "maybe", "it may be true or false", "nobody"] {
            assert_eq!(said(neither), None, "{neither}");
        }
        let row = Sample { answer: Some(true.into()), ..Sample::default() };
        assert!(YesNo::default().check_sample(&row).is_ok());
        let odd = Sample { answer: Some("2".into()), ..Sample::default() };
        assert!(YesNo::default().check_sample(&odd).unwrap_err().to_string().contains("expected yes or no"));
    }
}
