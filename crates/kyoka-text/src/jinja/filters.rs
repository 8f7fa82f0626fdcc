//! Filters and tests of Jinja2 that the engine lacks or has otherwise.

use minijinja::{
    Environment, Error as TemplateError, State, Value,
    filters::{float, int},
    value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args},
};
use minijinja_contrib::filters::{filesizeformat, striptags};

use super::{arguments::named, fail, json::tojson, methods, percent::percent};

/// Puts them into an environment, in the place of those of the same name.
pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_filter("tojson", tojson);
    environment.add_filter("percent", percent);
    environment.add_filter("center", center);
    environment.add_filter("truncate", truncate);
    environment.add_filter("urlencode", urlencode);
    environment.add_filter("wordcount", |text: String| {
        text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty()).count()
    });
    environment.add_filter("indent", indent);
    for name in ["escape", "e", "forceescape"] {
        environment.add_filter(name, escape);
    }
    environment.add_filter("striptags", striptags);
    environment.add_filter("filesizeformat", filesizeformat);
    environment.add_filter("trim", |text: String, chars: Option<String>| {
        methods::strip(&text, chars.as_deref(), [true, true]).to_owned()
    });
    environment.add_filter("title", |text: String| methods::title(&text, jinja_word_start));
    // What is no number is the default, 0 where none is given.
    environment.add_filter("int", |state: &State<'_, '_>, value: &Value, default, base, options: Kwargs| {
        let default = named(default, &options, "default")?.unwrap_or_else(|| Value::from(0));
        int(state, value, Some(default), base, options)
    });
    environment.add_filter("float", |state: &State<'_, '_>, value: &Value, default, options: Kwargs| {
        let default = named(default, &options, "default")?.unwrap_or_else(|| Value::from(0.0));
        float(state, value, Some(default), options)
    });
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_test("sequence", |value: &Value| {
        value.is_undefined() || matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
    });
    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
}

/// Jinja2's `title` begins words behind white space, hyphens and opening brackets.
fn jinja_word_start(before: char) -> bool {
    before.is_whitespace() || "-({[<".contains(before)
}

fn center(
    state: &State<'_, '_>,
    value: &Value,
    width: Option<i64>,
    options: Kwargs,
) -> Result<String, TemplateError> {
    let width = named(width, &options, "width")?.unwrap_or(80);
    options.assert_all_used()?;
    methods::center(state, &value.to_string(), width, ' ')
}

/// Cuts behind a word, or within one if asked to; texts that are longer by `leeway` at most stay.
fn truncate(text: String, args: Rest<ValueOrKwargs>) -> Result<String, TemplateError> {
    let args = args.into_values();
    let (length, killwords, end, leeway, options): (Option<usize>, _, Option<String>, Option<usize>, Kwargs) =
        from_args(&args)?;
    let length = named(length, &options, "length")?.unwrap_or(255);
    let killwords = named(killwords, &options, "killwords")?.unwrap_or(false);
    let end = named(end, &options, "end")?.unwrap_or_else(|| "...".to_owned());
    let leeway = named(leeway, &options, "leeway")?.unwrap_or(5);
    options.assert_all_used()?;
    let Some(kept) = length.checked_sub(end.chars().count()) else {
        return Err(fail(format!(
            "truncate: expected a length of {} at least, got {length}",
            end.chars().count()
        )));
    };
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let kept: String = text.chars().take(kept).collect();
    let kept =
        if killwords { &kept } else { kept.rsplit_once(' ').map_or(kept.as_str(), |(words, _)| words) };
    Ok(format!("{kept}{end}"))
}

/// A text with what may not stand in a path as `%xx`, or names and values as a query.
fn urlencode(value: &Value) -> Result<String, TemplateError> {
    let quote = |value: &Value, in_query: bool| {
        let mut out = String::new();
        for byte in value.to_string().into_bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => {
                    out.push(char::from(byte))
                }
                b'/' if !in_query => out.push('/'),
                b' ' if in_query => out.push('+'),
                _ => out.push_str(&format!("%{byte:02X}")),
            }
        }
        out
    };
    let pairs: Vec<(Value, Value)> = match value.kind() {
        ValueKind::Map => {
            let pair = |key: Value| value.get_item(&key).map(|of| (key, of));
            value.try_iter()?.map(pair).collect::<Result<_, _>>()?
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let pair = |pair: Value| Ok((pair.get_item_by_index(0)?, pair.get_item_by_index(1)?));
            value.try_iter()?.map(pair).collect::<Result<_, TemplateError>>()?
        }
        _ => return Ok(quote(value, false)),
    };
    let pairs = pairs.iter().map(|(key, value)| format!("{}={}", quote(key, true), quote(value, true)));
    Ok(pairs.collect::<Vec<String>>().join("&"))
}

/// As markupsafe writes them.
fn escape(value: &Value) -> Value {
    if value.is_safe() {
        return value.clone();
    }
    let text = value.to_string().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    Value::from_safe_string(text.replace('\'', "&#39;").replace('"', "&#34;"))
}

/// Puts a width of blanks, or a text, before each line but the first.
fn indent(
    text: String,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    options: Kwargs,
) -> Result<String, TemplateError> {
    let width = named(width, &options, "width")?.unwrap_or_else(|| Value::from(4));
    let first = named(first, &options, "first")?.unwrap_or(false);
    let blank = named(blank, &options, "blank")?.unwrap_or(false);
    options.assert_all_used()?;
    let width = match width.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(usize::try_from(width)?.min(1 << 12)),
    };
    let mut out = String::new();
    for (number, line) in methods::lines(&(text + "\n"), false).into_iter().enumerate() {
        if number > 0 {
            out.push('\n');
        }
        if if number == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&width);
        }
        out.push_str(line);
    }
    Ok(out)
}
