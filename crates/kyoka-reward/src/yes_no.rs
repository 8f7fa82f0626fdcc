//! Is the question answered with the right one of yes and no?

use kyoka_core::{Completion, OwnSettings, Reward, RewardContext, RewardError, RewardFn, Sample, UnfitRow};
use serde::{Deserialize, Serialize};

use crate::{
    AnswerPlace,
    accuracy::{golds, has_answer, is_tag},
    sections::unboxed,
    text::normal,
};

/// 1 if the answer says yes where the row does, or no; else 0. Where neither word stands, `true`, `correct` and `right` are a yes,
/// `false`, `incorrect`, `wrong` and `not` a no. An answer that begins with neither and says both, or none, is wrong.
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
    let bare = |word: &'_ str| word.trim_matches(|letter: char| !letter.is_alphanumeric()).to_owned();
    let plain = |word: &str| match bare(word).as_str() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    };
    let other = |word: &str| match bare(word).as_str() {
        "true" | "correct" | "right" => Some(true),
        "false" | "incorrect" | "wrong" | "not" => Some(false),
        _ => None,
    };
    // "Correct, there is none." is an answer by its first word; "Correct answer: none" is not.
    let first = normal.split(' ').next().unwrap_or_default();
    let alone = first == normal
        || first.contains([',', '.', '!', ':', ';'])
        || matches!(bare(first).as_str(), "true" | "false");
    if let Some(said) = plain(first.split(',').next().unwrap_or_default())
        .or_else(|| other(first.split(',').next().unwrap_or_default()).filter(|_| alone))
    {
        return Some(said);
    }
    let one_of = |word: &dyn Fn(&str) -> Option<bool>| {
        let mut all: Vec<bool> = normal.split([' ', ',']).filter_map(word).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    let plainly = one_of(&plain);
    let all = if plainly.is_empty() { one_of(&other) } else { plainly };
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
        let golds: Vec<bool> = golds.iter().filter_map(|gold| said(gold)).collect();
        if golds.is_empty() {
            return Ok(Reward::ungraded());
        }
        let given = self.answer.find(completion).and_then(said);
        let right = given.is_some_and(|given| golds.contains(&given));
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
        for no in [
            "No.",
            "no, that is wrong",
            "false",
            "It is not.",
            "**No**",
            "The correct answer is no.",
            "Correct answer: no",
            "False: yes is said",
        ] {
            assert_eq!(said(no), Some(false), "{no}");
        }
        for neither in ["", "maybe", "the answer is yes or no", "it may be true or false", "nobody"] {
            assert_eq!(said(neither), None, "{neither}");
        }
        let row = Sample { answer: Some(true.into()), ..Sample::default() };
        assert!(YesNo::default().check_sample(&row).is_ok());
        let odd = Sample { answer: Some("2".into()), ..Sample::default() };
        assert!(YesNo::default().check_sample(&odd).unwrap_err().to_string().contains("expected yes or no"));
    }
}
