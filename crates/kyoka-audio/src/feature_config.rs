//! Features from `preprocessor_config.json` and `processor_config.json`.

use std::path::Path;

use kyoka_nn::{ConfigError, ConfigFields};
use serde_json::{Map, Value};

use crate::LogMelConfig;

/// Most samples of a window that a configuration may ask for.
const MAX_SAMPLES: u64 = 1 << 27;

impl LogMelConfig {
    /// The features of a checkpoint folder: `feature_extractor` within `processor_config.json` where that is there,
    /// else `preprocessor_config.json`.
    ///
    /// # Errors
    /// Names the file, and the field that is missing, negative, zero, of another kind or too large to be meant.
    pub fn from_folder(folder: &Path) -> Result<Self, ConfigError> {
        Self::from_fields(&ConfigFields::of_processor(folder, "feature_extractor")?)
    }

    /// The features that the content of a `preprocessor_config.json` describes; `path` is for messages.
    ///
    /// # Errors
    /// As [`from_folder`](Self::from_folder).
    pub fn from_config(fields: &Map<String, Value>, path: &Path) -> Result<Self, ConfigError> {
        Self::from_fields(&ConfigFields::new(fields, path))
    }

    fn from_fields(fields: &ConfigFields) -> Result<Self, ConfigError> {
        fields.must_be("feature_extractor_type", &Value::from("WhisperFeatureExtractor"))?;
        // Anything but silence as padding, and noise on top, would make other features than those we compute.
        fields.must_be("padding_value", &Value::from(0.0))?;
        fields.must_be("dither", &Value::from(0.0))?;
        let sample_rate_hz = fields.count("sampling_rate", Some(16_000), 768_000)?;
        Ok(Self {
            num_mels: fields.count("feature_size", Some(80), 1024)?,
            window_s: fields.count("chunk_length", Some(30), MAX_SAMPLES / sample_rate_hz as u64)? as f64,
            n_fft: fields.count("n_fft", Some(400), 1 << 16)?,
            hop_length: fields.count("hop_length", Some(160), 1 << 16)?,
            sample_rate_hz: sample_rate_hz as u32,
            // In a file shared with pictures the field of this name is theirs.
            do_normalize: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn parse(config: &Value) -> Result<LogMelConfig, String> {
        LogMelConfig::from_config(config.as_object().unwrap(), Path::new("p.json"))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn fields_are_read_under_their_names() {
        let config = json!({
            "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 128, "chunk_length": 300,
            "n_fft": 512, "hop_length": 200, "sampling_rate": 24_000, "padding_value": 0.0, "dither": 0.0,
            "image_mean": [0.5, 0.5, 0.5], "do_normalize": true,
        });
        let read = parse(&config).unwrap();
        let expected = LogMelConfig {
            n_fft: 512,
            hop_length: 200,
            sample_rate_hz: 24_000,
            ..LogMelConfig::new(128, 300.0)
        };
        assert_eq!(read, expected);
        // What is left out is what transformers takes.
        assert_eq!(parse(&json!({ "feature_size": null })), Ok(LogMelConfig::new(80, 30.0)));
    }

    #[test]
    fn broken_fields_are_named_with_their_file() {
        for (field, value) in [
            ("feature_size", json!(-80)),
            ("hop_length", json!(0)),
            ("n_fft", json!(1_u64 << 40)),
            ("chunk_length", json!("30")),
            ("sampling_rate", json!(0)),
            ("dither", json!(0.1)),
            ("padding_value", json!(1)),
            ("feature_extractor_type", json!("EncodecFeatureExtractor")),
        ] {
            let mut config = json!({ "feature_size": 80 });
            config[field] = value;
            let error = parse(&config).unwrap_err();
            assert!(error.starts_with(&format!("p.json: {field}: expected ")), "{error}");
        }
    }

    #[test]
    fn the_nested_form_comes_first_and_missing_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = LogMelConfig::from_folder(folder.path()).unwrap_err().to_string();
        assert!(missing.contains("preprocessor_config.json"), "{missing}");
        fs::write(folder.path().join("preprocessor_config.json"), r#"{"feature_size": 80}"#).unwrap();
        assert_eq!(LogMelConfig::from_folder(folder.path()).unwrap().num_mels, 80);
        let nested = r#"{"feature_extractor": {"feature_size": 128}}"#;
        fs::write(folder.path().join("processor_config.json"), nested).unwrap();
        assert_eq!(LogMelConfig::from_folder(folder.path()).unwrap().num_mels, 128);
    }
}
