//! Numbers with units, as answers are written.

use crate::{
    sections::unboxed,
    text::{plain, without_stop},
};

/// Most bytes of a number with its unit.
const LONGEST: usize = 1000;

/// A number, and the unit if one is named.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Quantity {
    value: f64,
    unit: Option<String>,
}

impl Quantity {
    /// The number.
    pub fn value(&self) -> f64 {
        self.value
    }

    /// The number that a text is; `None` if it is anything else, more than one number, or not finite.
    pub fn read(text: &str) -> Option<Self> {
        if text.trim().len() > LONGEST {
            return None;
        }
        let text = undecorated(text);
        let text = text.trim();
        let (sign, rest) = sign(text);
        let (symbol, rest) = currency(rest);
        let (inner_sign, rest) = if sign.is_none() { self::sign(rest) } else { (None, rest) };
        let (magnitude, rest) = magnitude(rest)?;
        let unit = match (symbol, rest.is_empty()) {
            (None, true) => None,
            (None, false) => Some(unit(rest)?),
            (Some(symbol), true) => Some(symbol.to_string()),
            (Some(_), false) => return None,
        };
        let value = sign.or(inner_sign).unwrap_or(1.0) * magnitude;
        value.is_finite().then_some(Self { value, unit })
    }

    /// Whether `given` differs by no more than a share of this number, and names no other unit.
    pub fn meets(&self, given: &Self, relative_tolerance: f64) -> bool {
        let close = (given.value - self.value).abs() <= relative_tolerance * self.value.abs();
        let units = self.unit.as_ref().zip(given.unit.as_ref());
        close && units.is_none_or(|(own, other)| own == other)
    }
}

/// A text without what LaTeX and prose put around a number; superscripts as `^2`.
fn undecorated(text: &str) -> String {
    let mut text = text.trim().to_owned();
    loop {
        let inner = without_stop(unboxed(&text));
        let pairs = [("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")];
        let inner = pairs
            .into_iter()
            .find_map(|(open, close)| inner.strip_prefix(open)?.strip_suffix(close))
            .unwrap_or(inner)
            .trim()
            .to_owned();
        if inner == text {
            break;
        }
        text = inner;
    }
    let text = plain(&raised(&text));
    let spelled = [
        ("\\,", ""),
        ("\\!", ""),
        ("\\;", " "),
        ("{,}", ","),
        ("\\$", "$"),
        ("\\%", "%"),
        ("^{\\circ}", "\u{b0}"),
        ("^\\circ", "\u{b0}"),
        ("\u{d7}", "\\times "),
    ];
    spelled.iter().fold(text, |text, (from, to)| text.replace(from, to))
}

/// Superscript digits as a power.
fn raised(text: &str) -> String {
    const RAISED: &str = "\u{2070}\u{b9}\u{b2}\u{b3}\u{2074}\u{2075}\u{2076}\u{2077}\u{2078}\u{2079}";
    let mut out = String::with_capacity(text.len());
    let mut above = false;
    for character in text.chars() {
        let lowered = match RAISED.chars().position(|raised| raised == character) {
            Some(digit) => char::from_digit(digit as u32, 10),
            None => (character == '\u{207b}').then_some('-'),
        };
        if lowered.is_some() && !above {
            out.push('^');
        }
        above = lowered.is_some();
        out.push(lowered.unwrap_or(character));
    }
    out
}

fn sign(text: &str) -> (Option<f64>, &str) {
    match (text.strip_prefix('-'), text.strip_prefix('+')) {
        (Some(rest), _) => (Some(-1.0), rest.trim_start()),
        (_, Some(rest)) => (Some(1.0), rest.trim_start()),
        _ => (None, text),
    }
}

const CURRENCIES: [char; 5] = ['$', '\u{20ac}', '\u{a3}', '\u{a5}', '\u{20b9}'];

fn currency(text: &str) -> (Option<char>, &str) {
    match text.chars().next().filter(|first| CURRENCIES.contains(first)) {
        Some(symbol) => (Some(symbol), text[symbol.len_utf8()..].trim_start()),
        None => (None, text),
    }
}

