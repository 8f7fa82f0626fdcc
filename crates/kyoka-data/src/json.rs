//! A file as JSON: an object a line, or one array of objects.

use kyoka_core::Place;
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

/// What stands where a row should.
pub(crate) enum RowJson {
    /// An object: its columns in order, names as often as they stand there.
    Object(Vec<(String, Value)>),
    /// Something else, as messages call it.
    Other(&'static str),
}

/// What messages call a value.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl<'de> Deserialize<'de> for RowJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RowVisitor)
    }
}

struct RowVisitor;

impl<'de> Visitor<'de> for RowVisitor {
    type Value = RowJson;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a row")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RowJson, A::Error> {
        let mut columns = Vec::new();
        while let Some(column) = map.next_entry()? {
            columns.push(column);
        }
        Ok(RowJson::Object(columns))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RowJson, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(RowJson::Other("a list"))
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<RowJson, E> {
        Ok(RowJson::Other("a text"))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<RowJson, E> {
        Ok(RowJson::Other("a boolean"))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<RowJson, E> {
        Ok(RowJson::Other("a number"))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<RowJson, E> {
        Ok(RowJson::Other("a number"))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<RowJson, E> {
        Ok(RowJson::Other("a number"))
    }

    fn visit_unit<E: Error>(self) -> Result<RowJson, E> {
        Ok(RowJson::Other("null"))
    }
}

/// Where a row stands, and the row or what is wrong there.
type PlacedRow = (Place, Result<RowJson, String>);

/// The rows of a file, in order: of an array if the file is one, else of its lines. Byte order marks and empty lines are
/// passed over.
pub(crate) fn rows_of(bytes: &[u8]) -> Box<dyn Iterator<Item = PlacedRow> + '_> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Box::new(std::iter::once((Place::Line(1), Err("expected UTF-8, got UTF-16".to_owned()))));
    }
    match array(without_mark(bytes)) {
        Some(Ok(rows)) => {
            Box::new(rows.into_iter().enumerate().map(|(index, row)| (Place::Row(index + 1), Ok(row))))
        }
        Some(Err(error)) => {
            let message = format!("invalid JSON array of rows: {error}");
            Box::new(std::iter::once((Place::Line(error.line()), Err(message))))
        }
        None => Box::new(lines(bytes)),
    }
}

/// The elements of a file that is one array; `None` for other files, also for lines that are arrays each.
fn array(bytes: &[u8]) -> Option<Result<Vec<RowJson>, serde_json::Error>> {
    let text = bytes.trim_ascii_start();
    if !text.starts_with(b"[") {
        return None;
    }
    let first_line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    match serde_json::from_slice(bytes) {
        Err(_) if serde_json::from_slice::<IgnoredAny>(first_line).is_ok() => None,
        rows => Some(rows),
    }
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = PlacedRow> + '_ {
    let lines = bytes.split(|&byte| byte == b'\n').map(without_mark).enumerate();
    lines.filter(|(_, line)| !line.trim_ascii().is_empty()).map(|(index, line)| {
        let text = std::str::from_utf8(line).map_err(|error| format!("invalid UTF-8: {error}"));
        let row =
            text.and_then(|text| serde_json::from_str(text).map_err(|error| format!("invalid row: {error}")));
        (Place::Line(index + 1), row)
    })
}

/// Files that are put together from several have a mark at the start of each.
fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}
