//! What an answer is: an expression, a list, a set, an interval, a relation, words.

use super::{
    expression::Expr,
    extract::Piece,
    number::Rational,
    parse::{expression, words},
};
use crate::sections::group;

/// An answer as it was written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    /// One number or formula, and whether it is in percent.
    One(Expr, bool),
    /// Things between brackets: a point, an interval, a set.
    Bracketed { open: char, close: char, items: Vec<Answer> },
    /// Things side by side.
    List(Vec<Answer>),
    /// Sets put together.
    Union(Vec<Answer>),
    /// Numbers in proportion.
    Ratio(Vec<Answer>),
    /// What stands left of the first sign, what right of the last, and whether it gives something its value.
    Equation { left: Option<Expr>, right: Box<Answer>, gives: bool },
    /// Expressions and the order between them.
    Order(Vec<Expr>, Vec<Order>),
    /// Words, without spaces.
    Words(String),
}

/// How two sides stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    NotEqual,
}

impl Answer {
    /// Reads the pieces of an answer.
    pub(crate) fn read(pieces: &[Piece<'_>]) -> Option<Self> {
        let mut items = Vec::new();
        for piece in pieces {
            match Self::of_text(piece.text, *piece)? {
                Self::List(several) if pieces.len() > 1 => items.extend(several),
                one => items.push(one),
            }
        }
        match items.len() {
            0 => None,
            1 => items.pop(),
            _ => Some(Self::List(items)),
        }
    }

    /// Whether words stand anywhere in it.
    pub(crate) fn has_words(&self) -> bool {
        match self {
            Self::Words(_) => true,
            Self::One(..) | Self::Order(..) => false,
            Self::Equation { right, .. } => right.has_words(),
            Self::Bracketed { items, .. } | Self::List(items) | Self::Union(items) | Self::Ratio(items) => {
                items.iter().any(Self::has_words)
            }
        }
    }

    fn of_text(text: &str, piece: Piece<'_>) -> Option<Self> {
        let text = cleaned(text, piece.latex);
        let groups = split(&text, |rest, depth| (depth == 0 && rest.starts_with(';')).then_some(1));
        if groups.len() > 1 {
            // (p, q) pairs are written as p=5,q=2;p=7,q=2.
            let read = |group: &String| match Self::of_list(group, piece.percent)? {
                Self::List(items) => Some(Self::Bracketed { open: '(', close: ')', items }),
                one => Some(one),
            };
            return Some(Self::List(groups.iter().map(read).collect::<Option<_>>()?));
        }
        Self::of_list(&text, piece.percent)
    }

    fn of_list(text: &str, percent: bool) -> Option<Self> {
        let items = split(text, separator);
        if items.len() < 2 {
            return Self::relation(text, percent);
        }
        let read: Vec<Self> =
            items.iter().map(|item| Self::relation(item, percent)).collect::<Option<_>>()?;
        // n = 1, 2, 3 gives n three values.
        Some(Self::List(read))
    }

    fn relation(text: &str, percent: bool) -> Option<Self> {
        let text = text.trim();
        if let Some((_, set)) = cut(text, &["\\in", "∈"]).into_iter().last() {
            return Self::relation(set, percent);
        }
        let united = split(text, |rest, depth| {
            let length = ["\\cup", "∪"].iter().find(|sign| rest.starts_with(**sign)).map(|sign| sign.len());
            length.filter(|_| depth == 0)
        });
        if united.len() > 1 {
            return Some(Self::Union(
                united.iter().map(|part| Self::relation(part, percent)).collect::<Option<_>>()?,
            ));
        }
        let (sides, signs) = relations(text);
        if signs.is_empty() {
            return Self::single(text, percent);
        }
        if signs.iter().all(|sign| *sign == Sign::Equal || *sign == Sign::About) {
            // What is only about right says less than what stands before it.
            let exact = signs.iter().position(|sign| *sign == Sign::About).filter(|&at| at > 0);
            let right = sides[exact.unwrap_or(signs.len())];
            let gives = is_name(sides[0]);
            let left = expression(sides[0]);
            let right = Box::new(Self::single(right, percent)?);
            return Some(Self::Equation { left, right, gives });
        }
        let orders: Option<Vec<Order>> = signs
            .iter()
            .map(|sign| match sign {
                Sign::Order(order) => Some(*order),
                _ => None,
            })
            .collect();
        let sides = sides.into_iter().map(expression).collect::<Option<_>>()?;
        Some(Self::Order(sides, orders?))
    }

    fn single(text: &str, percent: bool) -> Option<Self> {
        let text = text.trim().trim_end_matches(['.', ',']).trim();
        if let Some(bracketed) = Self::bracketed(text, percent) {
            return Some(bracketed);
        }
        let ratio = split(text, |rest, depth| (depth == 0 && rest.starts_with(':')).then_some(1));
        if ratio.len() > 1 {
            return Some(Self::Ratio(
                ratio.iter().map(|part| Self::single(part, false)).collect::<Option<_>>()?,
            ));
        }
        let (text, signed) = match text.strip_suffix('%') {
            Some(rest) => (rest.trim_end_matches([' ', '\\']), true),
            None => (text, false),
        };
        if let Some(read) = scientific(text).or_else(|| expression(text)) {
            return Some(Self::One(read, percent || signed));
        }
        words(text).map(Self::Words)
    }

    /// What brackets around all of it hold, if it is more than one thing or a set.
    fn bracketed(text: &str, percent: bool) -> Option<Self> {
        let (text, set) = match text.strip_prefix("\\{") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let open = if set { '{' } else { text.chars().next().filter(|open| "([{".contains(*open))? };
        let inside = if set { text } else { &text[1..] };
        let close = inside.chars().next_back().filter(|close| ")]}".contains(*close))?;
        let inside = &inside[..inside.len() - 1];
        let inside = if set { inside.strip_suffix('\\').unwrap_or(inside) } else { inside };
        if !is_balanced(inside) {
            return None;
        }
        let items = split(inside, separator);
        if !set && (items.len() < 2 || (open == '{') != (close == '}')) {
            return None;
        }
        if set && inside.trim().is_empty() {
            return Some(Self::Bracketed { open, close, items: Vec::new() });
        }
        let items = items.iter().map(|item| Self::relation(item, percent)).collect::<Option<_>>()?;
        Some(Self::Bracketed { open: if set { 's' } else { open }, close, items })
    }
}

/// A number such as `1.5e-7`, as programs write it: all of a text, or `e` is Euler's number.
fn scientific(text: &str) -> Option<Expr> {
    let (digits, exponent) = text.split_once(['e', 'E'])?;
    let unsigned = digits.strip_prefix(['-', '+']).unwrap_or(digits);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let exponent_digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty()
        || !plain(whole)
        || !plain(fraction)
        || exponent_digits.is_empty()
        || !plain(exponent_digits)
    {
        return None;
    }
    let size: i128 = exponent.trim_start_matches('+').parse().ok().filter(|size: &i128| size.abs() <= 400)?;
    let number = Expr::Number(Rational::decimal(whole, fraction)?, !fraction.is_empty());
    let ten = Expr::Number(Rational::whole(10), false);
    let power = Expr::Power(Box::new(ten), Box::new(Expr::Number(Rational::whole(size), false)));
    let product = Expr::Product(vec![number, power]);
    Some(if digits.starts_with('-') { Expr::Negative(Box::new(product)) } else { product })
}

/// Where things in a list are parted.
fn separator(rest: &str, depth: usize) -> Option<usize> {
    if depth > 0 {
        return None;
    }
    [
        ",",
        ";",
        "\\text{and}",
        "\\text{ and }",
        "\\text{or}",
        "\\text{ or }",
        " and ",
        " or ",
        "\\land",
        "\\lor",
        "∨",
    ]
    .into_iter()
    .find(|sign| rest.starts_with(sign))
    .map(str::len)
}

/// Pieces of a text between separators; `at` says how long a separator is where one begins.
fn split(text: &str, at: impl Fn(&str, usize) -> Option<usize>) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let (mut depth, mut place) = (0_usize, 0);
    while place < text.len() {
        let rest = &text[place..];
        if let Some(length) = at(rest, depth) {
            pieces.push(String::new());
            place += length;
            continue;
        }
        let first = rest.chars().next().expect("it is not at the end");
        match first {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => (),
        }
        if let Some(piece) = pieces.last_mut() {
            piece.push(first);
        }
        place += first.len_utf8();
    }
    if pieces.len() > 1 {
        pieces.retain(|piece| !piece.trim().is_empty());
    }
    pieces
}

