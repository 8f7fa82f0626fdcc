//! JSON files of checkpoints.

use std::{
    fs,
    path::{Path, PathBuf},
};

use kyoka_core::from_python_json;
use kyoka_nn::CheckpointFiles;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Error;

/// Largest JSON file of a checkpoint; tokenizers are read elsewhere.
const MOST_BYTES: u64 = 1 << 24;

/// A JSON file, as Python may have written it.
///
/// # Errors
/// Names the file, and what is wrong with it.
pub(crate) fn read_json(path: &Path) -> Result<Value, Error> {
    let fail = |error: std::io::Error| Error::file(path, error);
    let length = fs::metadata(path).map_err(fail)?.len();
    if length > MOST_BYTES {
        return Err(Error::file(path, format!("expected at most {MOST_BYTES} bytes, got {length}")));
    }
    from_python_json(&fs::read(path).map_err(fail)?).map_err(|error| Error::file(path, error))
}

/// A checkpoint's `config.json` with its path, and its files of weights.
///
/// # Errors
/// Names the file, and the field where it asks for more than the weights can be.
pub(super) fn open_folder(folder: &Path) -> Result<(PathBuf, Value, CheckpointFiles), Error> {
    let path = folder.join("config.json");
    let json = read_json(&path)?;
    let files = CheckpointFiles::open(folder)?;
    let shapes = || files.names().filter_map(|name| files.info(name)).map(|info| &info.shape);
    let longest = shapes().flatten().max().copied().unwrap_or(0);
    check_sizes("", &json, (shapes().count(), longest)).map_err(|reason| Error::file(&path, reason))?;
    Ok((path, json, files))
}

/// Numbers of layers: each has a tensor at least.
const DEPTHS: [&str; 4] = ["num_hidden_layers", "num_layers", "encoder_layers", "depth"];
/// Widths: some tensor has such a side.
const WIDTHS: [&str; 3] = ["hidden_size", "embed_dim", "d_model"];

/// Refuses sizes for which layers or tables would be made that no tensor can fill.
fn check_sizes(at: &str, json: &Value, (num_tensors, longest): (usize, usize)) -> Result<(), String> {
    for (key, value) in json.as_object().into_iter().flatten() {
        let most = match key.as_str() {
            key if DEPTHS.contains(&key) => (num_tensors, "tensors"),
            key if WIDTHS.contains(&key) => (longest, "values along the longest side of a tensor"),
            _ => {
                check_sizes(&format!("{at}{key}."), value, (num_tensors, longest))?;
                continue;
            }
        };
        if value.as_f64().is_some_and(|size| size > most.0 as f64) {
            return Err(format!("{at}{key}: the checkpoint holds {} {}, got {value}", most.0, most.1));
        }
    }
    Ok(())
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
