//! Methods of Python's texts, lists and maps, beside those that minijinja-contrib brings.

use minijinja::{
    Error as TemplateError, State, Value,
    value::{Kwargs, Tuple, ValueKind, from_args},
};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::{arguments::named, fail};

/// Calls a method that the engine does not know.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, TemplateError> {
    let own = match (value.as_str(), value.kind()) {
        (Some(text), _) => of_text(state, text, method, args)?,
        (None, ValueKind::Seq | ValueKind::Map) => of_container(value, method, args)?,
        _ => None,
    };
    own.map_or_else(|| unknown_method_callback(state, value, method, args), Ok)
}

/// `None` for a method that is not among these.
fn of_text(
    state: &State<'_, '_>,
    text: &str,
    method: &str,
    args: &[Value],
) -> Result<Option<Value>, TemplateError> {
    Ok(Some(match method {
        "split" | "rsplit" => split(text, method == "rsplit", args)?,
        "partition" | "rpartition" => partition(text, method == "rpartition", args)?,
        "splitlines" => {
            let (keep, options): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = named(keep, &options, "keepends")?.unwrap_or(false);
            options.assert_all_used()?;
            lines(text, keep).into_iter().map(Value::from).collect()
        }
        "find" | "rfind" | "index" | "rindex" => found(text, method, args)?,
        "count" => {
            let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            Value::from(window(text, start, end).map_or(0, |(_, part)| part.matches(what).count()))
        }
        "startswith" | "endswith" => begins_or_ends(text, method == "startswith", args)?,
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Value::from(strip(text, chars, [method != "rstrip", method != "lstrip"]))
        }
        "removeprefix" | "removesuffix" => {
            let (part,): (&str,) = from_args(args)?;
            let cut =
                if method == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
            Value::from(cut.unwrap_or(text))
        }
        "zfill" | "center" | "ljust" | "rjust" => padded(state, text, method, args)?,
        "join" => joined(state, text, args)?,
        _ => match case(text, method) {
            Some(value) => {
                let () = from_args(args)?;
                value
            }
            None => return Ok(None),
        },
    }))
}

/// Methods about upper and lower case, and kinds of characters, all without arguments.
fn case(text: &str, method: &str) -> Option<Value> {
    let swapped = |c: char| -> String {
        if c.is_lowercase() { c.to_uppercase().collect() } else { c.to_lowercase().collect() }
    };
    // What Python counts as digits beyond the decimal ones: raised and lowered, and in circles.
    let raised = |c: char| matches!(c, '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' | '₀'..='₉' | '①'..='⑨' | '⑴'..='⑼' | '⒈'..='⒐');
    let all = |of: &dyn Fn(char) -> bool| Value::from(!text.is_empty() && text.chars().all(of));
    Some(match method {
        "title" => Value::from(title(text, |before| !before.is_alphabetic())),
        "swapcase" => Value::from(text.chars().map(swapped).collect::<String>()),
        "casefold" => Value::from(text.to_lowercase().replace('ß', "ss")),
        "istitle" => {
            let cased = text.chars().any(|c| c.is_uppercase() || c.is_lowercase());
            Value::from(cased && title(text, |before| !before.is_alphabetic()) == text)
        }
        "isdecimal" => all(&is_decimal),
        "isdigit" => all(&|c| is_decimal(c) || raised(c)),
        "isspace" => all(&is_space),
        _ => return None,
    })
}

/// Whether it is a decimal digit of a script: those stand in runs of ten, each from its zero on.
fn is_decimal(c: char) -> bool {
    const ZEROS: [u32; 37] = [
        0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6,
        0xe50, 0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0,
        0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
    ];
    ZEROS.iter().any(|&zero| (zero..zero + 10).contains(&u32::from(c)))
}

/// Python's white space: Unicode's, and the four separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// The text without white space, or without these characters, at the ends asked for.
pub(super) fn strip<'a>(text: &'a str, chars: Option<&str>, [start, end]: [bool; 2]) -> &'a str {
    let goes = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if start { text.trim_start_matches(goes) } else { text };
    if end { text.trim_end_matches(goes) } else { text }
}