/// Whether brackets close in it what they open; those of intervals may differ.
fn is_balanced(text: &str) -> bool {
    let mut depth = 0_i64;
    for character in text.chars() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => (),
        }
        if depth < 0 {
            return false;
        }
    }
    depth == 0
}

/// The text cut at each sign outside of brackets: what stands before it, and behind.
fn cut<'a>(text: &'a str, signs: &[&str]) -> Vec<(&'a str, &'a str)> {
    let mut found = Vec::new();
    let mut depth = 0_usize;
    for (at, character) in text.char_indices() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => (),
        }
        if depth > 0 {
            continue;
        }
        if let Some(sign) = signs.iter().find(|sign| text[at..].starts_with(**sign)) {
            let behind = &text[at + sign.len()..];
            // \int, \infty are no \in.
            if !sign.starts_with('\\') || !behind.starts_with(|next: char| next.is_ascii_alphabetic()) {
                found.push((&text[..at], behind));
            }
        }
    }
    found
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Equal,
    About,
    Order(Order),
}

/// The sides of relations, and the signs between them.
fn relations(text: &str) -> (Vec<&str>, Vec<Sign>) {
    const SIGNS: [(&str, Sign); 22] = [
        ("\\leqslant", Sign::Order(Order::LessOrEqual)),
        ("\\geqslant", Sign::Order(Order::GreaterOrEqual)),
        ("\\leq", Sign::Order(Order::LessOrEqual)),
        ("\\geq", Sign::Order(Order::GreaterOrEqual)),
        ("\\le", Sign::Order(Order::LessOrEqual)),
        ("\\ge", Sign::Order(Order::GreaterOrEqual)),
        ("\\lt", Sign::Order(Order::Less)),
        ("\\gt", Sign::Order(Order::Greater)),
        ("\\neq", Sign::Order(Order::NotEqual)),
        ("\\ne", Sign::Order(Order::NotEqual)),
        ("\\approx", Sign::About),
        ("\\equiv", Sign::Equal),
        ("<=", Sign::Order(Order::LessOrEqual)),
        (">=", Sign::Order(Order::GreaterOrEqual)),
        ("!=", Sign::Order(Order::NotEqual)),
        ("≤", Sign::Order(Order::LessOrEqual)),
        ("≥", Sign::Order(Order::GreaterOrEqual)),
        ("≠", Sign::Order(Order::NotEqual)),
        ("≈", Sign::About),
        ("<", Sign::Order(Order::Less)),
        (">", Sign::Order(Order::Greater)),
        ("=", Sign::Equal),
    ];
    let (mut sides, mut signs) = (Vec::new(), Vec::new());
    let (mut depth, mut start, mut at) = (0_usize, 0, 0);
    while at < text.len() {
        let rest = &text[at..];
        let first = rest.chars().next().expect("it is not at the end");
        match first {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => (),
        }
        let is_whole = |name: &str| {
            !name.starts_with('\\')
                || !rest[name.len()..].starts_with(|next: char| next.is_ascii_alphabetic())
        };
        let sign = SIGNS.iter().find(|(name, _)| depth == 0 && rest.starts_with(name) && is_whole(name));
        match sign {
            Some((name, sign)) => {
                sides.push(&text[start..at]);
                signs.push(*sign);
                at += name.len();
                start = at;
            }
            None => at += first.len_utf8(),
        }
    }
    sides.push(&text[start..]);
    (sides, signs)
}

