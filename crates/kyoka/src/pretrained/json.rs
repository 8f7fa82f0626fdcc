//! JSON files of checkpoints.

use std::{fs, path::Path};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Error;

/// Largest JSON file of a checkpoint; tokenizers are read elsewhere.
const MOST_BYTES: u64 = 1 << 24;

/// A JSON file.
///
/// # Errors
/// Names the file, and what is wrong with it.
pub(crate) fn read_json(path: &Path) -> Result<Value, Error> {
    let fail = |error: std::io::Error| Error::file(path, error);
    let length = fs::metadata(path).map_err(fail)?.len();
    if length > MOST_BYTES {
        return Err(Error::file(path, format!("expected at most {MOST_BYTES} bytes, got {length}")));
    }
    serde_json::from_slice(&fs::read(path).map_err(fail)?).map_err(|error| Error::file(path, error))
}

/// A value as a struct.
///
/// # Errors
/// Names the field.
pub(super) fn parse<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner();
        if path == "." { reason.to_string() } else { format!("{path}: {reason}") }
    })
}

/// The object under a key, or an error that names it.
pub(super) fn part<'a>(value: &'a Value, key: &str) -> Result<&'a Value, String> {
    let part = &value[key];
    if part.is_object() { Ok(part) } else { Err(format!("{key}: expected an object, got {}", kind(part))) }
}

/// A part as a struct; the key stands before a fault's field.
pub(super) fn parse_part<T: DeserializeOwned>(value: &Value, key: &str) -> Result<T, String> {
    parse(part(value, key)?).map_err(|reason| format!("{key}.{reason}"))
}

/// A token id under one of the keys.
pub(super) fn token_id(value: &Value, keys: &[&str]) -> Result<Option<u32>, String> {
    for &key in keys {
        match &value[key] {
            Value::Null => {}
            Value::Number(number) => {
                let id = number.as_u64().and_then(|id| u32::try_from(id).ok());
                return id.map(Some).ok_or_else(|| format!("{key}: expected a token id, got {number}"));
            }
            other => return Err(format!("{key}: expected a token id, got {}", kind(other))),
        }
    }
    Ok(None)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
