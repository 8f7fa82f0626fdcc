//! How near a text is to the right one, letter by letter or word by word.

use kyoka_core::{Completion, OwnSettings, Reward, RewardContext, RewardError, RewardFn, Sample, UnfitRow};
use serde::{Deserialize, Serialize};

use crate::{
    AnswerPlace,
    accuracy::{golds, has_answer},
    text::{normal, plain},
};

/// What a transcript is compared by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TranscriptUnit {
    /// Words: what the word error rate counts.
    #[default]
    Word,
    /// Letters: what the character error rate counts.
    Character,
}

/// `max(0, 1 - rate)` with the error rate of the answer against the row's text: insertions, deletions and replacements over the
/// length of the right text (Levenshtein 1966; as jiwer). With `normalised` the distance is over the longer of both texts, as
/// readers of printed text are judged (ANLS, arXiv 1905.13648, without its threshold). Of several right texts the nearest counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Transcript {
    /// What is compared. Default `word`.
    pub unit: TranscriptUnit,
    /// Whether the distance is over the longer text. Default false.
    pub normalised: bool,
    /// Whether letter case, white space and a full stop at the end count. Default false.
    pub exact: bool,
    /// Where the answer stands. Default `whole`.
    pub answer: AnswerPlace,
}

impl Default for Transcript {
    fn default() -> Self {
        Self { unit: TranscriptUnit::Word, normalised: false, exact: false, answer: AnswerPlace::Whole }
    }
}

impl OwnSettings for Transcript {}

/// Longest text that is compared, in words or letters: the time goes with the product of both.
const LONGEST: usize = 4_096;

/// Errors and lengths of texts, added up over a corpus as the rates are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ErrorRates {
    /// Words inserted, deleted or replaced.
    pub word_errors: usize,
    /// Words of the right texts.
    pub words: usize,
    /// Letters inserted, deleted or replaced, spaces counted.
    pub character_errors: usize,
    /// Letters of the right texts.
    pub characters: usize,
}

impl ErrorRates {
    /// Adds a text and what was heard of it, as they stand.
    pub fn add(&mut self, reference: &str, hypothesis: &str) {
        let (a, b): (Vec<&str>, Vec<&str>) =
            (reference.split_whitespace().collect(), hypothesis.split_whitespace().collect());
        self.word_errors += distance(&a, &b);
        self.words += a.len();
        let (a, b): (Vec<char>, Vec<char>) =
            (reference.trim().chars().collect(), hypothesis.trim().chars().collect());
        self.character_errors += distance(&a, &b);
        self.characters += a.len();
    }

    /// Word error rate; `None` where there is no word to hear.
    pub fn word_rate(&self) -> Option<f64> {
        (self.words > 0).then(|| self.word_errors as f64 / self.words as f64)
    }

    /// Character error rate; `None` where there is no letter to hear.
    pub fn character_rate(&self) -> Option<f64> {
        (self.characters > 0).then(|| self.character_errors as f64 / self.characters as f64)
    }
}

/// Least number of insertions, deletions and replacements that make one sequence the other.
fn distance<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

impl Transcript {
    fn nearness(&self, gold: &str, given: &str) -> f32 {
        let spelled = |text: &str| if self.exact { plain(text) } else { normal(text) };
        let (gold, given) = (spelled(gold), spelled(given));
        let (errors, wanted, told) = match self.unit {
            TranscriptUnit::Word => of(gold.split_whitespace().collect(), given.split_whitespace().collect()),
            TranscriptUnit::Character => of(gold.chars().collect::<Vec<char>>(), given.chars().collect()),
        };
        let over = if self.normalised { wanted.max(told) } else { wanted };
        (1.0 - errors as f32 / over.max(1) as f32).max(0.0)
    }
}

/// Errors and both lengths; between the common beginning and the common end, what a text has beyond the longest that is compared
/// is an error.
fn of<T: PartialEq>(gold: Vec<T>, given: Vec<T>) -> (usize, usize, usize) {
    let begun = gold.iter().zip(&given).take_while(|(a, b)| a == b).count();
    let (a, b) = (&gold[begun..], &given[begun..]);
    let ended = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[..a.len() - ended], &b[..b.len() - ended]);
    let (first, second) = (&a[..a.len().min(LONGEST)], &b[..b.len().min(LONGEST)]);
    let left = (a.len() - first.len()).max(b.len() - second.len());
    (distance(first, second) + left, gold.len(), given.len())
}

impl RewardFn for Transcript {
    fn name(&self) -> &str {
        "transcript"
    }

    fn check_sample(&self, sample: &Sample) -> Result<(), UnfitRow> {
        has_answer("transcript", sample)
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let golds = golds(self.name(), context)?;
        let given = self.answer.find(completion).unwrap_or_default();
        let value = golds.iter().map(|gold| self.nearness(gold, given)).fold(0.0, f32::max);
        Ok(Reward { right: Some(value == 1.0), ..Reward::graded(self.name(), value) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sections::tests_support::{completion, sample};

    #[test]
    fn a_long_text_that_is_right_is_right() {
        let page = "a longer page of print ".repeat(500);
        let rule = Transcript { unit: TranscriptUnit::Character, ..Transcript::default() };
        let judged = |text: &str| {
            let said = completion(&format!("<answer>{text}</answer>"));
            rule.score(&RewardContext::of(&sample(Some(&page), &[])), &said).unwrap()
        };
        assert_eq!((judged(&page).total, judged(&page).right), (Some(1.0), Some(true)));
        let missed = judged(&page.replacen("print", "prints", 1)).total.unwrap();
        assert!(missed < 1.0 && missed > 0.999, "{missed}");
    }

    #[test]
    fn rates_are_those_of_jiwer() {
        for (reference, hypothesis, word, character) in [
            ("please switch off the main pump", "please switch off main pump", 1.0 / 6.0, 4.0 / 31.0),
            ("le volant est à gauche", "le volant et a gauche", 0.4, 2.0 / 22.0),
            ("a b c d", "d c b a", 1.0, 4.0 / 7.0),
            ("ok", "", 1.0, 1.0),
        ] {
            let mut rates = ErrorRates::default();
            rates.add(reference, hypothesis);
            assert_eq!(
                (rates.word_rate(), rates.character_rate()),
                (Some(word), Some(character)),
                "{reference}"
            );
        }
        let mut nothing = ErrorRates::default();
        nothing.add("", "word");
        assert_eq!((nothing.word_rate(), nothing.character_rate()), (None, None));
    }

    #[test]
    fn nearness_of_answers() {
        let total = |rule: Transcript, gold: &str, text: &str| {
            rule.score(&RewardContext::of(&sample(Some(gold), &[])), &completion(text))
                .unwrap()
                .total
                .unwrap()
        };
        let plain = Transcript::default;
        assert_eq!(total(plain(), "switch off the pump", "Switch off the pump."), 1.0);
        assert_eq!(total(plain(), "switch off the pump", "switch off pump"), 0.75);
        assert_eq!(total(plain(), "a", "b c d e"), 0.0);
        let letters = Transcript { unit: TranscriptUnit::Character, normalised: true, ..plain() };
        assert_eq!(total(letters.clone(), "abcd", "abxd"), 0.75);
        assert_eq!(total(letters.clone(), "ab", "abcd"), 0.5);
        let exact = Transcript { exact: true, ..letters };
        assert_eq!(total(exact, "AB", "ab"), 0.0);
        let long = "x ".repeat(200_000);
        let started = std::time::Instant::now();
        assert_eq!(total(plain(), "x x", &long), 0.0);
        assert!(started.elapsed().as_secs() < 2);
    }
}
