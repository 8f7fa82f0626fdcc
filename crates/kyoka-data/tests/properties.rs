//! What must hold for any rows.

use kyoka_data::{Fingerprint, MediaNames, ReadOptions, Shuffled, read_jsonl};
use proptest::prelude::*;
use serde_json::json;

proptest! {
    #[test]
    fn rows_survive_being_written_and_read(
        rows in prop::collection::vec(("\\PC{1,12}", "\\PC{0,12}", any::<i64>(), any::<bool>()), 1..6),
        as_array: bool,
    ) {
        let values: Vec<_> = rows
            .iter()
            .enumerate()
            .map(|(id, (prompt, completion, level, hard))| {
                json!({"id": id, "prompt": format!("p{}", prompt.replace('<', "")), "answer": level,
                    "completion": completion, "level": level, "tags": [hard, null, {"deep": prompt}]})
            })
            .collect();
        let text = match as_array {
            true => json!(values).to_string(),
            false => values.iter().map(|row| format!("{row}\n")).collect(),
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rows.jsonl");
        std::fs::write(&file, text).unwrap();
        let read = read_jsonl(&file, ReadOptions::default()).unwrap().rows;
        prop_assert_eq!(read.len(), rows.len());
        for (id, (sample, (_, completion, level, _))) in read.iter().zip(&rows).enumerate() {
            prop_assert_eq!(&sample.id, &id.to_string());
            prop_assert_eq!(sample.completion.as_ref(), Some(completion));
            prop_assert_eq!(sample.answers(), [level.to_string()]);
            prop_assert_eq!(&sample.extra["level"], &json!(level));
            prop_assert_eq!(&sample.extra["tags"], &values[id]["tags"]);
        }
        // One bit of what only a reward reads is another dataset.
        let mut changed = read.clone();
        changed[0].extra.insert("level".to_owned(), json!("other"));
        let [one, same, other] = [&read, &read, &changed].map(|rows| Fingerprint::of(rows, MediaNames::Counted));
        prop_assert_eq!(one.difference(&same), None);
        prop_assert!(one.difference(&other).is_some());
    }

    #[test]
    fn an_epoch_visits_every_row_once(rows in 1_usize..40, seed: u64, epoch in 0_u64..4) {
        let order = Shuffled::new(rows, seed);
        let first = epoch * rows as u64;
        let mut seen: Vec<usize> = (first..first + rows as u64).map(|position| order.row(position)).collect();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..rows).collect::<Vec<_>>());
    }
}
