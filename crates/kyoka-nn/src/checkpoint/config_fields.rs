//! Fields of a checkpoint's JSON files that are checked one by one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

/// Why a configuration could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file is no JSON object.
    #[error("{path}: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A field does not hold what it must.
    #[error("{path}: {field}: expected {expected}, got {got}")]
    Field {
        /// The file.
        path: PathBuf,
        /// Its name.
        field: String,
        /// What it must hold.
        expected: String,
        /// What it holds.
        got: String,
    },
}

/// The fields of a configuration, with the place they came from.
#[derive(Debug, Clone)]
pub struct ConfigFields {
    path: PathBuf,
    prefix: String,
    fields: Map<String, Value>,
}

impl ConfigFields {
    /// The content of a file; `path` is for messages.
    pub fn new(fields: &Map<String, Value>, path: &Path) -> Self {
        Self { path: path.to_owned(), prefix: String::new(), fields: fields.clone() }
    }

    /// The fields of a file.
    ///
    /// # Errors
    /// If it cannot be read, or is no JSON object.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let bytes = fs::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let fields: Map<String, Value> = kyoka_core::from_python_json(&bytes)
            .map_err(|error| ConfigError::Parse { path: path.to_owned(), reason: error.to_string() })?;
        Ok(Self::new(&fields, path))
    }

    /// How a checkpoint folder preprocesses: the object `part` within `processor_config.json` where that is there, else
    /// `preprocessor_config.json`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn of_processor(folder: &Path, part: &str) -> Result<Self, ConfigError> {
        let nested = folder.join("processor_config.json");
        if nested.is_file() {
            let whole = Self::read(&nested)?;
            if let Some(Value::Object(fields)) = whole.fields.get(part) {
                return Ok(Self { prefix: format!("{part}."), ..Self::new(fields, &nested) });
            }
        }
        Self::read(&folder.join("preprocessor_config.json"))
    }

    /// A field that is there and not null.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// Whether something is set; `default` where the field is absent.
    ///
    /// # Errors
    /// If it is neither true nor false.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, ConfigError> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.fault(name, "true or false")),
        }
    }

    /// A number from 1 to `most`; `default` where the field is absent.
    ///
    /// # Errors
    /// If it is anything else.
    pub fn count(&self, name: &str, default: Option<usize>, most: u64) -> Result<usize, ConfigError> {
        match (self.get(name), default) {
            (None, Some(default)) => Ok(default),
            (value, _) => self.count_of(name, value, most),
        }
    }

    /// A number from 1 to `most` within the object `name`.
    ///
    /// # Errors
    /// If it is anything else.
    pub fn part(&self, name: &str, part: &str, most: u64) -> Result<usize, ConfigError> {
        let value = self.fields.get(name).and_then(|object| object.get(part));
        self.count_of(&format!("{name}.{part}"), value, most)
    }

    fn count_of(&self, field: &str, value: Option<&Value>, most: u64) -> Result<usize, ConfigError> {
        let number = value.and_then(Value::as_u64).filter(|number| (1..=most).contains(number));
        let expected = format!("a number from 1 to {most}");
        number.map(|number| number as usize).ok_or_else(|| self.wrong(field, &expected, value))
    }

    /// Refuses a field that holds anything but `expected`; an absent one passes.
    ///
    /// # Errors
    /// If it does.
    pub fn must_be(&self, name: &str, expected: &Value) -> Result<(), ConfigError> {
        let Some(value) = self.get(name) else { return Ok(()) };
        let same_number = value.as_f64().is_some_and(|number| Some(number) == expected.as_f64());
        if value == expected || same_number { Ok(()) } else { Err(self.fault(name, &expected.to_string())) }
    }

    /// The error of a field that does not hold what is expected.
    pub fn fault(&self, field: &str, expected: &str) -> ConfigError {
        self.wrong(field, expected, self.fields.get(field))
    }

    fn wrong(&self, field: &str, expected: &str, value: Option<&Value>) -> ConfigError {
        let mut got = value.map_or_else(|| "nothing".to_owned(), Value::to_string);
        if got.chars().count() > 80 {
            got = got.chars().take(80).chain(['…']).collect();
        }
        ConfigError::Field {
            path: self.path.clone(),
            field: format!("{}{field}", self.prefix),
            expected: expected.to_owned(),
            got,
        }
    }
}
