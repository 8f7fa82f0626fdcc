//! Conversations as text, by the template a checkpoint brings.

use std::{fs, path::Path, sync::Arc};

use kyoka_core::Modality;
use minijinja::{Environment, Error as TemplateError, Value, context, value::Serde};
use serde_json::{Map, Value as Json, json};

use crate::{
    TextError,
    checkpoint::{JsonFile, named_tokens},
    jinja::{environment, prepared},
};

/// The template of conversations with tools, in checkpoints that have one of its own.
const WITH_TOOLS: &str = "tool_use";
/// The template of transformers' Qwen2AudioProcessor, for folders that bring none but the tokenizer's.
const QWEN2_AUDIO: &str = include_str!("qwen2_audio.jinja");
/// What reasoning is called in messages; templates read the first name, some the second.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// The template of a checkpoint's conversations.
///
/// Templates see what transformers shows them: blocks leave no line behind, `tojson` writes as Python does, there are
/// `raise_exception`, `strftime_now` and `{% generation %}`, and methods of Python's strings, lists and maps.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    /// Special tokens by name, which templates write.
    tokens: Vec<(String, String)>,
    file: String,
    takes_parts: bool,
    takes_text: bool,
}

/// What is rendered.
#[derive(Debug, Clone, Copy)]
pub struct Conversation<'a> {
    /// Messages with `role` and `content` as transformers has them.
    pub messages: &'a Json,
    /// Descriptions of the tools that may be called.
    pub tools: Option<&'a Json>,
    /// Whether the answer is begun.
    pub add_generation_prompt: bool,
    /// More that the template may ask for, such as `enable_thinking`.
    pub variables: Option<&'a Map<String, Json>>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("file", &self.file).finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// The template of a folder: `chat_template.jinja`, or else in `chat_template.json`, `processor_config.json` or
    /// `tokenizer_config.json`; `None` if there is none. Qwen2-Audio, whose tokenizer has a template of text alone, takes
    /// that of transformers' processor instead of the last.
    ///
    /// # Errors
    /// If a file cannot be read, or the template is none.
    pub fn from_folder(folder: &Path) -> Result<Option<Self>, TextError> {
        let path = folder.join("chat_template.jinja");
        let mut found = match fs::read_to_string(&path) {
            Ok(text) => Some((Json::from(text), path)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(TextError::File { path, reason: error.to_string() }),
        };
        for name in ["chat_template.json", "processor_config.json", "tokenizer_config.json"] {
            let path = folder.join(name);
            if found.is_none() && path.is_file() {
                let fail = |reason: String| TextError::File { path: path.clone(), reason };
                let text = fs::read(&path).map_err(|error| fail(error.to_string()))?;
                let json: Json = serde_json::from_slice(&text).map_err(|error| fail(error.to_string()))?;
                found = Some(json["chat_template"].clone())
                    .filter(|value| !value.is_null())
                    .map(|value| (value, path));
            }
        }
        let Some((mut value, path)) = found else { return Ok(None) };
        if path.ends_with("tokenizer_config.json") && model_type(folder)? == "qwen2_audio" {
            value = QWEN2_AUDIO.into();
        }
        let tokens = named_tokens(folder)?.into_iter().collect();
        let file = path.display().to_string();
        let Some(text) = template_named(&value, "default") else {
            let reason = "chat_template: expected a text, or a list with one named default".to_owned();
            return Err(TextError::File { path, reason });
        };
        let template = Self::new(text, tokens, &file)?;
        match template_named(&value, WITH_TOOLS).filter(|_| value.is_array()) {
            Some(text) => template.with_tools(text).map(Some),
            None => Ok(Some(template)),
        }
    }

    /// A template from its text; `file` stands in errors.
    ///
    /// # Errors
    /// If the text is no template.
    pub fn new(text: String, tokens: Vec<(String, String)>, file: &str) -> Result<Self, TextError> {
        let mut environment = environment();
        let source = prepared(&text);
        environment.add_template_owned("chat", source).map_err(|error| fault(file, &error))?;
        let (environment, file) = (Arc::new(environment), file.to_owned());
        let mut template = Self { environment, tokens, file, takes_parts: false, takes_text: false };
        let words = "words of a message";
        template.takes_parts = template.shows(&json!([{"type": "text", "text": words}]), words);
        template.takes_text = template.shows(&words.into(), words);
        Ok(template)
    }

    /// Another template for conversations with tools.
    fn with_tools(mut self, text: String) -> Result<Self, TextError> {
        let environment = Arc::make_mut(&mut self.environment);
        let source = prepared(&text);
        environment.add_template_owned(WITH_TOOLS, source).map_err(|error| fault(&self.file, &error))?;
        Ok(self)
    }

    /// Whether it looks into the parts of a message: text, pictures and sounds. Others take text alone.
    pub fn takes_parts(&self) -> bool {
        self.takes_parts
    }

    /// Whether it writes messages that are one text. Templates of some families see parts alone, and would leave the
    /// text of others out.
    pub fn takes_text(&self) -> bool {
        self.takes_text
    }

    /// A medium as a part of a message for which this template writes `placeholder`; `None` if it does so for none of the
    /// forms that conversations have.
    pub fn media_part(&self, modality: Modality, placeholder: &str) -> Option<Json> {
        let (name, url) = (modality.name(), format!("{}_url", modality.name()));
        let forms = [
            json!({"type": name}),
            json!({"type": name, &url: name}),
            json!({"type": name, name: name}),
            json!({"type": name, "url": name}),
            json!({"type": &url, &url: {"url": name}}),
        ];
        let words = json!({"type": "text", "text": "words of a message"});
        forms.into_iter().find(|form| {
            let messages = json!([{"role": "user", "content": [form, words]}]);
            let rendered = self.render(&messages, None, true).unwrap_or_default();
            rendered.matches(placeholder).count() == 1
        })
    }

    /// Renders a message: does its text stand in the result, and nothing of a list around it?
    fn shows(&self, content: &Json, words: &str) -> bool {
        let rendered = self.render(&json!([{"role": "user", "content": content}]), None, false);
        let rendered = rendered.unwrap_or_default();
        rendered.contains(words) && !rendered.contains("type'") && !rendered.contains("type\"")
    }

    /// The text of a conversation without further variables.
    ///
    /// # Errors
    /// As [`render_conversation`](Self::render_conversation).
    pub fn render(
        &self,
        messages: &Json,
        tools: Option<&Json>,
        add_generation_prompt: bool,
    ) -> Result<String, TextError> {
        self.render_conversation(Conversation { messages, tools, add_generation_prompt, variables: None })
    }

    /// The text of a conversation, as `apply_chat_template` of transformers renders it.
    ///
    /// # Errors
    /// If the template raises one, or does not come to an end.
    pub fn render_conversation(&self, conversation: Conversation<'_>) -> Result<String, TextError> {
        let Conversation { messages, tools, add_generation_prompt, variables } = conversation;
        let tokens = self.tokens.iter().map(|(name, text)| (name.clone(), Value::from(text)));
        let variables = variables.into_iter().flatten();
        let variables = variables.map(|(name, value)| (name.clone(), Value::from(Serde(value))));
        // Of two with one name the later counts: what the caller says.
        let named = Value::from_pairs(tokens.chain(variables));
        let name = match tools {
            Some(_) if self.environment.get_template(WITH_TOOLS).is_ok() => WITH_TOOLS,
            _ => "chat",
        };
        let template = self.environment.get_template(name).expect("it was added under this name");
        let context = context! {
            messages => Value::from(Serde(as_handed_on(messages))),
            tools => tools.map(|tools| Value::from(Serde(tools))),
            documents => (),
            add_generation_prompt => add_generation_prompt,
            ..named
        };
        template.render(context).map_err(|error| fault(&self.file, &error))
    }
}

