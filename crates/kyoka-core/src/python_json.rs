//! JSON as Python writes it.

use serde::de::DeserializeOwned;

/// A JSON document in which numbers may also be `NaN`, `Infinity` and `-Infinity`, as Python writes and reads them. They
/// are read as `null`: no setting of a checkpoint that is used can be one of them.
///
/// # Errors
/// If it is no JSON, with line and column.
pub fn from_python_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    match serde_json::from_slice(bytes) {
        Ok(value) => Ok(value),
        Err(error) => match without_nan(bytes) {
            Some(plain) => serde_json::from_slice(&plain),
            None => Err(error),
        },
    }
}

/// The document with `null` for the words outside of strings, each as long as before so that places stay; `None` if there
/// is no such word.
fn without_nan(bytes: &[u8]) -> Option<Vec<u8>> {
    const WORDS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    let mut plain = Vec::with_capacity(bytes.len());
    let (mut in_string, mut changed) = (false, false);
    let mut rest = bytes;
    while let Some(&byte) = rest.first() {
        let word = WORDS.iter().find(|word| !in_string && rest.starts_with(word));
        let taken = match (word, byte) {
            (Some(word), _) => {
                plain.extend_from_slice(b"null");
                plain.resize(plain.len() + word.len().saturating_sub(4), b' ');
                changed = true;
                word.len()
            }
            // What is escaped cannot end the string.
            (None, b'\\') if in_string && rest.len() > 1 => {
                plain.extend_from_slice(&rest[..2]);
                2
            }
            (None, byte) => {
                in_string ^= byte == b'"';
                plain.push(byte);
                1
            }
        };
        rest = &rest[taken..];
    }
    changed.then_some(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn words_of_python_are_null_outside_of_strings() {
        let text = br#"{"a": NaN, "b": [-Infinity, Infinity, -1], "NaN \" NaN": "Infinity \\", "c": NaN}"#;
        let value: Value = from_python_json(text).unwrap();
        let expected = json!({"a": null, "b": [null, null, -1], "NaN \" NaN": "Infinity \\", "c": null});
        assert_eq!(value, expected);
    }

    #[test]
    fn faults_keep_their_place() {
        for text in ["{\"a\": 1, ", "{\"a\": Infinity, \"b\": }", "{\"a\": Nan}", ""] {
            assert!(
                from_python_json::<Value>(text.as_bytes()).unwrap_err().to_string().contains("line"),
                "{text}"
            );
        }
    }
}