/// Whether a side only names something, such as `x`, `f(x)`, `(p, q)`, `|AB|`: it is no formula of its own.
fn is_name(side: &str) -> bool {
    let side = side.trim();
    let has_letter = side.chars().any(char::is_alphabetic);
    let plain = side.replace("\\frac", "").replace("\\left", "").replace("\\right", "");
    let mut depth = 0_usize;
    for character in plain.chars() {
        match character {
            '(' | '[' | '{' | '_' if character != '_' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            '+' | '-' | '^' if depth == 0 => return false,
            digit if digit.is_ascii_digit() && depth == 0 && !plain.contains('_') => return false,
            _ => (),
        }
    }
    has_letter
}

/// A text without what only looks: sizes, spaces, thousands marks, money.
fn cleaned(text: &str, latex: bool) -> String {
    let mut text = spaced_thousands(&text.trim().replace('\n', " "));
    if !text.contains("\\begin") {
        text = singly_escaped(&text);
    }
    // Rows of a matrix are no spaces.
    text = text.replace("\\\\", "\u{2}");
    for (from, to) in [
        (" {, }", "\u{1}"),
        ("{, }", "\u{1}"),
        ("{,}", "\u{1}"),
        (",\\! ", "\u{1}"),
        (",\\!", "\u{1}"),
        ("\\left", ""),
        ("\\right", ""),
        ("\\lbrace", "\\{"),
        ("\\rbrace", "\\}"),
        ("\\$", ""),
        ("\\%", "%"),
        ("\\quad", " "),
        ("\\,", " "),
        ("\\ ", " "),
        ("\\;", " "),
        ("\\!", ""),
        ("\\displaystyle", ""),
        ("^{\\circ}", ""),
        ("^\\circ", ""),
        ("°", ""),
        ("€", ""),
        ("£", ""),
        ("$", " "),
        ("+\\infty", "\\infty"),
        ("\u{2}", "\\\\"),
    ] {
        text = text.replace(from, to);
    }
    for (word, sign) in [("percentage", "%"), ("percent", "%"), ("pct", "%")] {
        if let Some(rest) = text.trim_end().strip_suffix(word) {
            text = format!("{rest}{sign}");
        }
    }
    text = without_boxes(&text);
    text = parted(&text);
    numbers(&text, latex)
}

