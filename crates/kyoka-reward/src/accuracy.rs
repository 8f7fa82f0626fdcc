//! Is the answer right?

use kyoka_core::{
    Completion, OwnSettings, Reward, RewardContext, RewardError, RewardFn, Sample, SettingsFault, UnfitRow,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    AnswerPlace,
    quantity::Quantity,
    sections::unboxed,
    text::{choice, normal},
};

/// Refuses rows without an answer.
pub(crate) fn has_answer(rule: &str, sample: &Sample) -> Result<(), UnfitRow> {
    let unfit = |reason| Err(UnfitRow { field: "answer", reason });
    let answers = sample.answers();
    match answers.iter().find(|answer| answer.trim().is_empty()) {
        _ if answers.is_empty() => unfit(format!("missing, which the reward {rule} needs")),
        Some(_) => unfit(format!("expected an answer for the reward {rule}, got an empty text")),
        None => match sample.answer.iter().find_map(compound) {
            Some(got) => {
                unfit(format!("expected a text, a number or a boolean for the reward {rule}, got {got}"))
            }
            None => Ok(()),
        },
    }
}

/// What stands where a text or a number should; one list of answers may be.
fn compound(answer: &Value) -> Option<&'static str> {
    let word = |value: &Value| match value {
        Value::Array(_) => Some("a list"),
        Value::Object(_) => Some("an object"),
        _ => None,
    };
    match answer {
        Value::Array(answers) => answers.iter().find_map(word),
        one => word(one),
    }
}

pub(crate) fn golds(reward: &str, context: &RewardContext<'_>) -> Result<Vec<String>, RewardError> {
    let answers = context.sample.answers();
    if answers.is_empty() {
        let (reward, id) = (reward.to_owned(), context.sample.id.clone());
        return Err(RewardError::MissingField { reward, id, field: "answer" });
    }
    Ok(answers)
}

/// 1 if the answer equals one of the row's answers; else 0.
///
/// Compared are texts in one spelling: letter case, white space, spaces after commas, full-width forms, composed letters,
/// one full stop at the end and a `\boxed{…}` around the whole do not count. A choice may be given with its text: `(B)`
/// or `B. the cat` for `B`, but not with a second choice beside it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExactAnswer {
    /// Where the answer stands. Default `tag`.
    #[serde(skip_serializing_if = "is_tag")]
    pub answer: AnswerPlace,
}

impl OwnSettings for ExactAnswer {}

impl RewardFn for ExactAnswer {
    fn name(&self) -> &str {
        "accuracy"
    }

    fn check_sample(&self, sample: &Sample) -> Result<(), UnfitRow> {
        has_answer("exact_answer", sample)
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let golds = golds(self.name(), context)?;
        let given = self
            .answer
            .find(completion)
            .map(|given| normal(unboxed(given)))
            .filter(|given| !given.is_empty());
        let same = |given: &String| golds.iter().any(|gold| equal(&normal(unboxed(gold)), given));
        let right = given.is_some_and(|given| same(&given));
        Ok(Reward::answered(self.name(), right))
    }
}

/// Whether it is the default, which needs not be written.
pub(crate) fn is_tag(place: &AnswerPlace) -> bool {
    *place == AnswerPlace::Tag
}

fn equal(gold: &str, given: &str) -> bool {
    let choice_alone = choice(gold).filter(|_| !gold.contains(' '));
    gold == given || choice_alone.is_some_and(|letter| choice(given) == Some(letter))
}

/// 1 if the answer is a number within a relative tolerance of one of the row's answers; else 0.
///
/// Read are decimals with or without exponent, `1,024` and `1 024` in groups of three, `1.2 \times 10^3`, fractions
/// (`1/2`, `\frac{1}{2}`), currency signs and units (`$5`, `5 cm`, `50%`). A unit counts where both numbers have one; it
/// must then be the same. Everything else is no number: `1.024,5`, `,024`, `1234,567`, `2 or 3`, infinity. A row whose
/// answers are no numbers is ungraded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NumericAnswer {
    /// Largest difference as a share of the row's answer, a finite number of at least 0; an answer of 0 is met by 0 alone.
    /// Default 1e-6.
    pub relative_tolerance: f64,
    /// Where the answer stands. Default `tag`.
    #[serde(skip_serializing_if = "is_tag")]
    pub answer: AnswerPlace,
}

impl Default for NumericAnswer {
    fn default() -> Self {
        Self { relative_tolerance: 1e-6, answer: AnswerPlace::Tag }
    }
}

impl OwnSettings for NumericAnswer {
    fn check(&self) -> Result<(), SettingsFault> {
        let got = self.relative_tolerance;
        let holds = got.is_finite() && got >= 0.0;
        SettingsFault::unless(holds, "relative_tolerance", "a finite number of at least 0", got)
    }
}

impl RewardFn for NumericAnswer {
    fn name(&self) -> &str {
        "accuracy"
    }

