//! Where the numbers of a plain text stand.

use std::ops::Range;

/// What a comma between digits is where it parts no thousands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Commas {
    /// It stands between two numbers.
    OfLists,
    /// It stands before decimals.
    OfDecimals,
}

/// The numbers of a text in order: digits with a sign, a point and decimals, thousands in groups of three after a comma or a
/// space, and a fraction's other half. Digits within a word are none.
pub(crate) fn numbers(text: &str, commas: Commas) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let begins = is_digit(at) || (bytes[at] == b'.' && is_digit(at + 1));
        if !begins {
            at += 1;
            continue;
        }
        let start = at;
        at = end_of(bytes, start, commas);
        let (before, after) = (text[..start].chars().next_back(), text[at..].chars().next());
        if before.is_some_and(char::is_alphabetic) && after.is_some_and(char::is_alphabetic) {
            continue;
        }
        found.push(signed(text, start)..at);
    }
    found
}

/// Where a number ends that begins at `start`.
fn end_of(bytes: &[u8], start: usize, commas: Commas) -> usize {
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let group = |at: usize| (at..at + 3).all(is_digit) && !is_digit(at + 3);
    let mut at = start;
    // Digits since the number began, or since a comma or space; none once decimals have begun.
    let (mut run, mut decimals, mut grouped) = (0_usize, false, false);
    loop {
        match bytes.get(at) {
            Some(byte) if byte.is_ascii_digit() => run += 1,
            Some(b'.') if !decimals && is_digit(at + 1) => decimals = true,
            Some(b',' | b' ') if !decimals && group(at + 1) && run > 0 && (grouped || run <= 3) => {
                (grouped, run) = (true, 0);
            }
            Some(b',') if !decimals && !grouped && is_digit(at + 1) && commas == Commas::OfDecimals => {
                decimals = true
            }
            Some(b'/') if run > 0 && is_digit(at + 1) => (run, decimals, grouped) = (0, false, false),
            _ => return at,
        }
        at += 1;
    }
}

/// The start of a number with its sign, where it has one: a minus that stands behind a letter or digit takes away.
fn signed(text: &str, start: usize) -> usize {
    let before = text[..start].trim_end_matches(['$', '€', '£']);
    match before.chars().next_back().filter(|sign| "-−".contains(*sign)) {
        Some(sign) => {
            let place = before.len() - sign.len_utf8();
            let takes_away =
                before[..place].ends_with(|letter: char| letter.is_alphanumeric() || letter == ')');
            if takes_away { start } else { place }
        }
        None => start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str, commas: Commas) -> Vec<&str> {
        numbers(text, commas).into_iter().map(|place| &text[place]).collect()
    }

    #[test]
    fn numbers_are_whole() {
        for (text, expected) in [
            ("from 3 to 1,250 units.", vec!["3", "1,250"]),
            ("x = -2.5", vec!["-2.5"]),
            ("5-3", vec!["5", "3"]),
            ("it is 1/2.", vec!["1/2"]),
            ("about .75", vec![".75"]),
            ("1,2,3", vec!["1", "2", "3"]),
            ("1 000 or 12 34", vec!["1 000", "12", "34"]),
            ("AZYUK2A, v2", vec!["2"]),
            ("−7°, -$5", vec!["−7", "-$5"]),
            ("1.2.3", vec!["1.2", ".3"]),
            ("none", vec![]),
        ] {
            assert_eq!(told(text, Commas::OfLists), expected, "{text}");
        }
        assert_eq!(told("2,74 and 1,250", Commas::OfDecimals), ["2,74", "1,250"]);
    }
}