/// Messages as transformers hands them on: without fields that hold null, and with reasoning that is said under one name
/// under those that templates read.
fn as_handed_on(messages: &Json) -> Json {
    let Some(list) = messages.as_array() else { return messages.clone() };
    let handed_on = list.iter().map(|message| {
        let Some(fields) = message.as_object() else { return message.clone() };
        let mut fields = fields.clone();
        fields.retain(|_, value| !value.is_null());
        if let Some(reasoning) = REASONING.iter().find_map(|name| fields.get(*name)).cloned() {
            fields.entry("thinking").or_insert_with(|| reasoning.clone());
            fields.insert("reasoning_content".to_owned(), reasoning);
        }
        Json::Object(fields)
    });
    handed_on.collect()
}

/// The family that `config.json` names; empty if it names none.
fn model_type(folder: &Path) -> Result<String, TextError> {
    let config = JsonFile::optional(folder, "config.json")?.content;
    Ok(config["model_type"].as_str().unwrap_or_default().to_owned())
}

/// A template alone, which is the default one, or one of several by its name.
fn template_named(value: &Json, name: &str) -> Option<String> {
    let text = match value.as_array() {
        Some(list) => &list.iter().find(|entry| entry["name"] == name)?["template"],
        None => value,
    };
    text.as_str().map(str::to_owned)
}