    fn check_sample(&self, sample: &Sample) -> Result<(), UnfitRow> {
        has_answer("numeric_answer", sample)?;
        match sample.answers().iter().find(|answer| Quantity::read(answer).is_none()) {
            None => Ok(()),
            Some(answer) => Err(UnfitRow {
                field: "answer",
                reason: format!("expected a number for the reward numeric_answer, got {answer:?}"),
            }),
        }
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let golds = golds(self.name(), context)?;
        let golds: Vec<Quantity> = golds.iter().filter_map(|gold| Quantity::read(gold)).collect();
        if golds.is_empty() {
            return Ok(Reward::ungraded());
        }
        let given = self.answer.find(completion).and_then(Quantity::read);
        let right =
            given.is_some_and(|given| golds.iter().any(|gold| gold.meets(&given, self.relative_tolerance)));
        Ok(Reward::answered(self.name(), right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sections::tests_support::{completion, sample};

    fn total(rule: &dyn RewardFn, golds: &[&str], text: &str) -> Option<f32> {
        let sample = Sample { answer: Some(golds.into()), ..sample(None, &[]) };
        rule.score(&RewardContext::of(&sample), &completion(text)).unwrap().total
    }

    #[test]
    fn exact_answer_ignores_spelling_only() {
        let exact = |gold: &str, given: &str| {
            total(&ExactAnswer::default(), &[gold], &format!("<answer>{given}</answer>")) == Some(1.0)
        };
        assert!(exact("Ankle boot", "  ankle   BOOT "));
        assert!(exact("B", "(B) the cat") && exact("(B)", "B") && exact("B. the cat", "b. The cat"));
        assert!(
            !exact("2", "22") && !exact("B", "A or B") && !exact("B", "B) or C)") && !exact("B", "B or C")
        );
        assert!(!exact("B. the cat", "B. the dog") && !exact(" ", ""), "an empty text answers nothing");
        assert_eq!(total(&ExactAnswer::default(), &["2"], "2"), Some(0.0));
    }

    #[test]
    fn any_answer_of_the_row_is_right() {
        assert_eq!(
            total(&ExactAnswer::default(), &["cat", "the cat"], "<answer>The cat.</answer>"),
            Some(1.0)
        );
        let rule = NumericAnswer::default();
        assert_eq!(total(&rule, &["2", "3"], "<answer>3.0</answer>"), Some(1.0));
        assert_eq!(total(&rule, &["2", "3"], "<answer>4</answer>"), Some(0.0));
        assert_eq!(total(&rule, &["two"], "<answer>2</answer>"), None, "nothing to compare with");
    }

    #[test]
    fn rows_that_cannot_be_judged_are_refused_beforehand() {
        let reason = |rule: &dyn RewardFn, gold: Option<&str>| {
            rule.check_sample(&sample(gold, &[])).map_err(|unfit| unfit.to_string())
        };
        assert_eq!(reason(&ExactAnswer::default(), Some("inf")), Ok(()));
        let missing = "answer: missing, which the reward exact_answer needs";
        assert_eq!(reason(&ExactAnswer::default(), None), Err(missing.to_owned()));
        assert!(reason(&ExactAnswer::default(), Some(" ")).unwrap_err().ends_with("got an empty text"));
        let rule = NumericAnswer::default();
        assert_eq!(reason(&rule, Some("1,024 cm")), Ok(()));
        let word = r#"answer: expected a number for the reward numeric_answer, got "two""#;
        assert_eq!(reason(&rule, Some("two")), Err(word.to_owned()));
        assert!(reason(&rule, Some("inf")).is_err() && reason(&rule, None).is_err());
        let boxes = Sample { answer: Some(serde_json::json!([[1, 2], [3, 4]])), ..Sample::default() };
        let list = "answer: expected a text, a number or a boolean for the reward exact_answer, got a list";
        assert_eq!(ExactAnswer::default().check_sample(&boxes).unwrap_err().to_string(), list);
    }

    #[test]
    fn a_row_without_answer_is_an_error_not_a_zero() {
        let sample = sample(None, &[]);
        let error = ExactAnswer::default().score(&RewardContext::of(&sample), &completion("")).unwrap_err();
        assert_eq!(error.to_string(), "reward accuracy: row r1 has no answer");
    }

    /// What known texts should earn; a value that is open is not looked at.
    #[test]
    fn known_texts_earn_what_they_should() {
        let known = include_str!("../tests/known_texts.jsonl").lines();
        let known = known.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let mut wrong = Vec::new();
        for row in known {
            let text = |key: &str| row[key].as_str().unwrap().to_owned();
            let sample = sample(Some(&text("answer")), &[]);
            let completion = completion(&text("completion"));
            let context = RewardContext::of(&sample);
            let rules: [(&str, &dyn RewardFn); 3] = [
                ("exact", &ExactAnswer::default()),
                ("numeric", &NumericAnswer::default()),
                ("format", &crate::Format::default()),
            ];
            for (name, rule) in rules {
                let got = rule.score(&context, &completion).unwrap().total.map(f64::from);
                if row[name].as_f64().is_some_and(|expected| got != Some(expected)) {
                    wrong.push(format!("{}: {name}: expected {}, got {got:?}", text("id"), row[name]));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
