//! Is the right one of several choices named?

use std::collections::BTreeSet;

use kyoka_core::{Completion, OwnSettings, Reward, RewardContext, RewardError, RewardFn, Sample, UnfitRow};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    AnswerPlace,
    accuracy::{golds, has_answer, is_tag},
    sections::unboxed,
    text::{normal, plain},
};

/// 1 if the answer names the right choice, by its letter or, where the row lists its `options`, by their text; else 0.
///
/// A letter is read as models write it: `B`, `(b)`, `**B.** the cat`, `Answer: B`, `the answer is \boxed{B}`. An answer that names
/// two choices names none, unless it says which is the answer. `options` of a row is an object of letters and texts, or a list
/// of texts from A on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChoiceAnswer {
    /// Where the answer stands. Default `tag`.
    #[serde(skip_serializing_if = "is_tag")]
    pub answer: AnswerPlace,
}

impl OwnSettings for ChoiceAnswer {}

/// The column of a row with the texts of its choices.
const OPTIONS: &str = "options";

impl RewardFn for ChoiceAnswer {
    fn name(&self) -> &str {
        "accuracy"
    }

    fn check_sample(&self, sample: &Sample) -> Result<(), UnfitRow> {
        has_answer("choice_answer", sample)?;
        let options = options(sample);
        let known = |letter: char| options.is_empty() || options.iter().any(|(known, _)| *known == letter);
        match sample.answers().iter().find(|gold| !letter_of(gold, &options).is_some_and(known)) {
            None => Ok(()),
            Some(gold) => Err(UnfitRow {
                field: "answer",
                reason: format!("expected the letter of a choice for the reward choice_answer, got {gold:?}"),
            }),
        }
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let options = options(context.sample);
        let right: BTreeSet<char> =
            golds(self.name(), context)?.iter().filter_map(|gold| letter_of(gold, &options)).collect();
        if right.is_empty() {
            return Ok(Reward::ungraded());
        }
        let given = self.answer.find(completion).and_then(|given| chosen(given, &options));
        Ok(Reward::answered(self.name(), given.is_some_and(|letter| right.contains(&letter))))
    }
}

/// Letters and texts of a row's choices, in lower case.
pub(crate) fn options(sample: &Sample) -> Vec<(char, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match sample.extra.get(OPTIONS) {
        Some(Value::Object(options)) => {
            let one = |(name, value): (&String, &Value)| Some((lone(name)?, normal(&text(value))));
            options.iter().filter_map(one).collect()
        }
        Some(Value::Array(options)) => {
            ('a'..='z').zip(options.iter().map(|value| normal(&text(value)))).collect()
        }
        _ => Vec::new(),
    }
}

fn lone(text: &str) -> Option<char> {
    let mut letters = text.trim().chars();
    let letter = letters.next()?.to_ascii_lowercase();
    (letter.is_ascii_lowercase() && letters.next().is_none()).then_some(letter)
}

/// The letter that a row's answer stands for.
fn letter_of(gold: &str, options: &[(char, String)]) -> Option<char> {
    let normal = normal(unboxed(gold));
    let named = options.iter().find(|(_, text)| *text == normal).map(|(letter, _)| *letter);
    lone(&normal).or(named).or_else(|| marked(&normal).map(|(letter, _)| letter))
}

/// The letter that an answer names.
pub(crate) fn chosen(given: &str, options: &[(char, String)]) -> Option<char> {
    let said = plain(unboxed(given))
        .replace(['*', '`', '"'], "")
        .replace("\\text", "")
        .replace(['{', '}', '$'], " ");
    let said = said.trim().trim_end_matches('.').trim();
    let whole = normal(said);
    if let Some(letter) = lone(&whole) {
        return Some(letter);
    }
    let named: Vec<char> =
        options.iter().filter(|(_, text)| *text == whole).map(|(letter, _)| *letter).collect();
    if let [letter] = named[..] {
        return Some(letter);
    }
    // What is said to be the answer counts before all else that is named.
    let lower = said.to_lowercase();
    let marks = [
        "answer is",
        "answer:",
        "answer :",
        "choice is",
        "option is",
        "correct is",
        "choose",
        "choice:",
        "option:",
    ];
    let stated = marks.iter().filter_map(|mark| lower.rfind(mark).map(|at| at + mark.len())).max();
    if let Some(letter) = stated.and_then(|at| first(said.get(at..)?)) {
        return Some(letter);
    }
    // `A. the cat`: what an answer begins with is meant, unless another one is marked as clearly.
    let mut all = words(said);
    if let Some(letter) = all.next().and_then(begun) {
        let others = all.filter_map(marked).filter(|(_, clearly)| *clearly);
        if others.map(|(other, _)| other).all(|other| other == letter) {
            return Some(letter);
        }
    }
    let letters: BTreeSet<char> =
        words(said).filter_map(|word| marked(word).map(|(letter, _)| letter)).collect();
    let mut letters = letters.into_iter();
    match (letters.next(), letters.next()) {
        (Some(letter), None) => Some(letter),
        _ => None,
    }
}

