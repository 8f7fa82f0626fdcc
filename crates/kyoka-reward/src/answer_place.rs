//! Where in a completion the answer stands: one setting of all rules that read answers.

use kyoka_core::Completion;
use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::{
    numbers::{Commas, numbers},
    sections::{after_reasoning, answer, boxed},
};

/// Where the answer stands. Of several turns the last one answers, and what is said inside `<think>` never counts.
///
/// ```
/// use kyoka_core::Completion;
/// use kyoka_reward::AnswerPlace;
///
/// let text = "<think> 9 </think> It is \\boxed{2}, about 2.5 cm.".to_owned();
/// let completion = Completion { text, ..Completion::default() };
/// let found = |place: AnswerPlace| place.find(&completion).map(str::to_owned);
/// assert_eq!(found(AnswerPlace::Tag).as_deref(), Some("2"), "no section is begun, so the box counts");
/// assert_eq!(found(AnswerPlace::LastNumber).as_deref(), Some("2.5"));
/// assert_eq!(found(AnswerPlace::Whole).as_deref(), Some("It is \\boxed{2}, about 2.5 cm."));
/// let about = AnswerPlace::Regex("about (.*)\\.".parse().unwrap());
/// assert_eq!(found(about).as_deref(), Some("2.5 cm"));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerPlace {
    /// In the last `<answer>` section; where none is begun, in the last `\boxed{…}`. The default.
    #[default]
    Tag,
    /// In the last `\boxed{…}`.
    Boxed,
    /// It is the last number, in the last 16 KiB.
    LastNumber,
    /// It is all that follows the reasoning; of an `<answer>` section there, what it holds.
    Whole,
    /// In the last 16 KiB, what the last match of a pattern has in its first group, or all of it where it has no group.
    Regex(Pattern),
}

/// A regular expression, as the crate `regex` reads it, without look-around. As the place of an answer it looks at the last 16 KiB
/// of a text: to find every match may take time with the square of the length.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(Regex);

/// Bytes that a compiled pattern may take.
const PATTERN_BYTES: usize = 1 << 20;

impl Pattern {
    /// The regular expression.
    pub fn regex(&self) -> &Regex {
        &self.0
    }
}

impl std::str::FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let built = regex::RegexBuilder::new(text).size_limit(PATTERN_BYTES).build();
        built.map(Self).map_err(|error| format!("expected a regular expression, got {text:?}: {error}"))
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0.as_str().to_owned()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl AnswerPlace {
    /// The answer of a completion, trimmed; `None` where there is none, or it is longer than 128 KiB.
    pub fn find<'a>(&self, completion: &'a Completion) -> Option<&'a str> {
        let after = || after_reasoning(completion);
        let found = match self {
            Self::Tag => answer(completion),
            Self::Boxed => boxed(after()?),
            Self::LastNumber => {
                let after = end_of(after()?);
                Some(&after[numbers(after, Commas::OfLists).pop()?])
            }
            Self::Whole => match after()?.contains("<answer>") {
                true => answer(completion),
                false => after(),
            },
            Self::Regex(pattern) => {
                let last = pattern.0.captures_iter(end_of(after()?)).last()?;
                last.get(1).or(last.get(0)).map(|found| found.as_str())
            }
        };
        found.map(str::trim).filter(|answer| answer.len() <= LONGEST_ANSWER)
    }
}

/// Most bytes of an answer: rules read no more of what a policy may have written for their sake.
const LONGEST_ANSWER: usize = 131_072;

/// Bytes at the end of a text that a pattern looks at.
const LOOKED_AT: usize = 16_384;

/// What is looked at of a text that may be of any length: its end.
pub(crate) fn end_of(text: &str) -> &str {
    let from = text.len().saturating_sub(LOOKED_AT);
    let from = (from..=text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
    &text[from..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sections::tests_support::completion;

    #[test]
    fn places_are_read_from_recipes() {
        #[derive(Debug, Deserialize, Serialize)]
        struct Rule {
            answer: AnswerPlace,
        }
        let read = |text: &str| kyoka_core::read_settings::<Rule>(toml::Value::Table(text.parse().unwrap()));
        assert_eq!(read("answer = 'last_number'").unwrap().answer, AnswerPlace::LastNumber);
        let pattern = read("answer = { regex = 'so (\\w+)' }").unwrap();
        assert_eq!(pattern.answer.find(&completion("so it, so far")), Some("far"));
        assert_eq!(
            toml::Value::try_from(&pattern).unwrap().to_string(),
            "{ answer = { regex = 'so (\\w+)' } }"
        );
        let said = read("answer = { regex = '(' }").unwrap_err().to_string();
        assert!(said.contains("expected a regular expression, got \"(\""), "{said}");
        assert!(read("answer = 'tags'").unwrap_err().to_string().contains("did you mean `tag`?"));
    }

    #[test]
    fn nothing_is_found_inside_the_reasoning() {
        let open = completion("<think> \\boxed{3} 4");
        for place in [AnswerPlace::Tag, AnswerPlace::Boxed, AnswerPlace::LastNumber, AnswerPlace::Whole] {
            assert_eq!(place.find(&open), None);
        }
        let whole = completion("<think> 1 </think> <answer> two </answer>");
        assert_eq!(AnswerPlace::Whole.find(&whole), Some("two"));
    }
}