/// Upper case where a word starts, lower case elsewhere; `starts` is told the character before.
pub(super) fn title(text: &str, starts: impl Fn(char) -> bool) -> String {
    let mut before = ' ';
    let cased = text.chars().flat_map(|c| {
        let upper = starts(before);
        before = c;
        let cased: String = if upper { c.to_uppercase().collect() } else { c.to_lowercase().collect() };
        cased.chars().collect::<Vec<char>>()
    });
    cased.collect()
}

/// The lines of a text, at all that Python takes for an end of one.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let breaks = |c: char| {
        matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let (mut lines, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let at = rest.find(breaks).unwrap_or(rest.len());
        let broken = rest[at..].chars().next().map_or(0, char::len_utf8);
        let end = at + if rest[at..].starts_with("\r\n") { 2 } else { broken };
        lines.push(&rest[..if keep_ends { end } else { at }]);
        rest = &rest[end..];
    }
    lines
}

fn split(text: &str, from_the_end: bool, args: &[Value]) -> Result<Value, TemplateError> {
    let (separator, most, options): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = named(separator, &options, "sep")?.filter(|separator| !separator.is_none());
    let most = named(most, &options, "maxsplit")?.unwrap_or(-1);
    options.assert_all_used()?;
    let most = usize::try_from(most).unwrap_or(usize::MAX - 1);
    let mut parts: Vec<&str> = match &separator {
        Some(separator) => {
            let separator = separator.as_str().filter(|separator| !separator.is_empty());
            let separator = separator.ok_or_else(|| fail("split: expected a text that is not empty"))?;
            match from_the_end {
                true => text.rsplitn(most.saturating_add(1), separator).collect(),
                false => text.splitn(most.saturating_add(1), separator).collect(),
            }
        }
        None => words(text, from_the_end, most),
    };
    if from_the_end {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Words between white space, in the order in which they are found; what is left behind the last split stays whole.
fn words(text: &str, from_the_end: bool, most: usize) -> Vec<&str> {
    let (mut words, mut rest) = (Vec::new(), strip(text, None, [!from_the_end, from_the_end]));
    while !rest.is_empty() {
        let blank = if from_the_end { rest.rfind(is_space) } else { rest.find(is_space) };
        let (word, left) = match blank.filter(|_| words.len() < most) {
            None => (rest, ""),
            Some(at) if from_the_end => {
                let width = rest[at..].chars().next().map_or(0, char::len_utf8);
                (&rest[at + width..], strip(&rest[..at], None, [false, true]))
            }
            Some(at) => (&rest[..at], strip(&rest[at..], None, [true, false])),
        };
        words.push(word);
        rest = left;
    }
    words
}

fn partition(text: &str, from_the_end: bool, args: &[Value]) -> Result<Value, TemplateError> {
    let (separator,): (&str,) = from_args(args)?;
    if separator.is_empty() {
        return Err(fail("partition: expected a text that is not empty"));
    }
    let found = if from_the_end { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match found {
        Some((before, after)) => [before, separator, after],
        None if from_the_end => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from).to_vec())))
}