fn words(text: &str) -> std::str::SplitWhitespace<'_> {
    text.split_whitespace()
}

/// The choice that a text begins with; none where it goes on to name another one.
fn first(text: &str) -> Option<char> {
    let text = text.trim_start_matches([' ', ':', '\n']);
    let word =
        words(text).find(|word| !matches!(*word, "option" | "choice" | "the" | "Option" | "Choice"))?;
    let bare = lone(word.trim_matches(['.', ',', ')', '(', ':', ';'])).filter(|_| {
        word.starts_with('(')
            || word.chars().next().is_some_and(|letter| letter.is_ascii_uppercase())
            || words(text).count() == 1
    });
    let letter = bare?;
    let next = words(text).skip_while(|other| *other != word).nth(1);
    (!next.is_some_and(|next| matches!(next, "or" | "and" | "/"))).then_some(letter)
}

/// The letter of a first word `(a)`, `A)`, `A.` or `A:`.
fn begun(word: &str) -> Option<char> {
    let inside = word.strip_prefix('(').unwrap_or(word);
    let letter = inside.strip_suffix([')', '.', ':'])?;
    lone(letter.trim_end_matches([')', '.']))
}

/// The letter of `(b)`, `B)`, `B.`, `B:`, or a capital that stands alone; and whether it was marked.
fn marked(word: &str) -> Option<(char, bool)> {
    let inside = word.trim_end_matches([',', ';', '.', '!', '?']);
    if let Some(rest) = inside.strip_prefix('(') {
        return Some((lone(rest.strip_suffix(')')?.trim_end_matches(['.', ':']))?, true));
    }
    let letter = lone(inside.trim_end_matches([')', '.', ':']))?;
    if inside.ends_with([')', ':']) || word.ends_with('.') && letter != 'a' && letter != 'i' {
        return Some((letter, true));
    }
    // "A" and "I" are words of their own.
    let capital = inside.chars().next().is_some_and(|first| first.is_ascii_uppercase());
    (capital && !matches!(letter, 'a' | 'i')).then_some((letter, false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sections::tests_support::{completion, sample};

    fn row(gold: &str, options: Option<Value>) -> Sample {
        let mut row = sample(Some(gold), &[]);
        row.extra.extend(options.map(|options| (OPTIONS.to_owned(), options)));
        row
    }

    fn total(row: &Sample, text: &str, answer: AnswerPlace) -> Option<f32> {
        ChoiceAnswer { answer }.score(&RewardContext::of(row), &completion(text)).unwrap().total
    }

    #[test]
    fn a_letter_is_read_as_models_write_it() {
        for right in [
            "C",
            "(c)",
            "c.",
            "**Answer: C**",
            "The answer is (C).",
            "the answer is C, because B is wrong",
            "C) both",
            "C. Vitamin B",
            "I think it is (C), because the lamp is on.",
            "\\boxed{C}",
            "Option C",
            "answer: \\text{C}",
        ] {
            assert_eq!(total(&row("C", None), right, AnswerPlace::Whole), Some(1.0), "{right}");
        }
        for wrong in [
            "",
            "B",
            "I think it is (B), because the lamp is on the right.",
            "B or C",
            "(B) or (C)",
            "the answer is B or C",
            "A cat can see.",
            "C and B",
            "cab",
            "The answer is (B). (C) is wrong.",
        ] {
            assert_eq!(total(&row("C", None), wrong, AnswerPlace::Whole), Some(0.0), "{wrong}");
        }
    }

    #[test]
    fn no_letter_is_read_otherwise_than_the_others() {
        for letter in 'A'..='J' {
            let gold = row(&letter.to_string(), None);
            for text in ["{}. the cat", "{}) the cat", "({}) the cat", "{}: the cat", "**{}.** the cat", "{}"]
            {
                let said = text.replace("{}", &letter.to_string());
                assert_eq!(total(&gold, &said, AnswerPlace::Whole), Some(1.0), "{said}");
            }
        }
        let two = row("C", Some(serde_json::json!(["left", "right"])));
        assert!(ChoiceAnswer::default().check_sample(&two).is_err(), "there is no C");
    }

    #[test]
    fn a_choice_may_be_named_by_its_text() {
        let options = serde_json::json!({"A": "left", "B": "right", "C": "both", "D": "neither"});
        let row = row("C", Some(options));
        assert_eq!(total(&row, "<answer> Both. </answer>", AnswerPlace::Tag), Some(1.0));
        assert_eq!(total(&row, "<answer> left </answer>", AnswerPlace::Tag), Some(0.0));
        let listed = self::row("both", Some(serde_json::json!(["left", "right", "both"])));
        assert_eq!(total(&listed, "<answer> c </answer>", AnswerPlace::Tag), Some(1.0));
        assert!(ChoiceAnswer::default().check_sample(&listed).is_ok());
        let unknown = ChoiceAnswer::default().check_sample(&self::row("the cat", None)).unwrap_err();
        assert!(unknown.to_string().contains("expected the letter of a choice"), "{unknown}");
    }
}
