//! Chat templates of others, and what templates may ask for, equal to what transformers makes of them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, path::Path};

use kyoka_text::{ChatTemplate, Conversation};
use serde_json::{Map, Value};

fn table(name: &str) -> Value {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/jinja2"));
    serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap()
}

fn template(source: &Value, table: &Value) -> Result<ChatTemplate, String> {
    let tokens = table["tokens"].as_object().unwrap().iter();
    let tokens = tokens.map(|(name, text)| (name.clone(), text.as_str().unwrap().to_owned())).collect();
    ChatTemplate::new(source.as_str().unwrap().to_owned(), tokens, "t").map_err(|error| error.to_string())
}

fn rendered(
    template: &ChatTemplate,
    messages: &Value,
    options: &Map<String, Value>,
) -> Result<String, String> {
    let mut variables = options.clone();
    let tools = variables.remove("tools");
    let conversation = Conversation {
        messages,
        tools: tools.as_ref(),
        add_generation_prompt: variables.remove("add_generation_prompt") == Some(true.into()),
        variables: Some(&variables),
    };
    template.render_conversation(conversation).map_err(|error| error.to_string())
}

/// What differs; `None` stands for an error of transformers.
fn difference(name: &str, expected: Option<&str>, got: &Result<String, String>) -> Option<String> {
    let same = match (expected, got) {
        (Some(expected), Ok(got)) => expected == got,
        (None, Err(_)) => true,
        _ => false,
    };
    (!same).then(|| format!("{name}\n  expected {expected:?}\n  got      {got:?}"))
}

#[test]
fn expressions_and_statements_give_what_jinja2_gives() {
    let table = table("expressions.json");
    let cases = table["cases"].as_array().unwrap();
    let differences = cases.iter().filter_map(|case| {
        let template = template(&case[0], &table);
        let got = template.and_then(|template| rendered(&template, &table["messages"], &Map::new()));
        difference(case[0].as_str().unwrap(), case[1].as_str(), &got)
    });
    let differences: Vec<String> = differences.collect();
    assert!(differences.is_empty(), "{} of {}:\n{}", differences.len(), cases.len(), differences.join("\n"));
    assert!(cases.len() > 600);
}

#[test]
fn the_templates_of_trl_render_as_transformers_renders_them() {
    let table = table("trl.json");
    let conversations = table["conversations"].as_array().unwrap();
    let today = |text: &str| {
        ["%Y-%m-%d", "%d %b %Y", "%B %d, %Y"].iter().fold(text.to_owned(), |text, form| {
            let today = jiff::fmt::strtime::format(form, &jiff::Zoned::now()).unwrap();
            text.replace(&format!("<<{form}>>"), &today)
        })
    };
    let mut differences = Vec::new();
    let templates = table["templates"].as_object().unwrap();
    for (name, case) in templates {
        let template = template(&case["source"], &table).unwrap();
        for (number, conversation) in conversations.iter().enumerate() {
            let got =
                rendered(&template, &conversation["messages"], conversation["options"].as_object().unwrap());
            let text = case["results"][number].as_u64();
            let expected = text.map(|place| today(table["texts"][place as usize].as_str().unwrap()));
            differences.extend(difference(&format!("{name}, {number}"), expected.as_deref(), &got));
        }
    }
    assert!(differences.is_empty(), "{}:\n{}", differences.len(), differences.join("\n"));
    assert_eq!((templates.len(), conversations.len()), (72, 20));
}
