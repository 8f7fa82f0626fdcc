//! Calls in the text of a turn, as Hermes and Qwen models write them.

use serde::Deserialize;
use serde_json::Value;

/// A call that could be read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ToolCall {
    /// The tool.
    pub name: String,
    /// An object.
    #[serde(default = "no_arguments")]
    pub arguments: Value,
}

fn no_arguments() -> Value {
    Value::Object(serde_json::Map::new())
}

const START: &str = "<tool_call>";
const END: &str = "</tool_call>";

/// Most letters of what is said about a call: the policy's own text may stand in it.
const MOST_SAID: usize = 300;

/// The calls of a turn in order, each read or with what is wrong with it. A call that the turn's end cuts off counts as one; what a
/// `<think>` says before its end, or to the end of the turn where it has none, is no call.
pub fn tool_calls(text: &str) -> Vec<Result<ToolCall, String>> {
    let said = text.rsplit_once("</think>").map_or(text, |(_, said)| said);
    let mut rest = said.split_once("<think>").map_or(said, |(said, _)| said);
    let mut calls = Vec::new();
    while let Some((_, behind)) = rest.split_once(START) {
        let Some((call, after)) = behind.split_once(END) else {
            calls.push(Err(format!("the call has no {END}")));
            break;
        };
        calls.push(read(call.trim()));
        rest = after;
    }
    calls
}

fn read(text: &str) -> Result<ToolCall, String> {
    let example = r#"{"name": "…", "arguments": {…}}"#;
    let call: ToolCall = serde_json::from_str(text).map_err(|error| {
        let error: String = error.to_string().chars().take(MOST_SAID).collect();
        format!("expected a call such as {example}: {error}")
    })?;
    if call.arguments.is_object() {
        return Ok(call);
    }
    // Some models write the arguments as a text of their own.
    let inner = call.arguments.as_str().and_then(|inner| serde_json::from_str(inner).ok());
    match inner {
        Some(arguments @ Value::Object(_)) => Ok(ToolCall { arguments, ..call }),
        _ => Err(format!("expected an object of arguments, as in {example}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn calls_are_read_in_order_and_what_is_wrong_is_said() {
        let text = "<think> <tool_call>no</tool_call> </think> I look.\n<tool_call>\n{\"name\": \"crop\", \"arguments\": \
            {\"image\": 1}}\n</tool_call> and <tool_call>{\"name\": \"now\"}</tool_call><tool_call>{\"name\": \"s\", \
            \"arguments\": \"{\\\"a\\\": 2}\"}</tool_call>";
        let call = |name: &str, arguments| Ok(ToolCall { name: name.to_owned(), arguments });
        let expected =
            [call("crop", json!({"image": 1})), call("now", json!({})), call("s", json!({"a": 2}))];
        assert_eq!(tool_calls(text), expected);
        let wrong = |text: &str| tool_calls(text)[0].clone().unwrap_err();
        assert!(wrong("<tool_call>crop(1)</tool_call>").starts_with("expected a call such as"));
        assert!(
            wrong("<tool_call>{\"name\": \"a\", \"arguments\": [1]}</tool_call>")
                .contains("an object of arguments")
        );
        assert_eq!(wrong("<tool_call>{\"name\": \"a\"}"), "the call has no </tool_call>");
        assert!(tool_calls("no call, </tool_call>").is_empty());
        assert!(
            tool_calls("<think> I may <tool_call>{\"name\": \"a\"}</tool_call>").is_empty(),
            "still thinking"
        );
        let long = format!("<tool_call>\"{}\"</tool_call>", "A".repeat(100_000));
        assert!(wrong(&long).len() < 500, "the policy is not told all of its own text");
        let deep = format!("<tool_call>{}</tool_call>", "[".repeat(100_000));
        assert!(wrong(&deep).starts_with("expected a call such as"), "and no overflow");
    }
}
