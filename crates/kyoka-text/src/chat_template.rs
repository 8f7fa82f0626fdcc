//! Conversations as text, by the template a checkpoint brings.

use std::{fs, path::Path, sync::Arc};

use minijinja::{
    Environment, Error as TemplateError, ErrorKind, Value, context, syntax::SyntaxConfig, value::Serde,
};

use crate::{TextError, checkpoint::named_tokens};

/// Steps a template may take: far more than any conversation needs, and an end for one that loops.
const MOST_STEPS: u64 = 50_000_000;

/// The template of a checkpoint's conversations.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    /// Special tokens by name, which templates write.
    tokens: Vec<(String, String)>,
    file: String,
    takes_parts: bool,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("file", &self.file).finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// The template of a folder: `chat_template.jinja`, or else in `chat_template.json`, `processor_config.json` or
    /// `tokenizer_config.json`; `None` if there is none.
    ///
    /// # Errors
    /// If a file cannot be read, or the template is none.
    pub fn from_folder(folder: &Path) -> Result<Option<Self>, TextError> {
        let path = folder.join("chat_template.jinja");
        let mut found = fs::read_to_string(&path).ok().map(|text| (text, path));
        for name in ["chat_template.json", "processor_config.json", "tokenizer_config.json"] {
            let path = folder.join(name);
            if found.is_none() && path.is_file() {
                let fail = |reason: String| TextError::File { path: path.clone(), reason };
                let text = fs::read(&path).map_err(|error| fail(error.to_string()))?;
                let json: serde_json::Value =
                    serde_json::from_slice(&text).map_err(|error| fail(error.to_string()))?;
                found = template_of(&json["chat_template"]).map(|text| (text, path));
            }
        }
        let Some((text, path)) = found else { return Ok(None) };
        let tokens = named_tokens(folder)?.into_iter().collect();
        Self::new(text, tokens, &path.display().to_string()).map(Some)
    }

    /// A template from its text; `file` stands in errors.
    ///
    /// # Errors
    /// If the text is no template.
    pub fn new(text: String, tokens: Vec<(String, String)>, file: &str) -> Result<Self, TextError> {
        let takes_parts = text.contains("'type'") || text.contains(".type") || text.contains("\"type\"");
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the usual syntax is valid"));
        environment.set_fuel(Some(MOST_STEPS));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, TemplateError> {
            Err(TemplateError::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_template_owned("chat", text).map_err(|error| fault(file, &error))?;
        Ok(Self { environment: Arc::new(environment), tokens, file: file.to_owned(), takes_parts })
    }

    /// Whether it looks into the parts of a message: text, pictures and sounds. Others take text alone.
    pub fn takes_parts(&self) -> bool {
        self.takes_parts
    }

    /// The text of a conversation: messages with `role` and `content` as `transformers` has them, and the tools that may
    /// be called.
    ///
    /// # Errors
    /// If the template raises one, or does not come to an end.
    pub fn render(
        &self,
        messages: &serde_json::Value,
        tools: Option<&serde_json::Value>,
        add_generation_prompt: bool,
    ) -> Result<String, TextError> {
        let tokens: Value = self.tokens.iter().map(|(name, text)| (name.clone(), Value::from(text))).collect();
        let template = self.environment.get_template("chat").expect("it was added under this name");
        let context = context! {
            messages => Value::from(Serde(messages)),
            tools => tools.map(|tools| Value::from(Serde(tools))),
            add_generation_prompt,
            ..tokens
        };
        template.render(context).map_err(|error| fault(&self.file, &error))
    }
}

/// A template alone, or the one called `default` of several.
fn template_of(value: &serde_json::Value) -> Option<String> {
    if let Some(list) = value.as_array() {
        let named = list.iter().find(|entry| entry["name"] == "default").or(list.first())?;
        return named["template"].as_str().map(str::to_owned);
    }
    value.as_str().map(str::to_owned)
}

fn fault(file: &str, error: &TemplateError) -> TextError {
    TextError::File { path: file.into(), reason: format!("chat template: {error:#}") }
}
