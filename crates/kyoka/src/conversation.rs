//! Turns of a conversation as the policy's chat template writes them.

use kyoka_core::{MediaRef, Message, Modality, Part, Prompt, Role, TaskError};
use kyoka_text::{ChatTemplate, MediaMark, MediumTokens};
use serde_json::{Value, json};

use crate::{MultimodalTask, task::filled};

/// Stands for what the policy has said, in a conversation that shows what follows it.
const WORDS: &str = "kyoka-said";

/// Whether answers begin inside a `<think>` that the template writes.
pub(crate) fn opens_reasoning(template: &ChatTemplate) -> bool {
    let takes_text = template.takes_text() || !template.takes_parts();
    let content = if takes_text { json!("?") } else { json!([{"type": "text", "text": "?"}]) };
    let text = template.render(&json!([{"role": "user", "content": content}]), None, true);
    text.is_ok_and(|text| text.trim_end().ends_with("<think>"))
}

impl MultimodalTask {
    /// Whether prompts are turns of a conversation.
    pub(crate) fn converses(&self) -> bool {
        self.template.is_some()
    }

    /// A conversation up to where the policy's turn begins, media processed.
    pub(crate) fn conversation(&self, messages: &[Message]) -> Result<Prompt, TaskError> {
        let template = self.template.as_ref().ok_or("the policy has no chat template")?;
        let (inputs, media) = self.inputs(messages.iter().flat_map(|message| &message.parts), None)?;
        Ok(filled(self.encode_messages(template, messages, &media)?, inputs))
    }

    /// A conversation as the template writes it, tools and all, up to where the policy's turn begins.
    pub(crate) fn encode_messages(
        &self,
        template: &ChatTemplate,
        messages: &[Message],
        media: &[MediumTokens],
    ) -> Result<Prompt, TaskError> {
        let text = self.rendered(template, messages)?;
        let system = messages.iter().filter(|message| message.role == Role::System);
        for part in system.flat_map(|message| &message.parts) {
            if let Part::Text(said) = part
                && !text.contains(self.tokenizer.shielded(said.trim()).as_str())
            {
                return Err("the policy's chat template leaves the `system` text out".into());
            }
        }
        let (token_ids, spans) = self.tokenizer.encode_prompt(&text, media)?;
        Ok(Prompt { token_ids, spans, ..Prompt::default() })
    }

    /// What follows a turn of the policy in which an environment answers with `parts`: the turn's close where the policy has not
    /// written it itself, the answer as a user's turn, and the opening of the policy's next one. It is what the template writes
    /// behind the policy's words in a conversation of all three.
    pub(crate) fn encode_answer(
        &self,
        template: &ChatTemplate,
        (parts, media): (&[Part], &[MediumTokens]),
        closed_by: Option<u32>,
    ) -> Result<Prompt, TaskError> {
        let messages = [
            Message::of_text(Role::User, "?"),
            Message::of_text(Role::Assistant, WORDS),
            Message::user(parts.to_vec()),
        ];
        let text = self.rendered(template, &messages)?;
        let (_, mut behind) = text
            .split_once(WORDS)
            .ok_or("the policy's chat template leaves out what the policy said before")?;
        if let Some(drawn) = closed_by {
            // What the policy has written itself is not written again; a close by another token stands behind its own.
            let close = self.tokenizer.end_texts().find(|(id, _)| *id == drawn);
            let written = close.and_then(|(_, end)| behind.trim_start().strip_prefix(end.as_str()));
            behind = written.unwrap_or(behind);
        }
        let (token_ids, spans) = self.tokenizer.encode_following(behind, media)?;
        Ok(Prompt { token_ids, spans, ..Prompt::default() })
    }