/// A thin space of LaTeX between a digit and three others parts thousands.
fn spaced_thousands(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\\,") {
        let behind = &rest[at + 2..];
        let digits = behind.bytes().take_while(u8::is_ascii_digit).count();
        let joins = digits == 3 && rest[..at].ends_with(|before: char| before.is_ascii_digit());
        out.push_str(&rest[..at]);
        out.push_str(if joins { "\u{1}" } else { "\\," });
        rest = behind;
    }
    out + rest
}

/// A text whose backslashes were escaped once more than they should have been.
fn singly_escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\\\\") {
        out.push_str(&rest[..at]);
        let behind = rest[at..].trim_start_matches('\\');
        out.push_str(if behind.starts_with(|next: char| next.is_alphabetic()) { "\\" } else { "\\\\" });
        rest = behind;
    }
    out + rest
}

/// A box inside an answer is what it holds.
fn without_boxes(text: &str) -> String {
    let mut text = text.to_owned();
    while let Some(start) = text.find("\\boxed{") {
        let inside = start + "\\boxed{".len();
        let Some(length) = group(&text[inside..]) else { break };
        text =
            format!("{}{}{}", &text[..start], &text[inside..inside + length], &text[inside + length + 1..]);
    }
    text
}

/// Commas for `or` and `and` that were written without spaces behind a number or bracket, as in `(1,2)or(2,1)`.
fn parted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word = ["or", "and"].into_iter().find(|word| rest.starts_with(word));
        let behind = out.ends_with(|before: char| before.is_ascii_digit() || ")]}".contains(before));
        match word.filter(|word| behind && !rest[word.len()..].starts_with(|next: char| next.is_lowercase()))
        {
            Some(word) => {
                out.push(',');
                rest = &rest[word.len()..];
            }
            None => {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    out
}

/// Thousands joined, and a comma before decimals as a point where it can be nothing else.
fn numbers(text: &str, latex: bool) -> String {
    let characters: Vec<char> = text.chars().collect();
    let digit = |at: usize| characters.get(at).is_some_and(char::is_ascii_digit);
    let digits_behind = |at: usize| (at + 1..characters.len()).take_while(|&at| digit(at)).count();
    let digits_before = |at: usize| (0..at).rev().take_while(|&at| digit(at)).count();
    let mut out = String::with_capacity(text.len());
    let mut grouped = false;
    // (12,102) are two numbers.
    let bracketed = |at: usize| {
        let (before, behind) = (at - digits_before(at), at + digits_behind(at) + 1);
        let opened = before > 0 && "([".contains(characters[before - 1]);
        opened && characters.get(behind).is_some_and(|next| ")]".contains(*next))
    };
    for (at, &character) in characters.iter().enumerate() {
        let between = at > 0 && digit(at - 1) && digit(at + 1);
        let thousands =
            between && digits_behind(at) == 3 && (grouped || (1..=3).contains(&digits_before(at)));
        let zero = at > 0 && characters[at - 1] == '0' && digits_before(at) == 1;
        match character {
            '\u{1}' => (),
            ',' if thousands && !zero && !bracketed(at) => grouped = true,
            ' ' if thousands && !latex => grouped = true,
            ',' if between && !latex && text.matches(',').count() == 1 && !text.contains(['(', '[']) => {
                out.push('.')
            }
            other => {
                grouped = grouped && other.is_ascii_digit();
                out.push(other);
            }
        }
    }
    out
}
