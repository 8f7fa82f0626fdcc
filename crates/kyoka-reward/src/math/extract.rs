//! Where in a text the mathematical answer stands.

use super::{structure::Answer, tokens::FUNCTIONS};
use crate::{
    numbers::{Commas, numbers},
    sections::group,
};

/// Bytes at a text's end that are looked at: answers stand there.
const LOOKED_AT: usize = 16_384;

/// Most bytes of an answer.
const LONGEST: usize = 2_000;

/// The pieces of the answer of a text, in order, and whether they are LaTeX: what the last boxes hold, what follows "the answer
/// is", the last formulas, or the last number. Empty where there is none.
pub(crate) fn extract(text: &str) -> Vec<Piece<'_>> {
    let mut start = text.len().saturating_sub(LOOKED_AT);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    let text = &text[start..];
    let formulas = formulas(text);
    let mut found = stated(text, &formulas);
    if found.is_empty() {
        found = joined(text, &boxes(text), true);
    }
    if found.is_empty() {
        found = last(text, &formulas);
    }
    found.retain(|piece| !piece.text.trim().is_empty());
    if found.iter().any(|piece| piece.text.len() > LONGEST) { Vec::new() } else { found }
}

/// A piece of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    pub text: &'a str,
    /// Whether it is written as LaTeX, where a comma stands between things.
    pub latex: bool,
    /// Whether `%` or a word for it follows.
    pub percent: bool,
}

/// Where a formula stands: all of it, and what it holds.
#[derive(Debug, Clone, Copy)]
struct Place {
    start: usize,
    end: usize,
    inside: (usize, usize),
}

/// Formulas between `$`, `$$`, `\(`, `\[`.
fn formulas(text: &str) -> Vec<Place> {
    let mut places = Vec::new();
    let mut at = 0;
    while let Some(next) = text[at..].find(['$', '\\']) {
        let start = at + next;
        let rest = &text[start..];
        let pair = [("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$")]
            .into_iter()
            .find(|(open, _)| rest.starts_with(open));
        let Some((open, close)) = pair else {
            // An escaped dollar is money.
            at = start + 1 + text[start + 1..].chars().next().map_or(0, char::len_utf8);
            continue;
        };
        let inner = start + open.len();
        match closing(&text[inner..], close) {
            Some(length) => {
                let end = inner + length + close.len();
                places.push(Place { start, end, inside: (inner, inner + length) });
                at = end;
            }
            None => at = inner,
        }
    }
    places
}

/// Where a formula is closed; an escaped dollar closes none.
fn closing(text: &str, close: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        let found = at + text[at..].find(close)?;
        if close == "$" && text[..found].ends_with('\\') && !text[..found].ends_with("\\\\") {
            at = found + 1;
            continue;
        }
        return Some(found);
    }
}

/// What `\boxed{…}` holds, outermost ones.
fn boxes(text: &str) -> Vec<Place> {
    let mut places = Vec::new();
    let mut at = 0;
    while let Some(next) = ["\\boxed", "\\fbox"]
        .iter()
        .filter_map(|open| text[at..].find(open).map(|found| (found, open.len())))
        .min()
    {
        let (start, inner) = (at + next.0, at + next.0 + next.1);
        let behind = text[inner..].trim_start();
        let open = text.len() - behind.len();
        if !behind.starts_with('{') {
            at = inner;
            continue;
        }
        let Some(length) = group(&text[open + 1..]) else {
            // Cut off: what is there, up to the formula's end.
            let rest = &text[open + 1..];
            let length = rest.find("$").unwrap_or(rest.len());
            places.push(Place { start, end: text.len(), inside: (open + 1, open + 1 + length) });
            break;
        };
        let end = open + 1 + length + 1;
        places.push(Place { start, end, inside: (open + 1, open + 1 + length) });
        at = end;
    }
    places
}

/// The last place, and those before it that only `and`, `or` and commas part from it.
fn joined<'a>(text: &'a str, places: &[Place], boxed: bool) -> Vec<Piece<'a>> {
    let Some(last) = places.len().checked_sub(1) else { return Vec::new() };
    let mut first = last;
    while first > 0 && connects(&text[places[first - 1].end..places[first].start], boxed) {
        first -= 1;
    }
    let piece = |place: &Place| {
        let (start, end) = place.inside;
        Piece { text: &text[start..end], latex: true, percent: is_percent(&text[place.end..]) }
    };
    places[first..].iter().map(piece).collect()
}

/// Whether what stands between two answers makes them parts of one.
fn connects(between: &str, boxed: bool) -> bool {
    if between.len() > 60 {
        return false;
    }
    let mut plain = between.to_owned();
    for mark in ["\\quad", "\\text", "\\(", "\\)", "\\[", "\\]", "\\ ", "\\,", "$", "{", "}", "\\;"] {
        plain = plain.replace(mark, " ");
    }
    let words: Vec<&str> = plain.split_whitespace().collect();
    let joins = |word: &str| matches!(word.trim_matches([',', ';', '.']), "and" | "or" | "" | "&");
    if words.iter().all(|word| joins(word)) {
        return !words.is_empty() || boxed;
    }
    boxed && words.len() <= 6 && words.iter().any(|word| matches!(*word, "and" | "or"))
}

