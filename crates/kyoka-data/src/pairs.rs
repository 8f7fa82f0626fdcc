//! Rows of preferences: a prompt, a better and a worse completion.

use std::path::Path;

use kyoka_core::Sample;
use serde::Deserialize;

use crate::{
    DataError, ReadOptions,
    jsonl::{Faults, all_good, scan_rows},
};

/// One comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct PreferenceRow {
    /// The prompt, with whatever else the row says.
    pub sample: Sample,
    /// The completion that was preferred.
    pub chosen: String,
    /// The other one.
    pub rejected: String,
}

#[derive(Deserialize)]
struct Pair {
    chosen: Option<String>,
    rejected: Option<String>,
}

/// Reads all comparisons of a JSONL file: rows as [`read_jsonl`](crate::read_jsonl) reads them, with `chosen` and
/// `rejected` besides.
///
/// # Errors
/// Lists every faulty row with its line: what `read_jsonl` refuses, a completion that is missing or empty, and pairs
/// of equal completions.
pub fn read_pairs(path: &Path, options: ReadOptions) -> Result<Vec<PreferenceRow>, DataError> {
    all_good(path, scan_rows(path, options, with_pair)?)
}

fn with_pair(line: &[u8], sample: Sample) -> Result<PreferenceRow, Faults> {
    let pair =
        serde_json::from_slice(line).map_err(|error| vec![(None, format!("invalid pair: {error}"))])?;
    let Pair { chosen, rejected } = pair;
    let (chosen, rejected) = (chosen.unwrap_or_default(), rejected.unwrap_or_default());
    let sides = [("chosen", &chosen), ("rejected", &rejected)];
    let absent = sides.into_iter().filter(|(_, text)| text.trim().is_empty());
    let mut faults: Faults =
        absent.map(|(field, _)| (Some(field), "expected a completion, got none".to_owned())).collect();
    if faults.is_empty() && chosen == rejected {
        faults.push((Some("rejected"), "expected another completion than the chosen one".to_owned()));
    }
    if faults.is_empty() { Ok(PreferenceRow { sample, chosen, rejected }) } else { Err(faults) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<PreferenceRow>, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pairs.jsonl");
        std::fs::write(&file, text).unwrap();
        read_pairs(&file, ReadOptions::default())
    }

    #[test]
    fn a_pair_is_a_row_with_two_completions() {
        let rows = read(r#"{"id": "a", "prompt": "p", "chosen": "good", "rejected": "bad", "answer": "1"}"#);
        let rows = rows.unwrap();
        assert_eq!((rows[0].chosen.as_str(), rows[0].rejected.as_str()), ("good", "bad"));
        assert_eq!((rows[0].sample.answer.as_deref(), rows[0].sample.origin.1), (Some("1"), 1));
    }

    #[test]
    fn all_faults_are_listed_with_line_and_field() {
        let text = [
            r#"{"id": "a", "prompt": "p", "chosen": "x"}"#,
            r#"{"id": "b", "prompt": "p", "chosen": " ", "rejected": ""}"#,
            r#"{"id": "c", "prompt": "p", "chosen": "x", "rejected": "x"}"#,
            r#"{"id": "d", "prompt": "", "chosen": "x", "rejected": "y"}"#,
            r#"{"id": "e", "prompt": "p", "chosen": 3, "rejected": "y"}"#,
            r#"{"id": "f", "prompt": "p", "chosen": "x", "rejected": "y"}"#,
        ];
        let Err(DataError::Rows(faults)) = read(&text.join("\n")) else { panic!("expected faults") };
        let places: Vec<_> = faults.iter().map(|f| (f.line, f.field.as_deref().unwrap_or(""))).collect();
        assert_eq!(
            places,
            [(1, "rejected"), (2, "chosen"), (2, "rejected"), (3, "rejected"), (4, "prompt"), (5, "")]
        );
    }
}
