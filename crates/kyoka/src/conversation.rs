//! Turns of a conversation as the policy's chat template writes them.

use kyoka_core::{MediaRef, Modality, Part, Prompt, TaskError};
use kyoka_text::{ChatTemplate, MediaMark, MediumTokens};
use serde_json::{Value, json};

use crate::{MultimodalTask, task::filled};

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
