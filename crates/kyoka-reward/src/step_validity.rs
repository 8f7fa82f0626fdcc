//! Do the calculations of the reasoning hold?

use std::ops::Range;

use kyoka_core::{Completion, OwnSettings, Reward, RewardContext, RewardError, RewardFn, StepVerdict};
use serde::{Deserialize, Serialize};

use crate::{
    MathAnswer,
    sections::{think, tokens_of},
};

/// The share of the calculations stated in the reasoning that hold: `12 + 5 = 17` does, `12 + 5 = 18` does not. It needs no labels.
///
/// A calculation is an equals sign between two plain terms of numbers, `+ - * / ^`, `×`, `÷` and brackets, of which one has an
/// operation; `2 + 3 = 5 = 4 + 1` states two. A comma or a full stop that is not within a number ends a term, and a term beside
/// a letter is of no calculation: `x + 2 - 1 = 4` says nothing about numbers alone. Each has a verdict at its tokens, for process supervision. A completion that
/// states none is worth 0: beside it an answer must count more, or empty calculations (`1 + 1 = 2`) pay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepValidity {}

impl OwnSettings for StepValidity {}

/// Most calculations that are looked at.
const MOST: usize = 200;

/// Most bytes of one side of a calculation.
const LONGEST: usize = 200;

fn is_of_term(letter: char) -> bool {
    letter.is_ascii_digit() || " +-*/^()×÷−".contains(letter)
}

/// How many letters of a text belong to one term, and whether what follows is no part of mathematics.
fn length_of_term(letters: impl Iterator<Item = char>) -> (usize, bool) {
    let mut letters = letters.take(LONGEST).peekable();
    let (mut count, mut before) = (0, ' ');
    while let Some(letter) = letters.next() {
        let within = before.is_ascii_digit() && letters.peek().is_some_and(char::is_ascii_digit);
        if !(is_of_term(letter) || ".,".contains(letter) && within) {
            let touches = letter.is_alphabetic() || letter == '%';
            return (count, touches);
        }
        (count, before) = (count + 1, letter);
    }
    (count, false)
}

fn has_operation(term: &str) -> bool {
    // A sign before the first number is none.
    term.trim_start_matches(['+', '-', '−', ' ', '(']).contains(['+', '-', '*', '/', '^', '×', '÷', '−'])
}

/// A term without what cannot begin or end one.
fn trimmed(term: &str) -> &str {
    term.trim()
}

/// The calculations of a text: where each stands, and its two sides.
fn calculations(text: &str) -> Vec<(Range<usize>, [&str; 2])> {
    // A number of a list (`2)` or the like) or a sign that joins what is not here begins no term.
    let joins = |term: &str| {
        term.starts_with(['+', '*', '/', '^', '×', '÷', ')'])
            || term.ends_with(['+', '-', '*', '/', '^', '×', '÷', '−', '('])
    };
    let found = text.match_indices('=').filter_map(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + 1..]);
        let (left, left_touches) = length_of_term(before.chars().rev());
        let (right, right_touches) = length_of_term(after.chars());
        let left = before.char_indices().rev().take(left).last().map_or("", |(start, _)| &before[start..]);
        let right = after.char_indices().nth(right).map_or(after, |(end, _)| &after[..end]);
        let (left_term, right_term) = (trimmed(left), trimmed(right));
        // A letter beside it makes it another calculation; a word behind a space does not.
        let glued = (left_touches && !left.starts_with(' ')) || (right_touches && !right.ends_with(' '));
        let whole = [left_term, right_term]
            .iter()
            .all(|term| term.contains(|letter: char| letter.is_ascii_digit()) && !joins(term));
        if glued || !whole || !(has_operation(left_term) || has_operation(right_term)) {
            return None;
        }
        let place = |part: &str| part.as_ptr() as usize - text.as_ptr() as usize;
        Some((place(left_term)..place(right_term) + right_term.len(), [left_term, right_term]))
    });
    found.take(MOST).collect()
}

fn holds([left, right]: [&str; 2]) -> bool {
    let plain = |term: &str| term.replace('×', "*").replace('÷', "/").replace('−', "-");
    let rule = MathAnswer { decimals: 2, ..MathAnswer::default() };
    rule.same(&plain(left), &plain(right)) == Some(true)
}

impl RewardFn for StepValidity {
    fn name(&self) -> &str {
        "step_validity"
    }

    fn score(&self, _: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let (mut stated, mut right, mut steps) = (0_usize, 0_usize, Vec::new());
        for range in think(completion) {
            for (place, sides) in calculations(&completion.text[range.clone()]) {
                let value = holds(sides);
                let within = range.start + place.start..range.start + place.end;
                if let Some(tokens) = tokens_of(completion, within) {
                    steps.push(StepVerdict { rule: 0, step: stated, tokens, value: f32::from(value) });
                }
                stated += 1;
                right += usize::from(value);
            }
        }
        let share = right as f32 / stated.max(1) as f32;
        Ok(Reward { steps, ..Reward::graded(self.name(), share) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sections::tests_support::{completion, sample};

    fn judged(text: &str) -> Reward {
        StepValidity {}.score(&RewardContext::of(&sample(None, &[])), &completion(text)).unwrap()
    }

    #[test]
    fn calculations_hold_or_do_not() {
        for (reasoning, total) in [
            ("12 + 5 = 17", 1.0),
            ("12 + 5 = 18", 0.0),
            ("so 3 × 4 = 12, and 12 / 5 = 2.4.", 1.0),
            ("first 2 + 3 = 5 = 4 + 1", 1.0),
            ("(2 + 3) * 4 = 20 and 20 - 1 = 18", 0.5),
            ("10/3 = 3.33", 1.0),
            ("x = 5, so y = 7", 0.0),
            ("there is nothing to add", 0.0),
            ("-5 = -5", 0.0),
            ("2 + 3 = 5, 5 * 4 = 20", 1.0),
            ("1. 3 + 4 = 7", 1.0),
            ("3 + 4 = 7. 7 * 2 = 14", 1.0),
            ("1,000 + 24 = 1,024 apples", 1.0),
            ("x + 2 - 1 = 4", 0.0),
            ("2x + 1 = 5", 0.0),
            ("20% * 50 = 10", 0.0),
            ("3 + 4 = 7 and x = 2 + 2", 1.0),
            ("= = =", 0.0),
        ] {
            assert_eq!(judged(&format!("<think> {reasoning} </think> 1")).total, Some(total), "{reasoning}");
        }
        assert_eq!(judged("1 + 1 = 2").total, Some(0.0), "outside of the reasoning");
    }

    #[test]
    fn each_has_its_verdict_at_its_tokens() {
        let reward = judged("<think> so 1 + 1 = 2 and 1 + 2 = 4 . </think> 2");
        let verdicts: Vec<_> =
            reward.steps.iter().map(|step| (step.step, step.tokens.clone(), step.value)).collect();
        assert_eq!(verdicts, [(0, 2..7, 1.0), (1, 8..13, 0.0)]);
    }

    #[test]
    fn long_texts_take_no_long() {
        let many = format!("<think> {} </think>", "1 + 1 = ".repeat(100_000));
        assert_eq!(judged(&many).steps.len(), MOST);
    }
}
