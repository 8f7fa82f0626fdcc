//! JSON and numbers as Python writes them: chat templates were trained with these.

use minijinja::{
    Error as TemplateError, State, Value,
    value::{Kwargs, ValueKind},
};

use super::{arguments::named, fail};

/// The filter `tojson` as transformers defines it: `json.dumps` with `ensure_ascii`, `indent`, `separators` and
/// `sort_keys`.
pub(super) fn tojson(
    state: &State<'_, '_>,
    value: Value,
    ensure_ascii: Option<bool>,
    indent: Option<Value>,
    options: Kwargs,
) -> Result<String, TemplateError> {
    let ensure_ascii = named(ensure_ascii, &options, "ensure_ascii")?.unwrap_or(false);
    let indent = match named(indent, &options, "indent")?.filter(|indent| !indent.is_none()) {
        Some(indent) if indent.as_str().is_some() => indent.as_str().map(str::to_owned),
        Some(indent) => Some(" ".repeat(usize::try_from(indent)?.min(64))),
        None => None,
    };
    let [item, key] = separators(&options)?.unwrap_or_else(|| {
        let item = if indent.is_some() { "," } else { ", " };
        [item, ": "].map(str::to_owned)
    });
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let mut out = String::new();
    Style { state, indent, item, key, ensure_ascii, sort_keys }.write(&value, 0, &mut out)?;
    Ok(out)
}

/// The pair of `separators`, between items and behind keys.
fn separators(options: &Kwargs) -> Result<Option<[String; 2]>, TemplateError> {
    let Some(pair) = options.get::<Option<Value>>("separators")?.filter(|pair| !pair.is_none()) else {
        return Ok(None);
    };
    let texts: Vec<String> = pair.try_iter()?.map(|text| text.to_string()).collect();
    texts.try_into().map(Some).map_err(|_| fail("tojson: separators: expected two of them"))
}

/// How `json.dumps` was asked to write.
struct Style<'a> {
    /// Pays for each value, as one may stand in a tree many times.
    state: &'a State<'a, 'a>,
    /// Before each item, once a level; lines of their own where there is one.
    indent: Option<String>,
    item: String,
    key: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl Style<'_> {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), TemplateError> {
        self.state.consume_fuel(8 + value.as_str().map_or(0, |text| text.len() as u64 / 64))?;
        match value.kind() {
            ValueKind::String => self.write_text(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    self.begin_item(at, depth, out);
                    self.write(item, depth + 1, out)?;
                }
                self.end_items(items.is_empty(), depth, out);
                out.push(']');
            }
            ValueKind::Map => {
                let keys = value.try_iter()?.map(|key| Ok((key_text(&key)?, value.get_item(&key)?)));
                let mut entries = keys.collect::<Result<Vec<(String, Value)>, TemplateError>>()?;
                if self.sort_keys {
                    entries.sort_by(|a, b| a.0.cmp(&b.0));
                }
                out.push('{');
                for (at, (key, value)) in entries.iter().enumerate() {
                    self.begin_item(at, depth, out);
                    self.write_text(key, out);
                    out.push_str(&self.key);
                    self.write(value, depth + 1, out)?;
                }
                self.end_items(entries.is_empty(), depth, out);
                out.push('}');
            }
            _ => out.push_str(&scalar(value)?),
        }
        Ok(())
    }

    fn begin_item(&self, at: usize, depth: usize, out: &mut String) {
        out.push_str(if at > 0 { &self.item } else { "" });
        self.line(depth + 1, out);
    }

    fn end_items(&self, none: bool, depth: usize, out: &mut String) {
        if !none {
            self.line(depth, out);
        }
    }

    /// A new line where lines are asked for.
    fn line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    }

    fn write_text(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                c if c < ' ' || self.ensure_ascii && !(' '..='~').contains(&c) => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// A key, which JSON has as text alone.
fn key_text(key: &Value) -> Result<String, TemplateError> {
    key.as_str().map_or_else(|| scalar(key), |text| Ok(text.to_owned()))
}

fn scalar(value: &Value) -> Result<String, TemplateError> {
    Ok(match value.kind() {
        ValueKind::None => "null".to_owned(),
        ValueKind::Bool => value.is_true().to_string(),
        ValueKind::Number if value.is_integer() => value.to_string(),
        ValueKind::Number => match f64::try_from(value.clone())? {
            number if number.is_nan() => "NaN".to_owned(),
            number if number.is_infinite() => python_float(number).replace("inf", "Infinity"),
            number => python_float(number),
        },
        kind => return Err(fail(format!("tojson: expected what JSON can hold, got {kind}"))),
    })
}

/// A float as Python's `repr` writes it: the shortest digits, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn python_float(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    if value == 0.0 || (1e-4..1e16).contains(&value.abs()) {
        return format!("{value:?}");
    }
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').expect("scientific notation has an exponent");
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}e{sign}{exponent:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (value, expected) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e100, "1.25e+100"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(python_float(value), expected);
        }
    }
}
