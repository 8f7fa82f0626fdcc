//! Odd texts and token ids, read and written as transformers does.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, path::Path};

use kyoka_text::{PromptLayout, Tokenizer};
use serde_json::Value;

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

/// The tokenizers of the table, by name, with what transformers makes of texts and ids.
fn tokenizers() -> Vec<(String, Tokenizer, Value)> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/texts/texts.json"));
    let table: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let read = |(name, case): (&String, &Value)| {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tokenizer.json"), case["tokenizer"].to_string()).unwrap();
        fs::write(folder.path().join("tokenizer_config.json"), case["config"].to_string()).unwrap();
        (name.clone(), Tokenizer::from_checkpoint(folder.path()).unwrap(), case.clone())
    };
    table.as_object().unwrap().iter().map(read).collect()
}

#[test]
fn prompts_get_the_token_ids_that_transformers_gives_them() {
    let mut differences = Vec::new();
    for (name, tokenizer, case) in tokenizers() {
        for pair in case["encoded"].as_array().unwrap() {
            let mut layout = PromptLayout::new(&tokenizer);
            layout.text(pair[0].as_str().unwrap());
            let (got, _) = layout.finish().unwrap();
            if got != ids(&pair[1]) {
                differences.push(format!("{name} {}: expected {}, got {got:?}", pair[0], pair[1]));
            }
        }
    }
    assert!(differences.is_empty(), "{}:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn completions_get_the_text_that_transformers_gives_them_and_spans_that_cover_it() {
    let mut differences = Vec::new();
    for (name, tokenizer, case) in tokenizers() {
        for pair in case["decoded"].as_array().unwrap() {
            let got = tokenizer.decode(&ids(&pair[0]));
            if got.text != pair[1].as_str().unwrap() {
                differences.push(format!("{name} {}: expected {}, got {:?}", pair[0], pair[1], got.text));
            }
            let mut end = 0;
            for span in &got.token_spans {
                assert!(span.start == end && span.end >= end, "{name} {}: {:?}", pair[0], got.token_spans);
                end = span.end;
            }
            assert_eq!(end, got.text.len(), "{name} {}", pair[0]);
        }
    }
    assert!(differences.is_empty(), "{}:\n{}", differences.len(), differences.join("\n"));
}
