//! Texts made alike where they say the same.

use unicode_normalization::UnicodeNormalization;

/// One spelling of characters that people do not tell apart: composed letters, full-width forms as their plain ones, one
/// minus sign, one kind of space. Superscripts and fractions stay what they are.
pub(crate) fn plain(text: &str) -> String {
    let fold = |character: char| match character {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(character as u32 - 0xfee0).unwrap_or(character),
        '\u{2212}' | '\u{2010}' | '\u{2011}' | '\u{2013}' | '\u{fe63}' => '-',
        '\u{ff61}' => '\u{3002}',
        other if other.is_whitespace() => ' ',
        other => other,
    };
    text.nfc().map(fold).collect()
}

/// A text as exact answers are compared: [`plain`], in lower case, with single spaces and none around commas, without a
/// full stop at the end.
pub(crate) fn normal(text: &str) -> String {
    let lower: String = plain(text).to_lowercase().nfc().collect();
    let words = lower.split_whitespace().collect::<Vec<_>>().join(" ");
    let joined = words.split(',').map(str::trim).collect::<Vec<_>>().join(",");
    without_stop(&joined).to_owned()
}

/// A text without one full stop at its end, if anything else is there.
pub(crate) fn without_stop(text: &str) -> &str {
    match text.strip_suffix(['.', '\u{3002}']).map(str::trim_end) {
        Some(rest) if !rest.is_empty() => rest,
        _ => text,
    }
}

/// The letter of a choice, of a text in [`normal`] form: `b`, `(b)`, `b) the cat`. A text that names a second one has none.
pub(crate) fn choice(text: &str) -> Option<char> {
    let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
    let letter = marked(first).or_else(|| lone(first).filter(|_| rest.is_empty()))?;
    rest.split(' ').all(|word| marked(word).is_none()).then_some(letter)
}

/// The letter of `(b)`, `b)`, `b.` or `b:`.
fn marked(word: &str) -> Option<char> {
    match word.strip_prefix('(') {
        Some(rest) => lone(rest.strip_suffix(")")?.trim_end_matches(['.', ':'])),
        None => lone(word.strip_suffix([')', '.', ':'])?),
    }
}

fn lone(word: &str) -> Option<char> {
    let mut characters = word.chars();
    let letter = characters.next().filter(char::is_ascii_lowercase)?;
    characters.next().is_none().then_some(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_text_are_one() {
        for (a, b) in [
            ("Cafe\u{301}", "caf\u{e9}"),
            ("\u{ff12}", "2"),
            ("\u{2212}5", "-5"),
            ("\u{732b}\u{3002}", "\u{732b}"),
            ("1, 2 ,3", "1,2,3"),
            ("  ankle\u{a0}\n BOOT.", "ankle boot"),
            ("\u{130}stanbul", "i\u{307}stanbul"),
        ] {
            assert_eq!(normal(a), normal(b), "{a} {b}");
        }
        for (a, b) in [("10\u{b2}", "102"), ("1 234", "1234"), (".", ""), ("50%", "50"), ("$5", "5")] {
            assert_ne!(normal(a), normal(b), "{a} {b}");
        }
    }

    #[test]
    fn a_choice_is_one_letter() {
        for text in ["b", "(b)", "b)", "b. the cat", "(b) a cat", "b: the cat"] {
            assert_eq!(choice(text), Some('b'), "{text}");
        }
        for text in ["", "b cat", "b or c", "bat", "(b", "b) or c)", "(b) (c)", "b.cat", "2.", "b. and c."] {
            assert_eq!(choice(text), None, "{text}");
        }
    }
}
