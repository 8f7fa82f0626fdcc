//! Conversations rendered as `apply_chat_template` of transformers renders them.

use std::{fs, path::Path};

use kyoka_text::{ChatTemplate, Conversation};
use serde_json::{Map, Value};

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/chat"))
}

/// Takes a variable out of a case's options.
fn take(options: &mut Map<String, Value>, name: &str) -> Option<Value> {
    options.remove(name).filter(|value| !value.is_null())
}

#[test]
fn conversations_render_as_transformers_renders_them() {
    let table: Value = serde_json::from_slice(&fs::read(folder().join("cases.json")).unwrap()).unwrap();
    let tokens = table["tokens"].as_object().unwrap().iter();
    let tokens: Vec<(String, String)> =
        tokens.map(|(name, text)| (name.clone(), text.as_str().unwrap().to_owned())).collect();
    let cases = table["cases"].as_array().unwrap();
    for (number, case) in cases.iter().enumerate() {
        let name = case["template"].as_str().unwrap();
        let source = fs::read_to_string(folder().join(format!("{name}.jinja"))).unwrap();
        let template = ChatTemplate::new(source, tokens.clone(), name).unwrap();
        let mut options = case["options"].as_object().unwrap().clone();
        let tools = take(&mut options, "tools");
        let rendered = template.render_conversation(Conversation {
            messages: &case["messages"],
            tools: tools.as_ref(),
            add_generation_prompt: take(&mut options, "add_generation_prompt") == Some(Value::Bool(true)),
            variables: Some(&options),
        });
        match case["error"].as_str() {
            Some(expected) => {
                let error = rendered.unwrap_err().to_string();
                assert!(error.contains(expected), "case {number}, {name}: {error}");
            }
            None => {
                let text = rendered.unwrap_or_else(|error| panic!("case {number}, {name}: {error}"));
                assert_eq!(text, case["text"].as_str().unwrap(), "case {number}, {name}");
            }
        }
    }
    assert!(cases.len() >= 25);
}

#[test]
fn templates_of_families_that_see_and_hear_look_into_parts() {
    for (name, takes_parts, takes_text) in [
        ("chatml_tools", false, true),
        ("llama3_headers", false, true),
        ("alternating", false, true),
        ("smolvlm", true, false),
        ("qwen2_vl", true, true),
        ("qwen2_audio", true, true),
    ] {
        let source = fs::read_to_string(folder().join(format!("{name}.jinja"))).unwrap();
        let template = ChatTemplate::new(source, Vec::new(), name).unwrap();
        let got = (template.takes_parts(), template.takes_text());
        assert_eq!(got, (takes_parts, takes_text), "{name}");
    }
}