fn fault(file: &str, error: &TemplateError) -> TextError {
    TextError::File { path: file.into(), reason: format!("chat template: {error:#}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> ChatTemplate {
        ChatTemplate::new(text.to_owned(), Vec::new(), "t.jinja").unwrap()
    }

    fn render(text: &str) -> Result<String, String> {
        let messages = json!([{"role": "user", "content": "hi"}]);
        template(text).render(&messages, None, true).map_err(|error| error.to_string())
    }

    #[test]
    fn templates_that_never_end_or_grow_without_end_are_errors_that_name_their_file() {
        let nested = "{% for a in range(100000) %}".repeat(4) + "x" + &"{% endfor %}".repeat(4);
        let doubling = "{% set n = namespace(x='xxxxxxxx') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}";
        let joined = "{{ (['x' * 1000000] * 100000) | join(',') }}";
        let endless = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
        let tree = "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson }}";
        let widths = [
            "'%99999999999d' % 1",
            "'a'.center(99999999999)",
            "'1'.zfill(99999999999)",
            "('a' | center(99999999999))",
        ];
        let widths = widths.map(|width| format!("{{{{ {width} }}}}"));
        let texts = [nested.as_str(), doubling, joined, endless, tree, "{{ 'x' * 99999999999 }}"];
        for text in texts.into_iter().chain(widths.iter().map(String::as_str)) {
            let error = render(text).unwrap_err();
            assert!(error.starts_with("t.jinja: chat template: "), "{error}");
        }
    }

    #[test]
    fn broken_templates_and_those_that_refuse_are_named() {
        let broken = ChatTemplate::new("{% if %}".to_owned(), Vec::new(), "t.jinja").unwrap_err().to_string();
        assert!(broken.starts_with("t.jinja: chat template: "), "{broken}");
        let refused = render("{{ raise_exception('only system messages') }}").unwrap_err();
        assert!(refused.contains("only system messages") && refused.contains("t.jinja"), "{refused}");
        assert!(render("{{ messages[0].absent.more }}").is_err());
        assert!(render("{{ strftime_now('%Q%!') }}").is_err());
    }

    #[test]
    fn the_time_is_this_machines() {
        let year: i16 = render("{{ strftime_now('%Y') }}").unwrap().parse().unwrap();
        assert!(year >= 2026, "{year}");
    }

    #[test]
    fn templates_that_look_into_parts_are_told_from_those_that_do_not() {
        assert!(!template("{% for m in messages %}{{ m.content }}{% endfor %}").takes_parts());
        let joins = template("{% for m in messages %}{{ '> ' + m.content }}{% endfor %}");
        assert!(joins.takes_text() && !joins.takes_parts());
        let looks = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}";
        assert!(template(looks).takes_parts());
        assert!(!template(looks).takes_text());
    }

    #[test]
    fn media_stand_in_the_form_for_which_the_template_writes_their_placeholder() {
        let of = |test: &str| {
            let text = "{% for m in messages %}{% for p in m.content %}{% if TEST %}<a>{% endif %}{% endfor %}{% endfor %}";
            template(&text.replace("TEST", test)).media_part(Modality::Audio, "<a>")
        };
        for (test, expected) in [
            ("p.type == 'audio'", json!({"type": "audio"})),
            ("'audio_url' in p", json!({"type": "audio", "audio_url": "audio"})),
            ("p.audio", json!({"type": "audio", "audio": "audio"})),
            ("p.type == 'audio_url'", json!({"type": "audio_url", "audio_url": {"url": "audio"}})),
        ] {
            assert_eq!(of(test), Some(expected), "{test}");
        }
        assert_eq!(of("p.type == 'sound'"), None);
    }

    #[test]
    fn variables_stand_above_special_tokens() {
        let tokens = vec![("bos_token".to_owned(), "<s>".to_owned())];
        let template = ChatTemplate::new("{{ bos_token }}{{ flag }}".to_owned(), tokens, "t.jinja").unwrap();
        let variables = json!({"bos_token": "<b>", "flag": 3});
        let conversation = Conversation {
            messages: &json!([]),
            tools: None,
            add_generation_prompt: false,
            variables: variables.as_object(),
        };
        assert_eq!(template.render_conversation(conversation).unwrap(), "<b>3");
        assert_eq!(template.render(&json!([]), None, false).unwrap(), "<s>");
    }

    #[test]
    fn a_folder_may_hold_several_templates() {
        let folder = tempfile::tempdir().unwrap();
        assert!(ChatTemplate::from_folder(folder.path()).unwrap().is_none());
        let several = json!({"bos_token": "<s>", "chat_template": [
            {"name": "default", "template": "{{ bos_token }}plain"},
            {"name": "tool_use", "template": "{{ tools | length }} tools"},
        ]});
        fs::write(folder.path().join("tokenizer_config.json"), several.to_string()).unwrap();
        let template = ChatTemplate::from_folder(folder.path()).unwrap().unwrap();
        assert_eq!(template.render(&json!([]), None, false).unwrap(), "<s>plain");
        assert_eq!(template.render(&json!([]), Some(&json!([1, 2])), false).unwrap(), "2 tools");
        fs::write(folder.path().join("chat_template.jinja"), "mine").unwrap();
        let template = ChatTemplate::from_folder(folder.path()).unwrap().unwrap();
        assert_eq!(template.render(&json!([]), None, false).unwrap(), "mine");
        fs::write(folder.path().join("chat_template.jinja"), "{% for %}").unwrap();
        let error = ChatTemplate::from_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains("chat_template.jinja"), "{error}");
    }
}
