//! Questions to other programs and their answers, as JSON.

use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use kyoka_core::{Completion, Content, MediaRef, Modality, Part, Reward, RewardContext, Sample};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::NoAnswer;

/// Questions of this process so far.
static ASKED: AtomicU64 = AtomicU64::new(0);

/// A question and its number: one line of JSON.
pub(super) fn request(
    context: &RewardContext<'_>,
    completions: &[Completion],
) -> Result<(u64, String), NoAnswer> {
    let id = ASKED.fetch_add(1, Ordering::Relaxed);
    let unread = |reason| NoAnswer { reason, again: false, pause: None };
    let sample = sample(context.sample).map_err(unread)?;
    let completions: Vec<Value> = completions.iter().map(completion).collect();
    let progress = json!({"step": context.progress.step, "total_steps": context.progress.total_steps});
    let request = json!({"id": id, "sample": sample, "completions": completions, "progress": progress});
    Ok((id, request.to_string()))
}

/// A row: the columns that Kyoka does not know as they stand there, and what it knows beside them.
fn sample(sample: &Sample) -> Result<Value, String> {
    let mut fields: Map<String, Value> =
        sample.extra.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let mut messages = Vec::new();
    for message in &sample.messages {
        let parts = message.parts.iter().map(part).collect::<Result<Vec<Value>, String>>()?;
        messages.push(json!({"role": message.role.name(), "content": parts}));
    }
    let files = |modality| -> Result<Vec<Value>, String> {
        sample.media().filter(|medium| medium.modality == modality).map(place).collect()
    };
    fields.insert("id".to_owned(), sample.id.clone().into());
    fields.insert("prompt".to_owned(), sample.prompt_text().into());
    fields.insert("messages".to_owned(), messages.into());
    fields.insert("images".to_owned(), files(Modality::Image)?.into());
    fields.insert("audios".to_owned(), files(Modality::Audio)?.into());
    fields.insert("answer".to_owned(), sample.answer.clone().unwrap_or(Value::Null));
    fields.insert("steps".to_owned(), sample.steps.clone().into());
    fields.extend(sample.label.map(|label| ("label".to_owned(), label.into())));
    fields.extend(sample.completion.clone().map(|text| ("completion".to_owned(), text.into())));
    Ok(fields.into())
}

fn part(part: &Part) -> Result<Value, String> {
    Ok(match part {
        Part::Text(text) => json!({"type": "text", "text": text}),
        Part::Media(medium) => {
            let kind = match medium.modality {
                Modality::Image => "image",
                Modality::Audio => "audio",
            };
            json!({"type": kind, kind: place(medium)?})
        }
    })
}

/// Where a medium lies: the path of its file, or its bytes as a `data:` address.
fn place(medium: &MediaRef) -> Result<Value, String> {
    match &medium.content {
        Content::File(path) => {
            let whole = std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))?;
            let text =
                whole.to_str().ok_or_else(|| format!("{}: expected a path in UTF-8", path.display()))?;
            Ok(text.into())
        }
        Content::Bytes { bytes, .. } => {
            let bytes = base64::engine::general_purpose::STANDARD.encode(bytes);
            Ok(format!("data:application/octet-stream;base64,{bytes}").into())
        }
    }
}

fn completion(completion: &Completion) -> Value {
    let turns = completion.turns.iter();
    let turns: Vec<Value> = turns
        .map(|turn| json!({"tokens": [turn.tokens.start, turn.tokens.end], "reward": turn.reward}))
        .collect();
    json!({
        "text": completion.text,
        "token_ids": completion.token_ids,
        "turns": turns,
        "finished": completion.finished,
        "think_opened": completion.think_opened,
        "max_new_tokens": completion.max_new_tokens,
    })
}

/// What comes back.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    id: Option<u64>,
    rewards: Option<Vec<Judged>>,
    error: Option<String>,
}

/// A reward: a number, `null` where nothing can be said, or a table.
#[derive(Deserialize)]
#[serde(untagged)]
enum Judged {
    Number(Option<f32>),
    Whole(Whole),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    total: Option<f32>,
    #[serde(default)]
    parts: Map<String, Value>,
    right: Option<bool>,
}

/// The rewards in an answer to question `id` about `count` completions; parts are called `name` and `name.part`.
///
/// Over a pipe the number must be there: answers follow each other, and one too many would be taken for the next.
pub(super) fn answer(
    text: &str,
    (id, is_numbered): (u64, bool),
    count: usize,
    name: &str,
) -> Result<Vec<Reward>, String> {
    let shown = || text.trim().chars().take(120).collect::<String>();
    let read: Answer = serde_json::from_str(text).map_err(|error| {
        format!("expected an answer such as {{\"id\": {id}, \"rewards\": [0.5]}}, got {:?}: {error}", shown())
    })?;
    if let Some(got) = read.id.filter(|got| *got != id) {
        return Err(format!("expected the answer to question {id}, got one to {got}"));
    }
    if is_numbered && read.id.is_none() {
        return Err(format!("expected an answer with \"id\": {id}, got one without"));
    }
    if let Some(error) = read.error {
        return Err(format!("it says: {}", error.chars().take(500).collect::<String>()));
    }
    let Some(rewards) = read.rewards else {
        return Err(format!("expected `rewards` or `error`, got {:?}", shown()));
    };
    if rewards.len() != count {
        return Err(format!("expected {count} rewards, one a completion, got {}", rewards.len()));
    }
    rewards.into_iter().map(|reward| judged(reward, name)).collect()
}

