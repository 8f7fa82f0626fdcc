//! A model behind an OpenAI-compatible endpoint.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kyoka_core::{Generate, GenerateError, Generated, MediaRef, Message, Modality, Part, SamplingConfig};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{NoAnswer, Patience, http::Endpoint, patiently};

/// Asks `POST /chat/completions` below a base address, pictures and sounds attached as that protocol has them.
pub(crate) struct ChatEndpoint {
    endpoint: Endpoint,
    model: String,
    patience: Patience,
}

impl ChatEndpoint {
    pub fn new(url: &str, headers: Vec<(String, String)>, model: String, patience: Patience) -> Self {
        let url = format!("{}/chat/completions", url.trim_end_matches('/'));
        Self { endpoint: Endpoint::new(url, headers), model, patience }
    }
}

/// What comes back; further fields are of no matter.
#[derive(Deserialize)]
struct Answer {
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    message: Said,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Said {
    content: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
}

fn read(text: &str) -> Result<Generated, String> {
    let shown = || text.trim().chars().take(120).collect::<String>();
    let answer: Answer = serde_json::from_str(text)
        .map_err(|error| format!("expected an answer with `choices`, got {:?}: {error}", shown()))?;
    let choice = answer.choices.into_iter().next();
    if choice.as_ref().is_some_and(|choice| choice.finish_reason.as_deref() == Some("length")) {
        return Err("expected an answer that ends, got one cut off at max_new_tokens".to_owned());
    }
    let said = choice.and_then(|choice| choice.message.content);
    let text = said.ok_or_else(|| format!("expected a choice with a text, got {:?}", shown()))?;
    let usage = answer.usage.unwrap_or_default();
    Ok(Generated { text, input_tokens: usage.prompt_tokens, output_tokens: usage.completion_tokens })
}

/// A message as the protocol has it.
fn message(Message { role, parts }: &Message) -> Result<Value, String> {
    let words_alone = parts.iter().all(|part| matches!(part, Part::Text(_)));
    let content: Vec<Value> = parts.iter().map(part).collect::<Result<_, _>>()?;
    let content = match words_alone {
        // Endpoints without senses take nothing but a text.
        true => content.iter().filter_map(|part| part["text"].as_str()).collect::<String>().into(),
        false => Value::from(content),
    };
    Ok(json!({"role": role.name(), "content": content}))
}

fn part(part: &Part) -> Result<Value, String> {
    Ok(match part {
        Part::Text(text) => json!({"type": "text", "text": text}),
        Part::Media(medium) => attached(medium)?,
    })
}

fn attached(medium: &MediaRef) -> Result<Value, String> {
    let bytes = medium.content.read().map_err(|error| format!("{}: {error}", medium.content))?;
    let data = STANDARD.encode(&bytes);
    Ok(match medium.modality {
        Modality::Image => {
            let url = format!("data:{};base64,{data}", picture_type(&bytes));
            json!({"type": "image_url", "image_url": {"url": url}})
        }
        Modality::Audio => {
            json!({"type": "input_audio", "input_audio": {"data": data, "format": sound_format(&bytes)}})
        }
    })
}

fn picture_type(bytes: &[u8]) -> &'static str {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => "image/png",
        [0xff, 0xd8, ..] => "image/jpeg",
        [b'G', b'I', b'F', ..] => "image/gif",
        [b'B', b'M', ..] => "image/bmp",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => "image/tiff",
        _ => "application/octet-stream",
    }
}

fn sound_format(bytes: &[u8]) -> &'static str {
    match bytes {
        [b'R', b'I', b'F', b'F', ..] => "wav",
        [b'f', b'L', b'a', b'C', ..] => "flac",
        [b'O', b'g', b'g', b'S', ..] => "ogg",
        [b'F', b'O', b'R', b'M', ..] => "aiff",
        _ => "mp3",
    }
}

impl Generate for ChatEndpoint {
    fn model(&self) -> String {
        format!("{} {}", self.endpoint.url(), self.model).trim().to_owned()
    }

    fn generate(&self, messages: &[Message], sampling: &SamplingConfig) -> Result<Generated, GenerateError> {
        let messages: Vec<Value> =
            messages.iter().map(message).collect::<Result<_, _>>().map_err(GenerateError)?;
        let mut body = json!({
            "messages": messages, "temperature": sampling.temperature, "max_tokens": sampling.max_new_tokens,
        });
        if !self.model.is_empty() {
            body["model"] = self.model.clone().into();
        }
        let body = body.to_string();
        patiently(self.patience.retries, || {
            let text = self.endpoint.post(&body, self.patience.time_limit)?;
            read(&text).map_err(NoAnswer::now)
        })
        .map_err(GenerateError)
    }
}
