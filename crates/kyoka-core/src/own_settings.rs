//! Settings of parts, as recipes write them: how they are read, and what is said of those that are not right.

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use toml::{Table, Value};

use crate::nearest;

/// Anything that can be wrong with the settings of a part of another crate.
pub type PartError = Box<dyn std::error::Error + Send + Sync>;

/// What is wrong with a setting, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", .path.iter().map(|key| format!("{key}: ")).collect::<String>())]
pub struct SettingsFault {
    /// Keys from the table that was read down to the value; empty for the table itself.
    pub path: Vec<String>,
    /// What was expected there, and what stands there.
    pub reason: String,
}

impl SettingsFault {
    /// A fault of a field.
    pub fn at(field: &str, reason: impl Into<String>) -> Self {
        Self { path: vec![field.to_owned()], reason: reason.into() }
    }

    /// An error that names the field, unless its number `holds`.
    ///
    /// # Errors
    /// `epsilon: expected a number above 0, got -1`.
    pub fn unless(holds: bool, field: &str, expected: &str, got: impl std::fmt::Display) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self::at(field, format!("expected {expected}, got {got}"))) }
    }
}

/// The settings of a part, as a recipe writes them: usually the part itself.
pub trait OwnSettings: DeserializeOwned {
    /// Checks the ranges that the fields name.
    ///
    /// # Errors
    /// Names the field, its range and the value.
    fn check(&self) -> Result<(), SettingsFault> {
        Ok(())
    }
}

/// Makes a part of its settings.
pub type Maker<T> = fn(Table) -> Result<Box<T>, SettingsFault>;

/// Reads and checks a part's settings.
///
/// # Errors
/// Names the field, what was expected and what stands there.
pub fn own<P: OwnSettings>(settings: Table) -> Result<P, SettingsFault> {
    let part: P = read_settings(Value::Table(settings))?;
    part.check()?;
    Ok(part)
}

/// Reads a value as what it should be.
///
/// # Errors
/// Says where in it the first value stands that is none of that, in the words of a recipe.
pub fn read_settings<T: DeserializeOwned>(value: Value) -> Result<T, SettingsFault> {
    serde_path_to_error::deserialize(value).map_err(|error: serde_path_to_error::Error<toml::de::Error>| {
        let path = error.path().iter().filter_map(|segment| match segment {
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Map { key } => Some(key.clone()),
            _ => None,
        });
        let message = error.inner().message();
        let mut fault = SettingsFault { path: path.collect(), reason: in_words(message) };
        // A field that is missing or unknown is named itself, not the table around it.
        for (start, reason) in [("missing field `", "missing"), ("unknown field `", "")] {
            let Some(rest) = message.strip_prefix(start) else { continue };
            let field = rest.split('`').next().unwrap_or_default();
            if fault.path.last().is_none_or(|last| last != field) {
                fault.path.push(field.to_owned());
            }
            if !reason.is_empty() {
                fault.reason = reason.to_owned();
            }
        }
        fault
    })
}

/// Serde's message in the words of a recipe.
fn in_words(message: &str) -> String {
    let rest = ["invalid type: ", "invalid value: "].iter().find_map(|start| message.strip_prefix(start));
    if let Some((got, expected)) = rest.and_then(|rest| rest.rsplit_once(", expected ")) {
        return format!("expected {}, got {}", expectation(expected), thing(got));
    }
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let near = match quoted.split_first() {
        Some((unknown, known)) if message.contains("unknown") => nearest(unknown, known.iter().copied()),
        _ => None,
    };
    near.map_or_else(|| message.to_owned(), |near| format!("{message}; did you mean `{near}`?"))
}

/// What a type of Rust stands for in a recipe.
fn expectation(expected: &str) -> String {
    match expected {
        "usize" | "u64" | "u32" | "u16" | "u8" => "a whole number of at least 0".to_owned(),
        "isize" | "i64" | "i32" => "a whole number".to_owned(),
        "f64" | "f32" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" | "string or map" | "path string" => "a text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "struct LearningRate" => "a table such as { peak = 1e-4 }".to_owned(),
        _ if expected.starts_with("struct ") || expected == "a map" => "a table".to_owned(),
        _ => expected.to_owned(),
    }
}

/// What stands there, as a recipe writes it.
fn thing(got: &str) -> String {
    let inside = |start: &str| got.strip_prefix(start).map(|rest| rest.trim_matches('`').to_owned());
    if let Some(text) = got.strip_prefix("string ") {
        return format!("the text {text}");
    }
    let number = ["integer ", "floating point ", "boolean "].iter().find_map(|start| inside(start));
    match got {
        "map" => "a table".to_owned(),
        "sequence" => "a list".to_owned(),
        _ => number.unwrap_or_else(|| got.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Knob {
        turns: u32,
    }

    impl OwnSettings for Knob {
        fn check(&self) -> Result<(), SettingsFault> {
            SettingsFault::unless(self.turns > 0, "turns", "at least 1", self.turns)
        }
    }

    #[test]
    fn settings_are_read_and_checked() {
        let read = |text: &str| own::<Knob>(text.parse().unwrap()).map_err(|fault| fault.to_string());
        assert_eq!(read("turns = 2"), Ok(Knob { turns: 2 }));
        for (text, said) in [
            ("turns = 0", "turns: expected at least 1, got 0"),
            ("turns = 'x'", "turns: expected a whole number of at least 0, got the text \"x\""),
            ("", "turns: missing"),
            ("trns = 1", "trns: unknown field `trns`, expected `turns`; did you mean `turns`?"),
        ] {
            assert_eq!(read(text), Err(said.to_owned()));
        }
    }
}