fn is_percent(behind: &str) -> bool {
    let behind = behind.trim_start_matches(['$', ' ', '}']);
    ["%", "\\%", "percent", "pct"].iter().any(|word| behind.starts_with(word))
}

/// What follows the last "answer is".
fn stated<'a>(text: &'a str, formulas: &[Place]) -> Vec<Piece<'a>> {
    let lower = text.to_ascii_lowercase();
    let marks = ["final answer is", "answer is:", "answer is", "answer:"];
    let Some((at, length)) =
        marks.iter().filter_map(|mark| lower.rfind(mark).map(|at| (at, mark.len()))).max()
    else {
        return Vec::new();
    };
    let start = at + length;
    let behind = &text[start..];
    let lead = behind.len() - behind.trim_start_matches([' ', '\n', ':', '"', '*', '\'', '\\']).len();
    let begins = |place: &Place| place.start >= start && place.start <= start + lead + 4;
    let first = formulas.iter().position(begins);
    if let Some(first) = first {
        let mut end = first + 1;
        while end < formulas.len() && connects(&text[formulas[end - 1].end..formulas[end].start], false) {
            end += 1;
        }
        let inside = |place: &Place| boxes(&text[place.start..place.end]).is_empty();
        if formulas[first..end].iter().all(inside) {
            return joined(text, &formulas[first..end], false);
        }
        return Vec::new();
    }
    if let Some(sentence) = behind.split(['\n']).next() {
        if sentence.contains("\\boxed") || sentence.contains('$') {
            return Vec::new();
        }
        let formula = sentence.trim_matches([' ', ':', '"', '*', '\'']).trim_end_matches('.').trim_end();
        if is_expression(formula) {
            return vec![Piece { text: formula, latex: formula.contains('\\'), percent: false }];
        }
        return number(sentence, true).into_iter().collect();
    }
    Vec::new()
}

/// The last formulas, or the number that stands behind them.
fn last<'a>(text: &'a str, formulas: &[Place]) -> Vec<Piece<'a>> {
    let behind = formulas.last().map_or(0, |place| place.end);
    let whole = text.trim();
    if formulas.is_empty() && is_expression(whole) {
        return vec![Piece { text: whole, latex: whole.contains('\\'), percent: is_percent_end(whole) }];
    }
    if let Some(piece) = number(&text[behind..], false) {
        let percent = formulas.last().is_some_and(|place| is_percent(&text[place.end..]));
        if formulas.is_empty() || (!percent && !text[behind..].trim().is_empty()) {
            return vec![piece];
        }
    }
    let found = joined(text, formulas, false);
    if !found.is_empty() {
        return found;
    }
    if whole.len() > 200 || whole.split_whitespace().count() > 12 {
        return Vec::new();
    }
    vec![Piece { text: whole, latex: whole.contains('\\'), percent: is_percent_end(whole) }]
}

/// Whether words stand in a text: letters side by side that name no function and belong to no command.
fn has_prose(text: &str) -> bool {
    let mut plain = text.to_owned();
    for environment in ["\\begin", "\\end"] {
        while let Some(at) = plain.find(environment) {
            let rest = &plain[at..];
            let length = rest.find('}').map_or(rest.len(), |close| close + 1);
            plain.replace_range(at..at + length, " ");
        }
    }
    let mut before = ' ';
    let mut rest = plain.as_str();
    while let Some(first) = rest.chars().next() {
        let length = rest.find(|letter: char| !letter.is_alphabetic()).unwrap_or(rest.len());
        if length == 0 {
            (before, rest) = (first, &rest[first.len_utf8()..]);
            continue;
        }
        let word = &rest[..length];
        let is_word = word.chars().count() > 1 && before != '\\' && !FUNCTIONS.contains(&word);
        if is_word && !["pi", "inf", "infty", "infinity"].contains(&word) {
            return true;
        }
        (before, rest) = ('a', &rest[length..]);
    }
    false
}

/// Whether a text is a formula as it stands, or several.
fn is_expression(text: &str) -> bool {
    if text.len() > LONGEST || text.ends_with('%') {
        return false;
    }
    if (text.len() > 200 || text.split_whitespace().count() > 12) && has_prose(text) {
        return false;
    }
    let piece = Piece { text, latex: text.contains('\\'), percent: false };
    match Answer::read(&[piece]) {
        None => false,
        Some(read) if read.has_words() => false,
        Some(Answer::One(one, _)) => {
            let short = text.contains('\\') || text.split_whitespace().count() < 4;
            !one.has_unknowns() || short || !has_prose(text)
        }
        Some(_) => true,
    }
}

fn is_percent_end(text: &str) -> bool {
    let text = text.trim_end_matches(['.', ' ']);
    ["%", "percent", "pct"].iter().any(|word| text.ends_with(word))
}

/// The last number of a plain text, and whether it is in percent; the first one where the text begins with it.
fn number(text: &str, first: bool) -> Option<Piece<'_>> {
    let found = numbers(text, Commas::OfDecimals);
    let place = if first { found.into_iter().next() } else { found.into_iter().next_back() }?;
    Some(Piece { text: &text[place.clone()], latex: false, percent: is_percent(&text[place.end..]) })
}