/// A number without sign, and what follows it.
fn magnitude(text: &str) -> Option<(f64, &str)> {
    if let Some(rest) = ["\\frac", "\\dfrac", "\\tfrac"].iter().find_map(|name| text.strip_prefix(name)) {
        let (numerator, rest) = argument(rest)?;
        let (denominator, rest) = argument(rest)?;
        return Some((numerator / denominator, rest));
    }
    let (value, rest) = decimal(text)?;
    if let Some((denominator, rest)) =
        rest.trim_start().strip_prefix('/').and_then(|rest| decimal(rest.trim_start()))
    {
        return Some((value / denominator, rest));
    }
    let times = rest.trim_start();
    let times = ["\\times", "\\cdot", "*", "x"].iter().find_map(|name| times.strip_prefix(name));
    match times.and_then(|power| ten_to(power.trim_start())) {
        // Parsed, not multiplied out, so that it is the number that `1.6e-19` is.
        Some((exponent, rest)) => Some((format!("{value}e{exponent}").parse().ok()?, rest)),
        None => Some((value, rest)),
    }
}

/// An argument of a LaTeX fraction: digits in braces, or one digit.
fn argument(text: &str) -> Option<(f64, &str)> {
    let text = text.trim_start();
    let (inside, rest) = match text.strip_prefix('{') {
        Some(inside) => inside.split_once('}')?,
        None => text.split_at_checked(1)?,
    };
    let (sign, number) = sign(inside.trim());
    let (value, nothing) = decimal(number)?;
    nothing.is_empty().then_some((sign.unwrap_or(1.0) * value, rest))
}

/// The exponent of `10^3` or `10^{-19}`.
fn ten_to(text: &str) -> Option<(i32, &str)> {
    let power = text.strip_prefix("10^")?;
    let (exponent, rest) = match power.strip_prefix('{') {
        Some(inside) => inside.split_once('}')?,
        None => {
            let minus = usize::from(power.starts_with('-'));
            power.split_at(minus + digits(&power[minus..]))
        }
    };
    Some((exponent.trim().parse().ok()?, rest))
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// `1234.5e6`, `1,234.5`, `.5`, and what follows it.
fn decimal(text: &str) -> Option<(f64, &str)> {
    let mut number = String::new();
    let first = digits(text);
    number.push_str(&text[..first]);
    let mut rest = &text[first..];
    if (1..=3).contains(&first) && !text.starts_with('0') {
        for separator in [',', ' '] {
            while let Some(group) = rest.strip_prefix(separator).filter(|group| digits(group) == 3) {
                number.push_str(&group[..3]);
                rest = &group[3..];
            }
            if number.len() > first {
                break;
            }
        }
    }
    if let Some(fraction) = rest.strip_prefix('.').filter(|fraction| digits(fraction) > 0) {
        let count = digits(fraction);
        number.push('.');
        number.push_str(&fraction[..count]);
        rest = &fraction[count..];
    }
    if number.is_empty() {
        return None;
    }
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let signs = usize::from(exponent.starts_with(['-', '+']));
        let count = digits(&exponent[signs..]);
        if count > 0 {
            number.push('e');
            number.push_str(&exponent[..signs + count]);
            rest = &exponent[signs + count..];
        }
    }
    Some((number.parse().ok()?, rest))
}

/// Units of one letter: others are variables or, as `M`, another number.
const LETTER_UNITS: &str = "m g s h d t l A V W J N C F L";

/// Signs and abbreviations of units, in lower case.
const SHORT_UNITS: &str = "% \u{b0} \u{b0}c \u{b0}f \u{2032} \u{2033} $ \u{20ac} \u{a3} \u{a5} \u{20b9} nm mm cm dm km in ft yd \
    mi mg kg lb lbs oz ms sec min hr ml cl hz khz mhz ghz mv kv ma mw kw kj cal kcal kn pa kpa mpa bar mol db kb mb gb px \
    rad deg km/h kmh m/s mph rpm fps";

/// Words that make another number, or no number, of the one before them.
const NO_UNITS: &str = "or and to by of plus minus times over point half quarter third dozen score hundred thousand million \
    billion trillion bn not no nor if is are more less than about between but even odd";

fn listed(list: &str, word: &str) -> bool {
    list.split_whitespace().any(|unit| unit == word)
}

