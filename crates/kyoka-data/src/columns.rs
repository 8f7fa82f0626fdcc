//! The columns of a row: taken one by one, with what is wrong in each.

use std::{collections::BTreeMap, path::PathBuf};

use kyoka_core::{Role, misspelt};
use serde::Deserialize;
use serde_json::{Number, Value};

use crate::json::{RowJson, kind};

/// Columns that some reader takes.
const KNOWN: [&str; 11] = [
    "id",
    "system",
    "prompt",
    "messages",
    "images",
    "audios",
    "answer",
    "steps",
    "completion",
    "chosen",
    "rejected",
];

/// What other formats call a column, which is taken for it where the column itself is missing.
const ELSEWHERE: [(&str, &[&str]); 4] = [
    (
        "images",
        &[
            "img",
            "imgs",
            "picture",
            "pictures",
            "photo",
            "photos",
            "image_path",
            "image_paths",
            "image_file",
            "image_url",
        ],
    ),
    ("audios", &["sound", "sounds", "wav", "wavs", "audio_path", "audio_paths", "audio_file", "audio_url"]),
    ("prompt", &["question", "query", "instruction", "problem"]),
    ("system", &["system_prompt", "system_message"]),
];

/// A field, if one can be named, and what is wrong with it.
pub(crate) type Fault = (Option<String>, String);

/// What is left of a row, and the faults found so far.
pub(crate) struct Columns {
    names: Vec<String>,
    left: Vec<(String, Value)>,
    pub faults: Vec<Fault>,
}

impl Columns {
    /// The columns of a row.
    ///
    /// # Errors
    /// If the row is no object.
    pub fn new(row: RowJson) -> Result<Self, String> {
        match row {
            RowJson::Other(kind) => {
                Err(format!("expected an object such as {{\"id\": \"a\", \"prompt\": \"…\"}}, got {kind}"))
            }
            RowJson::Object(columns) => {
                let mut row = Self { names: Vec::new(), left: Vec::new(), faults: Vec::new() };
                for (name, value) in columns {
                    if row.names.contains(&name) {
                        row.fault(&name, "stands twice in the row");
                    } else {
                        row.names.push(name.clone());
                        row.left.push((name, value));
                    }
                }
                Ok(row)
            }
        }
    }

    pub fn fault(&mut self, field: &str, message: impl Into<String>) {
        self.faults.push((Some(field.to_owned()), message.into()));
    }