    /// Messages as the template writes them. Where it has no place for tools, they are described in the first message.
    fn rendered(&self, template: &ChatTemplate, messages: &[Message]) -> Result<String, TaskError> {
        let value = |messages: &[Message]| {
            let value = |Message { role, parts }: &Message| json!({"role": role.name(), "content": self.content(template, parts)});
            messages.iter().map(value).collect::<Value>()
        };
        if self.tools.is_empty() {
            return Ok(template.render(&value(messages), None, true)?);
        }
        let tools = Value::from(self.tools.clone());
        let told = |text: &str| {
            let mut names = self.tools.iter().filter_map(|tool| tool["function"]["name"].as_str());
            names.all(|name| text.contains(name))
        };
        let text = template.render(&value(messages), Some(&tools), true)?;
        // A question may have a tool's name in it: only what the template adds of itself counts.
        if told(&text) && text != template.render(&value(messages), None, true)? {
            return Ok(text);
        }
        let mut messages = messages.to_vec();
        let description = self.tool_description();
        match messages.first_mut() {
            Some(Message { role: Role::System, parts }) => {
                parts.push(Part::Text(format!("\n\n{description}")))
            }
            _ => messages.insert(0, Message::of_text(Role::System, description)),
        }
        let text = template.render(&value(&messages), None, true)?;
        if told(&text) && text.contains("<tools>") {
            return Ok(text);
        }
        Err("the policy's chat template leaves tools and the `system` text out".into())
    }

    /// Tools as Hermes and Qwen models are told of them.
    fn tool_description(&self) -> String {
        let tools: Vec<String> = self.tools.iter().map(Value::to_string).collect();
        format!(
            "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function \
             signatures within <tools></tools> XML tags:\n<tools>\n{}\n</tools>\n\nFor each function call, return a json \
             object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{{\"name\": \
             <function-name>, \"arguments\": <args-json-object>}}\n</tool_call>",
            tools.join("\n")
        )
    }

