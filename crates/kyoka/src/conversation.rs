//! Turns of a conversation as the policy's chat template writes them.

use kyoka_core::{MediaRef, Modality, Part, Prompt, StopReason, TaskError};
use kyoka_text::{ChatTemplate, MediaMark, MediumTokens};
use serde_json::{Value, json};

use crate::{MultimodalTask, task::filled};

/// Stands for what the policy has said, in a conversation that shows what follows it.
const WORDS: &str = "kyoka-said";

/// A turn of a conversation.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// What is said and shown.
    pub parts: Vec<Part>,
}

impl Turn {
    /// A turn of words alone.
    pub fn of_text(role: &'static str, text: &str) -> Self {
        Self { role, parts: vec![Part::Text(text.to_owned())] }
    }
}

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
    pub(crate) fn conversation(&self, turns: &[Turn]) -> Result<Prompt, TaskError> {
        let template = self.template.as_ref().ok_or("the policy has no chat template")?;
        let (inputs, media) = self.inputs(turns.iter().flat_map(|turn| &turn.parts), None)?;
        Ok(filled(self.encode_turns(template, turns, &media)?, inputs))
    }

    pub(crate) fn encode_turns(
        &self,
        template: &ChatTemplate,
        turns: &[Turn],
        media: &[MediumTokens],
    ) -> Result<Prompt, TaskError> {
        let mut messages = Vec::new();
        for Turn { role, parts } in turns {
            messages.push(json!({"role": role, "content": self.content(template, parts)}));
        }
        let text = template.render(&messages.into(), None, true)?;
        let system = turns.iter().filter(|turn| turn.role == "system").flat_map(|turn| &turn.parts);
        for part in system {
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
        ended: StopReason,
    ) -> Result<Prompt, TaskError> {
        let said = |text: &str| vec![Part::Text(text.to_owned())];
        let turns = [("user", said("?")), ("assistant", said(WORDS)), ("user", parts.to_vec())];
        let messages =
            turns.iter().map(|(role, parts)| json!({"role": role, "content": self.content(template, parts)}));
        let text = template.render(&messages.collect(), None, true)?;
        let (_, mut behind) = text
            .split_once(WORDS)
            .ok_or("the policy's chat template leaves out what the policy said before")?;
        if ended == StopReason::EndToken {
            let close = self.tokenizer.end_texts().find_map(|end| behind.strip_prefix(end.as_str()));
            behind = close.unwrap_or(behind);
        }
        let (token_ids, spans) = self.tokenizer.encode_following(behind, media)?;
        Ok(Prompt { token_ids, spans, ..Prompt::default() })
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
    use kyoka_core::{Sample, Task};
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
    fn an_answer_follows_a_turn_as_the_template_would_have_written_all_of_it() {
        let data = tempfile::tempdir().unwrap();
        let picture = data.path().join("gradient.png");
        kyoka_testing::write_grey_png(&picture, 28, |x, y| (x * 9 + y) as u8);
        let medium = Part::Media(MediaRef::file(Modality::Image, picture));
        let text = |text: &str| vec![Part::Text(text.to_owned())];
        for template in [NAMED, BRACKETED] {
            let task = task(template);
            let asked = Sample { parts: text("How many?"), ..Sample::default() };
            for answer in [text("Look again."), vec![medium.clone(), Part::Text("now?".to_owned())]] {
                let turns = [
                    ("user", text("How many?")),
                    ("assistant", text("two of them")),
                    ("user", answer.clone()),
                ];
                let turns = turns.map(|(role, parts)| Turn { role, parts });
                let whole = task.conversation(&turns).unwrap();
                // The policy closes its turn with the end token, or is stopped before.
                let drawn = |ended: StopReason| match ended {
                    StopReason::EndToken => task.encode("two of them").unwrap(),
                    _ => task.tokenizer().encode("two of them").unwrap(),
                };
                for ended in [StopReason::EndToken, StopReason::StopText] {
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