    /// Takes a column; null counts as missing.
    /// Takes a column as it stands; `None` where it is missing or null.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.left.iter().position(|(own, _)| own == name)?;
        Some(self.left.remove(at).1).filter(|value| !value.is_null())
    }

    /// Takes a column and reads it; what is wrong becomes a fault of the column.
    fn read<T>(&mut self, name: &str, read: impl FnOnce(Value) -> Result<T, String>) -> Option<T> {
        match read(self.take(name)?) {
            Ok(read) => Some(read),
            Err(message) => {
                self.fault(name, message);
                None
            }
        }
    }

    /// The columns that are left and that no reader takes.
    pub fn unknown(&self) -> BTreeMap<String, Value> {
        self.left.iter().filter(|(name, _)| !KNOWN.contains(&name.as_str())).cloned().collect()
    }

    /// A text that may be missing.
    pub fn text(&mut self, name: &str) -> Option<String> {
        self.read(name, |value| match value {
            Value::String(text) => Ok(text),
            other => Err(format!("expected a text, got {}", kind(&other))),
        })
    }

    /// A text, number or boolean as text; it must be there, and must say something.
    pub fn name(&mut self, name: &str, what: &str) -> String {
        self.required(name, |value| scalar(value, what))
    }

    /// A text that must be there, and must say something.
    pub fn wanted_text(&mut self, name: &str, what: &str) -> String {
        self.required(name, |value| match value {
            Value::String(text) => filled(text, what),
            other => Err(format!("expected a text, got {}", kind(&other))),
        })
    }

    fn required(&mut self, name: &str, read: impl FnOnce(Value) -> Result<String, String>) -> String {
        let others = self.names.iter().map(String::as_str).filter(|&other| other != name);
        let missing = match others.collect::<Vec<_>>().join(", ") {
            others if others.is_empty() => "missing".to_owned(),
            others => format!("missing; the row has {others}"),
        };
        let faults = self.faults.len();
        let found = self.read(name, read);
        if found.is_none() && self.faults.len() == faults {
            self.fault(name, missing);
        }
        found.unwrap_or_default()
    }

    /// A finite number that may be missing.
    pub fn number(&mut self, name: &str) -> Option<f64> {
        self.read(name, |value| match value.as_f64().filter(|number| number.is_finite()) {
            Some(number) => Ok(number),
            None => Err(format!("expected a number, got {value}")),
        })
    }

    /// A column that is true or false; with anything else it is none of Kyoka's.
    pub fn boolean(&mut self, name: &str) -> Option<bool> {
        let value = self.left.iter().find(|(column, _)| column == name)?.1.as_bool()?;
        self.take(name);
        Some(value)
    }

    /// The prompt, each message with who speaks: `messages`, or `prompt` with a `system` before it.
    pub fn conversation(&mut self, may_be_missing: bool) -> Vec<(Role, String)> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Said {
            role: Role,
            content: String,
        }
        if !self.left.iter().any(|(name, value)| name == "messages" && !value.is_null()) {
            let system = self.text("system").filter(|text| !text.trim().is_empty());
            let prompt = match self.left.iter().any(|(name, _)| name == "prompt") || !may_be_missing {
                true => Some(self.wanted_text("prompt", "a question")),
                false => None,
            };
            return system
                .map(|text| (Role::System, text))
                .into_iter()
                .chain(prompt.map(|prompt| (Role::User, prompt)))
                .collect();
        }
        for other in ["prompt", "system"] {
            if self.take(other).is_some() {
                self.fault(other, "stands beside messages; expected one of both");
            }
        }
        let said = self.read("messages", |value| {
            let said: Vec<Said> = serde_path_to_error::deserialize(value).map_err(|error| {
                let (path, reason) = (error.path().to_string(), error.inner());
                format!(
                    "expected a list such as [{{\"role\": \"user\", \"content\": \"…\"}}]: {path}: {reason}"
                )
            })?;
            let is_asked = |said: &Said| said.role == Role::User && !said.content.trim().is_empty();
            match said.iter().any(is_asked) {
                true => Ok(said.into_iter().map(|said| (said.role, said.content)).collect()),
                false => Err("expected a message of the user that says something, got none".to_owned()),
            }
        });
        said.unwrap_or_default()
    }

    /// One right answer, or a list of them; a list or an object among them is an answer for rewards that read such.
    pub fn answer(&mut self, name: &str) -> Option<Value> {
        let checked = |value: Value| match value {
            compound @ (Value::Array(_) | Value::Object(_)) => Ok(compound),
            one => scalar(one.clone(), "an answer").map(|_| one),
        };
        self.read(name, |value| match value {
            Value::Array(list) if list.is_empty() => Err("expected an answer, got an empty list".to_owned()),
            Value::Array(list) => list.into_iter().map(checked).collect(),
            one => checked(one),
        })
    }

    /// A list of texts, empty where it is missing.
    pub fn labels(&mut self, name: &str) -> Vec<String> {
        let labels = self.read(name, |value| match value {
            Value::Array(list) => list.into_iter().map(|label| text_of(label, "a label")).collect(),
            other => Err(format!("expected a list of texts, got {}", kind(&other))),
        });
        labels.unwrap_or_default()
    }

    /// A path or a list of paths, empty where it is missing.
    pub fn paths(&mut self, name: &str) -> Vec<PathBuf> {
        let paths = self.read(name, |value| match value {
            Value::Array(list) => list.into_iter().map(|path| text_of(path, "a path")).collect(),
            Value::String(path) => Ok(vec![filled(path, "a path")?]),
            other => Err(format!("expected a path or a list of paths, got {}", kind(&other))),
        });
        paths.unwrap_or_default().into_iter().map(PathBuf::from).collect()
    }

    /// Refuses columns that were meant to be a known one; gives the names of the others that nothing reads.
    pub fn unread(&mut self) -> Vec<String> {
        let left = std::mem::take(&mut self.left).into_iter().map(|(name, _)| name);
        let mut unread = Vec::new();
        for name in left.filter(|name| !KNOWN.contains(&name.as_str())) {
            let own = |own: &str| self.names.iter().any(|name| name == own);
            let elsewhere =
                ELSEWHERE.iter().find(|(column, names)| !own(column) && names.contains(&name.as_str()));
            match misspelt(&name, KNOWN).or(elsewhere.map(|(column, _)| *column)) {
                Some(near) => self.fault(&name, format!("unknown column; did you mean `{near}`?")),
                None => unread.push(name),
            }
        }
        unread
    }
}

/// A value as text.
fn scalar(value: Value, what: &str) -> Result<String, String> {
    match value {
        Value::String(text) => filled(text, what),
        Value::Bool(truth) => Ok(truth.to_string()),
        Value::Number(number) if is_exact(&number) => Ok(number.to_string()),
        Value::Number(number) => {
            Err(format!("{number} has more digits than JSON numbers keep; write it as a text"))
        }
        other => Err(format!("expected a text, a number or a boolean, got {}", kind(&other))),
    }
}

/// Whether no digit of the file can have been lost: a number of 17 digits was longer before it was read.
fn is_exact(number: &Number) -> bool {
    let text = number.to_string();
    let digits = text.split(['e', 'E']).next().unwrap_or_default().bytes().filter(u8::is_ascii_digit);
    !number.is_f64() || digits.count() < 17
}

fn text_of(value: Value, what: &str) -> Result<String, String> {
    match value {
        Value::String(text) => filled(text, what),
        other => Err(format!("expected texts, got {} among them", kind(&other))),
    }
}

fn filled(text: String, what: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err(format!("expected {what}, got an empty text")) } else { Ok(text) }
}