/// The part of a text between two places, counted in characters, from its end if negative; and where it begins. `None`
/// if it begins behind its end.
fn window(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(usize, &str)> {
    let length = text.chars().count();
    let place = |at: i64| usize::try_from(if at < 0 { (at + length as i64).max(0) } else { at }).unwrap_or(0);
    let (start, end) = (start.map_or(0, place), end.map_or(length, place).min(length));
    if start > end {
        return None;
    }
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    Some((start, &text[byte(start)..byte(end)]))
}

fn found(text: &str, method: &str, args: &[Value]) -> Result<Value, TemplateError> {
    let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    let at = window(text, start, end).and_then(|(start, part)| {
        let at = if method.starts_with('r') { part.rfind(what) } else { part.find(what) };
        at.map(|at| start + part[..at].chars().count())
    });
    match at {
        Some(at) => Ok(Value::from(at)),
        None if method.ends_with("index") => Err(fail(format!("{method}: {what:?} is not in the text"))),
        None => Ok(Value::from(-1)),
    }
}

fn begins_or_ends(text: &str, begins: bool, args: &[Value]) -> Result<Value, TemplateError> {
    let (what, start, end): (Value, Option<i64>, Option<i64>) = from_args(args)?;
    let Some((_, part)) = window(text, start, end) else { return Ok(Value::from(false)) };
    let any: Vec<Value> = if what.is_tuple() { what.try_iter()?.collect() } else { vec![what] };
    for what in any {
        let Some(what) = what.as_str() else {
            return Err(fail(format!(
                "startswith, endswith: expected a text or a tuple of them, got {what}"
            )));
        };
        if if begins { part.starts_with(what) } else { part.ends_with(what) } {
            return Ok(Value::from(true));
        }
    }
    Ok(Value::from(false))
}

fn padded(state: &State<'_, '_>, text: &str, method: &str, args: &[Value]) -> Result<Value, TemplateError> {
    let (width, fill): (i64, Option<&str>) = from_args(args)?;
    let mut chars = fill.unwrap_or(" ").chars();
    let (Some(fill), None) = (chars.next(), chars.next()) else {
        return Err(fail(format!("{method}: expected one character to fill with, got {fill:?}")));
    };
    if method == "center" {
        return center(state, text, width, fill).map(Value::from);
    }
    let blanks = filling(state, text, width)?;
    let (sign, digits) = text.split_at(text.starts_with(['+', '-']).into());
    Ok(Value::from(match method {
        "zfill" => format!("{sign}{}{digits}", "0".repeat(blanks)),
        "rjust" => fill.to_string().repeat(blanks) + text,
        _ => text.to_owned() + &fill.to_string().repeat(blanks),
    }))
}

/// The text in the middle of `width` characters, as Python puts it where it cannot be the middle.
pub(super) fn center(
    state: &State<'_, '_>,
    text: &str,
    width: i64,
    fill: char,
) -> Result<String, TemplateError> {
    let blanks = filling(state, text, width)?;
    let before = blanks / 2 + usize::from(blanks % 2 == 1 && width % 2 == 1);
    let fill = |count: usize| fill.to_string().repeat(count);
    Ok(format!("{}{text}{}", fill(before), fill(blanks - before)))
}

/// Characters that a text lacks to a width; paid for before they are made.
fn filling(state: &State<'_, '_>, text: &str, width: i64) -> Result<usize, TemplateError> {
    let blanks = usize::try_from(width).unwrap_or(0).saturating_sub(text.chars().count());
    state.consume_fuel(blanks as u64 / 16)?;
    Ok(blanks)
}

fn joined(state: &State<'_, '_>, separator: &str, args: &[Value]) -> Result<Value, TemplateError> {
    let (values,): (Value,) = from_args(args)?;
    let mut out = String::new();
    for (number, value) in values.try_iter()?.enumerate() {
        let text = value.as_str().ok_or_else(|| fail(format!("join: expected texts, got {value}")))?;
        state.consume_fuel((separator.len() + text.len()) as u64 / 64)?;
        out.push_str(if number > 0 { separator } else { "" });
        out.push_str(text);
    }
    Ok(Value::from(out))
}

/// Methods of lists and maps; `None` for one that is not among these.
fn of_container(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, TemplateError> {
    match method {
        "copy" => {
            let () = from_args(args)?;
            Ok(Some(value.clone()))
        }
        "index" if value.kind() == ValueKind::Seq => {
            let (what,): (Value,) = from_args(args)?;
            let at = value.try_iter()?.position(|item| item == what);
            at.map(|at| Some(Value::from(at)))
                .ok_or_else(|| fail(format!("index: {what} is not in the list")))
        }
        _ => Ok(None),
    }
}