    /// A turn as a template takes it: parts, or one text with placeholders.
    fn content(&self, template: &ChatTemplate, parts: &[Part]) -> Value {
        let form =
            |media: &MediaRef| self.media_parts[usize::from(media.modality == Modality::Audio)].as_ref();
        let text = |text: &str| json!({"type": "text", "text": text});
        let part = |part: &Part| match part {
            Part::Text(words) => Some(text(&self.tokenizer.shielded(words))),
            Part::Media(media) => form(media).cloned(),
        };
        // A turn of words alone is one text, except for templates that see parts alone.
        let words_alone = parts.iter().all(|part| matches!(part, Part::Text(_)));
        let as_parts = template.takes_parts() && !(words_alone && template.takes_text());
        if let Some(parts) = parts.iter().map(part).collect::<Option<Value>>().filter(|_| as_parts) {
            return parts;
        }
        let written = parts.iter().map(|part| match part {
            Part::Text(words) => self.tokenizer.shielded(words),
            Part::Media(media) => {
                self.tokenizer.marks().of(media.modality).map(MediaMark::written).unwrap_or_default()
            }
        });
        let written: String = written.collect();
        if template.takes_parts() && !template.takes_text() {
            json!([text(&written)])
        } else {
            written.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use kyoka_core::{Sample, Task, ToolSchema};
    use kyoka_text::Tokenizer;

    use super::*;
    use crate::{MediaAugment, PolicyConfig};

    /// A task whose family writes the given template; a placeholder stands for a medium.
    fn task(template: &str) -> MultimodalTask {
        let tokenizer =
            Tokenizer::from_bytes(include_bytes!("../../kyoka-text/tests/tiny_tokenizer.json")).unwrap();
        let config = PolicyConfig::tiny(tokenizer.vocab_size());
        let template = ChatTemplate::new(template.to_owned(), Vec::new(), "t.jinja").unwrap();
        MultimodalTask::new(tokenizer, config, MediaAugment::default(), 1).with_template(Some(template))
    }

    const NAMED: &str = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\
        {% if m.role == 'assistant' %}<|endoftext|>{% endif %}\n{% endfor %}\
        {% if add_generation_prompt %}[assistant] {% endif %}";
    const BRACKETED: &str = "{% for m in messages %}\
        {% if m.role == 'user' %}(Q) {{ m.content }} (A){% else %} {{ m.content }}<|endoftext|>{% endif %}{% endfor %}";

    #[test]
    fn tools_are_told_where_the_template_has_a_place_for_them_and_before_all_else_where_it_has_none() {
        let schema = ToolSchema {
            name: "weigh".to_owned(),
            description: "The weight.".to_owned(),
            parameters: json!({"type": "object", "properties": {}}),
        };
        let written = |template: &str, messages: &[Message]| {
            let task = task(template).with_tools(std::slice::from_ref(&schema));
            task.rendered(task.template.as_ref().unwrap(), messages).map_err(|error| error.to_string())
        };
        let asked = [Message::of_text(Role::User, "How heavy?")];
        let told = [Message::of_text(Role::System, "Be brief."), asked[0].clone()];
        let with_place =
            format!("{{% for tool in tools %}}{{{{ tool.function.name }}}}; {{% endfor %}}{NAMED}");
        assert_eq!(written(&with_place, &asked).unwrap(), "weigh; [user] How heavy?[assistant] ");
        let described = written(NAMED, &told).unwrap();
        assert!(described.starts_with("[system] Be brief.\n\n# Tools\n\nYou may call"), "{described}");
        assert!(
            described.contains("<tools>\n{\"type\":\"function\",\"function\":{\"name\":\"weigh\""),
            "{described}"
        );
        assert!(written(NAMED, &asked).unwrap().starts_with("[system] # Tools"));
        let named = [Message::of_text(Role::User, "What do the scales weigh?")];
        assert!(
            written(NAMED, &named).unwrap().starts_with("[system] # Tools"),
            "a question that names the tool tells none"
        );
        let deaf = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}";
        let said = written(deaf, &asked).unwrap_err();
        assert_eq!(said, "the policy's chat template leaves tools and the `system` text out");
    }

    #[test]
    fn an_answer_follows_a_turn_as_the_template_would_have_written_all_of_it() {
        let data = tempfile::tempdir().unwrap();
        let picture = data.path().join("gradient.png");
        kyoka_testing::write_grey_png(&picture, 28, |x, y| (x * 9 + y) as u8);
        let medium = Part::Media(MediaRef::file(Modality::Image, picture));
        let text = |text: &str| vec![Part::Text(text.to_owned())];
        for template in [NAMED, BRACKETED] {
            let task = task(template);
            let asked = Sample::asking(text("How many?"));
            for answer in [text("Look again."), vec![medium.clone(), Part::Text("now?".to_owned())]] {
                let turns = [
                    Message::of_text(Role::User, "How many?"),
                    Message::of_text(Role::Assistant, "two of them"),
                    Message::user(answer.clone()),
                ];
                let whole = task.conversation(&turns).unwrap();
                // The policy closes its turn with the end token, or is stopped before.
                let drawn = |closed: Option<u32>| match closed {
                    Some(_) => task.encode("two of them").unwrap(),
                    None => task.tokenizer().encode("two of them").unwrap(),
                };
                for ended in [Some(task.tokenizer().end_id()), None] {
                    let mut joined = task.prompt(&asked, None).unwrap();
                    joined.append(&Prompt { token_ids: drawn(ended), ..Prompt::default() });
                    joined.append(&task.observation(&answer, ended).unwrap());
                    // Letters alone: a space before a word is part of its token.
                    let said = |prompt: &Prompt| {
                        let text = task.tokenizer().decode(&prompt.token_ids).text;
                        let ends =
                            prompt.token_ids.iter().filter(|id| **id == task.tokenizer().end_id()).count();
                        let media: usize = prompt.spans.iter().map(|span| span.positions.len()).sum();
                        (text.replace(' ', ""), ends, media, prompt.images.len())
                    };
                    assert_eq!(said(&joined), said(&whole), "{template}: {ended:?}");
                }
            }
        }
    }
}