/// A unit as comparisons take it: an abbreviation right behind the number or after a space, or up to three words after one;
/// `None` for other text.
fn unit(rest: &str) -> Option<String> {
    let spaced = rest.starts_with([' ', '\\']);
    let text =
        ["\\text{", "\\mathrm{", "\\ "].iter().fold(rest.to_owned(), |text, wrap| text.replace(wrap, ""));
    let text = text.replace('}', "");
    let text = text.trim();
    let (base, power) = text.split_at(text.find('^').unwrap_or(text.len()));
    let lower = text.to_lowercase();
    let is_short = listed(LETTER_UNITS, base) || listed(SHORT_UNITS, &base.to_lowercase());
    if is_short && ["", "^2", "^3"].contains(&power) {
        return Some(lower);
    }
    let words: Vec<&str> = lower.split_whitespace().collect();
    let is_word = |word: &&str| {
        word.chars().count() > 1 && word.chars().all(char::is_alphabetic) && !listed(NO_UNITS, word)
    };
    if !spaced || words.is_empty() || words.len() > 3 || !words.iter().all(is_word) {
        return None;
    }
    Some(match words[..] {
        ["percent" | "pct"] => "%".to_owned(),
        ["dollar" | "dollars" | "usd"] => "$".to_owned(),
        ["euro" | "euros" | "eur"] => "\u{20ac}".to_owned(),
        _ => words.join(" ").trim_end_matches('s').to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Option<f64> {
        Quantity::read(text).map(|quantity| quantity.value)
    }

    #[test]
    fn numbers_are_read_as_people_write_them() {
        for (text, expected) in [
            ("1024", 1024.0),
            ("1,024.0", 1024.0),
            ("12,345,678", 12_345_678.0),
            ("1 234", 1234.0),
            ("1\u{a0}234.5", 1234.5),
            (".5", 0.5),
            ("5.", 5.0),
            ("+5", 5.0),
            ("\u{2212}5", -5.0),
            ("- 5", -5.0),
            ("\u{ff15}", 5.0),
            ("1.2e3", 1200.0),
            ("1.6E-19", 1.6e-19),
            ("1.2 \\times 10^3", 1200.0),
            ("1.6 \\times 10^{-19}", 1.6e-19),
            ("1.2 \u{d7} 10\u{b3}", 1200.0),
            ("2 x 10^4", 20_000.0),
            ("1/2", 0.5),
            ("-1 / 4", -0.25),
            ("\\frac{1}{2}", 0.5),
            ("-\\dfrac{3}{4}", -0.75),
            ("\\frac12", 0.5),
            ("$0.5$", 0.5),
            ("\\(0.5\\)", 0.5),
            ("$\\boxed{42}$.", 42.0),
            ("$5", 5.0),
            ("-$5", -5.0),
            ("$-5", -5.0),
            ("\\$1,000", 1000.0),
            ("5\u{20ac}", 5.0),
            ("50%", 50.0),
            ("50 \\%", 50.0),
            ("5 cm", 5.0),
            ("5cm", 5.0),
            ("5 m\u{b2}", 5.0),
            ("5 \\text{ cm}", 5.0),
            ("5 square meters", 5.0),
            ("36.6\u{b0}C", 36.6),
            ("90^\\circ", 90.0),
            ("$\\boxed{5\\text{ cm}}$", 5.0),
        ] {
            assert_eq!(value(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_numbers() {
        for text in [
            "",
            "two",
            "nan",
            "inf",
            "-",
            ",024",
            "1,2",
            "1234,567",
            "1,0e2",
            "1,024.5,0",
            "1.024,5",
            "0,123",
            "1 2 3 4",
            "1 23",
            "1, 2, 3",
            "2 or 3",
            "5 or six",
            "5 million",
            "5k",
            "5M",
            "5 K",
            "5xy",
            "2e",
            "2x",
            "2\u{3c0}",
            "2\\pi",
            "1/0",
            "1e400",
            "1/2/3",
            "--5",
            "0x10",
            "5 (five)",
            "about 5",
            "2^3",
            "21\u{bd}",
            "10^3",
            "$5 million",
            "5 + 3",
            "x < 5",
            "5 to",
        ] {
            assert_eq!(value(text), None, "{text}");
        }
    }

    #[test]
    fn the_tolerance_is_relative_and_units_must_agree() {
        let meets = |gold: &str, given: &str| {
            Quantity::read(gold).unwrap().meets(&Quantity::read(given).unwrap(), 1e-6)
        };
        assert!(meets("1000000", "1000000.5") && !meets("1000000", "1000002"));
        assert!(!meets("1.6e-19", "0") && meets("1.6e-19", "1.6 \\times 10^{-19}"));
        assert!(!meets("0.0000005", "-0.0000004"));
        assert!(meets("0", "-0.0") && !meets("0", "1e-12"));
        assert!(
            meets("5", "5 cm")
                && meets("5 cm", "5")
                && meets("$5", "5 dollars")
                && meets("50%", "50 percent")
        );
        assert!(!meets("5 km", "5 m") && !meets("$5", "5\u{20ac}") && !meets("50%", "0.5"));
        assert!(meets("5 apples", "5 apple"));
    }
}
