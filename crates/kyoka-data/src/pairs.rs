//! Rows of preferences: a prompt, a better and a worse completion.

use std::path::Path;

use kyoka_core::Sample;

use crate::{
    DataError, ReadOptions, Rows,
    columns::Columns,
    rows::{all_good, scan_rows},
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
    /// How far the first one is ahead, at least 0; `None` when unknown.
    pub margin: Option<f32>,
    /// Whether neither is better, whatever they are called.
    pub tie: bool,
}

/// Reads all comparisons of a file: rows as [`read_jsonl`](crate::read_jsonl) reads them, with `chosen` and
/// `rejected` besides, and if they are there a `margin` (a number) and a `tie` (true or false).
///
/// # Errors
/// Lists every faulty row with its line: what `read_jsonl` refuses, a completion that is missing or empty, and pairs
/// of equal completions.
pub fn read_pairs(path: &Path, options: ReadOptions) -> Result<Rows<PreferenceRow>, DataError> {
    all_good(path, scan_rows(path, options, with_pair)?)
}

fn with_pair(columns: &mut Columns, sample: Sample) -> PreferenceRow {
    let faults = columns.faults.len();
    let chosen = columns.wanted_text("chosen", "a completion");
    let rejected = columns.wanted_text("rejected", "a completion");
    if columns.faults.len() == faults && chosen == rejected {
        columns.fault("rejected", "expected another completion than the chosen one");
    }
    let margin = columns.number("margin").map(|margin| margin as f32);
    if margin.is_some_and(|margin| margin < 0.0) {
        columns.fault("margin", "expected a number of at least 0");
    }
    PreferenceRow { sample, chosen, rejected, margin, tie: columns.boolean("tie").unwrap_or(false) }
}

#[cfg(test)]
mod tests {
    use kyoka_core::Place;

    use super::*;
    use crate::RowFault;

    fn read(text: &str) -> Result<Vec<PreferenceRow>, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pairs.jsonl");
        std::fs::write(&file, text).unwrap();
        read_pairs(&file, ReadOptions::default()).map(|read| read.rows)
    }

    #[test]
    fn a_pair_is_a_row_with_two_completions() {
        let rows = read(r#"{"id": "a", "prompt": "p", "chosen": "good", "rejected": "bad", "answer": "1"}"#);
        let rows = rows.unwrap();
        assert_eq!((rows[0].chosen.as_str(), rows[0].rejected.as_str()), ("good", "bad"));
        assert_eq!(
            (rows[0].sample.answers(), rows[0].sample.origin.place),
            (vec!["1".to_owned()], Place::Line(1))
        );
    }

    #[test]
    fn a_pair_may_have_a_margin_or_be_a_tie() {
        let row = |more: &str| format!(r#"{{"id": 1, "prompt": "p", "chosen": "x", "rejected": "y"{more}}}"#);
        let read = |more: &str| read(&row(more)).map(|rows| (rows[0].margin, rows[0].tie));
        assert_eq!(read("").unwrap(), (None, false));
        assert_eq!(read(r#", "margin": 1.5"#).unwrap(), (Some(1.5), false));
        assert_eq!(read(r#", "tie": true, "margin": null"#).unwrap(), (None, true));
        for wrong in [r#", "margin": -1"#, r#", "margin": "wide""#] {
            let Err(DataError::Rows(faults)) = read(wrong) else { panic!("expected a fault: {wrong}") };
            assert_eq!(faults[0].field.as_deref(), Some("margin"), "{wrong}");
        }
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
        let line = |fault: &RowFault| match fault.origin.place {
            Place::Line(line) => line,
            Place::Row(row) => panic!("row {row} of a file of lines"),
        };
        let places: Vec<_> = faults.iter().map(|f| (line(f), f.field.as_deref().unwrap_or(""))).collect();
        assert_eq!(
            places,
            [(1, "rejected"), (2, "chosen"), (2, "rejected"), (3, "rejected"), (4, "prompt"), (5, "chosen")]
        );
    }
}