fn judged(reward: Judged, name: &str) -> Result<Reward, String> {
    let Whole { total, parts, right } = match reward {
        Judged::Number(total) => Whole { total, parts: Map::new(), right: None },
        Judged::Whole(whole) => whole,
    };
    let mut named: Vec<(String, f32)> = total.map(|total| (name.to_owned(), total)).into_iter().collect();
    for (part, value) in parts {
        let value = value.as_f64().ok_or_else(|| format!("part {part:?}: expected a number, got {value}"))?;
        named.push((format!("{name}.{part}"), value as f32));
    }
    if let Some((part, got)) = named.iter().find(|(_, value)| !value.is_finite()) {
        return Err(format!("{part}: expected a finite number, got {got}"));
    }
    Ok(Reward { total, parts: named, right, ..Reward::default() })
}

#[cfg(test)]
mod tests {
    use kyoka_core::CompletedTurn;

    use super::*;

    #[test]
    fn a_question_has_the_row_with_its_own_columns_and_the_completions() {
        let picture = MediaRef::file(Modality::Image, "/data/a.png");
        let mut row = Sample::asking(vec![Part::Media(picture), Part::Text("Fit?".to_owned())]);
        row.id = "r7".to_owned();
        row.answer = Some(json!(["pass", "yes"]));
        row.extra.insert("severity".to_owned(), json!(3));
        let completion = Completion {
            text: "pass".to_owned(),
            token_ids: vec![4, 5],
            turns: vec![CompletedTurn { tokens: 0..1, reward: Some(0.5) }],
            finished: true,
            max_new_tokens: 8,
            ..Completion::default()
        };
        let (id, line) = request(&RewardContext::of(&row), &[completion]).unwrap();
        assert!(line.starts_with(&format!("{{\"id\":{id},")) && !line.contains('\n'), "{line}");
        let asked: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            asked["sample"],
            json!({
                "severity": 3, "id": "r7", "prompt": "<image>Fit?", "images": ["/data/a.png"], "audios": [],
                "messages": [{"role": "user", "content": [
                    {"type": "image", "image": "/data/a.png"}, {"type": "text", "text": "Fit?"}
                ]}],
                "answer": ["pass", "yes"], "steps": [],
            })
        );
        assert_eq!(
            asked["completions"],
            json!([{
                "text": "pass", "token_ids": [4, 5], "turns": [{"tokens": [0, 1], "reward": 0.5}],
                "finished": true, "think_opened": false, "max_new_tokens": 8,
            }])
        );
    }

    #[test]
    fn answers_are_numbers_or_tables_and_all_else_is_said() {
        let read = |text: &str| answer(text, (3, false), 2, "program");
        let unnumbered = answer("{\"rewards\": [1, 1]}", (3, true), 2, "program").unwrap_err();
        assert_eq!(unnumbered, "expected an answer with \"id\": 3, got one without");
        let good =
            read(r#"{"id": 3, "rewards": [0.5, {"total": 1, "parts": {"tone": 0.25}, "right": true}]}"#)
                .unwrap();
        assert_eq!((good[0].total, &good[0].parts), (Some(0.5), &vec![("program".to_owned(), 0.5)]));
        assert_eq!(
            (good[1].total, good[1].right, good[1].part("program.tone")),
            (Some(1.0), Some(true), Some(0.25))
        );
        assert_eq!(read(r#"{"rewards": [null, 1]}"#).unwrap()[0], Reward::ungraded());
        for (text, expected) in [
            ("hello", "expected an answer such as {\"id\": 3, \"rewards\": [0.5]}, got \"hello\""),
            ("{\"id\": 4, \"rewards\": [1, 1]}", "expected the answer to question 3, got one to 4"),
            ("{\"id\": 3, \"rewards\": [1]}", "expected 2 rewards, one a completion, got 1"),
            ("{\"id\": 3, \"error\": \"no model\"}", "it says: no model"),
            ("{\"id\": 3}", "expected `rewards` or `error`"),
            ("{\"id\": 3, \"rewards\": [1, \"good\"]}", "expected an answer such as"),
            ("{\"id\": 3, \"rewards\": [1, 1e39]}", "program: expected a finite number, got inf"),
            (
                "{\"id\": 3, \"rewards\": [1, {\"total\": 1, \"parts\": {\"a\": \"b\"}}]}",
                "part \"a\": expected a number, got \"b\"",
            ),
            ("{\"id\": 3, \"rewards\": [1, 1], \"reward\": 2}", "expected an answer such as"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.starts_with(expected), "{text}: {said}");
        }
    }
}
