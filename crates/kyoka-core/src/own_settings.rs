//! Parts that are configured by settings of their own.

use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// Anything that can be wrong with the settings of a part of another crate.
pub type PartError = Box<dyn std::error::Error + Send + Sync>;

/// The settings of a part, as a recipe writes them: usually the part itself.
pub trait OwnSettings: DeserializeOwned {
    /// Checks the ranges that the fields name.
    ///
    /// # Errors
    /// Names the field, its range and the value: `epsilon: expected a number above 0, got -1`.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Makes a part of its settings.
pub type Maker<T> = fn(Table) -> Result<Box<T>, String>;

/// Reads and checks a part's settings.
///
/// # Errors
/// Names the field, what was expected and what stands there.
pub fn own<P: OwnSettings>(settings: Table) -> Result<P, String> {
    let part: P = serde_path_to_error::deserialize(Value::Table(settings)).map_err(|error| {
        let (path, reason) = (error.path().to_string(), error.inner().message().to_owned());
        if path == "." { reason } else { format!("{path}: {reason}") }
    })?;
    part.check()?;
    Ok(part)
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
        fn check(&self) -> Result<(), String> {
            if self.turns > 0 { Ok(()) } else { Err("turns: expected at least 1, got 0".to_owned()) }
        }
    }

    #[test]
    fn settings_are_read_and_checked() {
        let read = |text: &str| own::<Knob>(text.parse().unwrap());
        assert_eq!(read("turns = 2"), Ok(Knob { turns: 2 }));
        assert_eq!(read("turns = 0"), Err("turns: expected at least 1, got 0".to_owned()));
        assert!(read("turns = 'x'").unwrap_err().starts_with("turns: invalid type: string"));
        assert!(read("trun = 1").unwrap_err().contains("unknown field `trun`"));
    }
}
