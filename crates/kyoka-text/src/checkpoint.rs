//! The tokenizer of a Hugging Face folder: which tokens end a completion, and which stand for media.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{MediaMark, MediaMarks, TextError, TileMarks, Tokenizer};

/// A JSON file of a folder; one that is not there holds null.
pub(crate) struct JsonFile {
    path: PathBuf,
    pub content: Value,
}

impl JsonFile {
    pub fn optional(folder: &Path, name: &str) -> Result<Self, TextError> {
        let path = folder.join(name);
        let content = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| TextError::File { path: path.clone(), reason: error.to_string() })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Value::Null,
            Err(error) => return Err(TextError::File { path, reason: error.to_string() }),
        };
        Ok(Self { path, content })
    }

    fn fault(&self, field: &str, expected: &str, got: &Value) -> TextError {
        let got: String = got.to_string().chars().take(80).collect();
        TextError::File {
            path: self.path.clone(),
            reason: format!("{field}: expected {expected}, got {got}"),
        }
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a checkpoint folder, with the ends from `generation_config.json` and
    /// `tokenizer_config.json` and the placeholders of media from `config.json`.
    ///
    /// # Errors
    /// If a file cannot be read, or names a token that is not in the vocabulary; if no token ends a completion.
    pub fn from_checkpoint(folder: &Path) -> Result<Self, TextError> {
        let path = folder.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|source| TextError::Read { path: path.clone(), source })?;
        let mut tokenizer = Self::parse(&bytes).map_err(|reason| TextError::File { path, reason })?;
        let config = JsonFile::optional(folder, "config.json")?;
        tokenizer.end_ids = end_ids(&tokenizer, folder, &config)?;
        tokenizer.marks = media_marks(&tokenizer, &config)?;
        let around = tokenizer.marks.each().flat_map(|(_, mark)| {
            let tiles = mark.tiles.iter().flat_map(|tiles| [&tiles.around, &tiles.global]);
            let names = [&mark.before, &mark.after].into_iter().chain(tiles);
            let ids: Vec<u32> = names.filter_map(|name| tokenizer.token_id(name)).collect();
            [mark.id].into_iter().chain(ids)
        });
        tokenizer.banned = around.collect();
        Ok(tokenizer)
    }
}

/// Every id that ends a completion: those of `generation_config.json`, else of the configuration; and `eos_token`.
fn end_ids(tokenizer: &Tokenizer, folder: &Path, config: &JsonFile) -> Result<Vec<u32>, TextError> {
    let generation = JsonFile::optional(folder, "generation_config.json")?;
    let in_text = &config.content["text_config"]["eos_token_id"];
    let (file, value) = match &generation.content["eos_token_id"] {
        Value::Null if config.content["eos_token_id"].is_null() => (config, in_text),
        Value::Null => (config, &config.content["eos_token_id"]),
        value => (&generation, value),
    };
    let listed = match value {
        Value::Array(list) => list.iter().collect(),
        Value::Null => Vec::new(),
        one => vec![one],
    };
    let mut ids = Vec::new();
    for value in listed {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        let known = id.filter(|&id| tokenizer.inner.id_to_token(id).is_some());
        ids.push(known.ok_or_else(|| file.fault("eos_token_id", "ids of tokenizer.json", value))?);
    }
    let named = named_tokens(folder)?;
    ids.extend(named.get("eos_token").and_then(|token| tokenizer.token_id(token)));
    let mut seen = std::collections::BTreeSet::new();
    ids.retain(|id| seen.insert(*id));
    if ids.is_empty() {
        return Err(generation.fault("eos_token_id", "at least one id that ends a completion", &Value::Null));
    }
    Ok(ids)
}

/// The special tokens by name (`bos_token`, `image_token`, ...), from `tokenizer_config.json` and
/// `special_tokens_map.json`.
///
/// # Errors
/// If a file is no JSON.
pub(crate) fn named_tokens(folder: &Path) -> Result<BTreeMap<String, String>, TextError> {
    let mut tokens = BTreeMap::new();
    for file in ["special_tokens_map.json", "tokenizer_config.json"] {
        let file = JsonFile::optional(folder, file)?.content;
        let fields = |value: &Value| value.as_object().cloned().into_iter().flatten();
        // Families name tokens of their own beside the usual ones, or in a map.
        let more = ["extra_special_tokens", "model_specific_special_tokens"].map(|field| &file[field]);
        let named = fields(&file).filter(|(name, _)| name.ends_with("_token"));
        let named = named.chain(more.into_iter().flat_map(fields));
        tokens.extend(named.filter_map(|(name, value)| Some((name, content(&value)?.to_owned()))));
    }
    Ok(tokens)
}

/// The text of a token that is written as such or with its settings.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// How the family of `config.json` writes media.
fn media_marks(tokenizer: &Tokenizer, config: &JsonFile) -> Result<MediaMarks, TextError> {
    // Qwen2.5-Omni keeps its fields one level deeper.
    let fields = match &config.content["thinker_config"] {
        Value::Null => &config.content,
        thinker => thinker,
    };
    let mark = |sense: &str, around: &str, usual: [&str; 2]| {
        let Some((field, id)) =
            token_field(fields, &[&format!("{sense}_token_id"), &format!("{sense}_token_index")])
        else {
            return Ok(None);
        };
        let token = token_of(tokenizer, config, &field, id)?;
        let side = |end: &str, usual: &str| -> Result<String, TextError> {
            match token_field(fields, &[&format!("{around}_{end}_token_id")]) {
                Some((field, id)) => Ok(token_of(tokenizer, config, &field, id)?.0),
                None => Ok(tokenizer.token_id(usual).map_or_else(String::new, |_| usual.to_owned())),
            }
        };
        let (before, after) = (side("start", usual[0])?, side("end", usual[1])?);
        Ok(Some(MediaMark { before, after, ..MediaMark::plain(token.0, token.1) }))
    };
    let mut image = mark("image", "vision", ["", ""])?;
    if let Some(image) = image.as_mut().filter(|_| splits_pictures(&config.content)) {
        let (around, global) = ("<fake_token_around_image>".to_owned(), "<global-img>".to_owned());
        image.tiles = Some(TileMarks { around, global });
    }
    Ok(MediaMarks { image, audio: mark("audio", "audio", ["<|audio_bos|>", "<|audio_eos|>"])? })
}

fn splits_pictures(config: &Value) -> bool {
    matches!(config["model_type"].as_str(), Some("smolvlm" | "idefics3"))
}

/// The first of these fields that is there.
fn token_field<'a>(fields: &'a Value, names: &[&str]) -> Option<(String, &'a Value)> {
    names.iter().find(|name| !fields[**name].is_null()).map(|name| ((*name).to_owned(), &fields[*name]))
}

fn token_of(
    tokenizer: &Tokenizer,
    config: &JsonFile,
    field: &str,
    value: &Value,
) -> Result<(String, u32), TextError> {
    let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
    let token = id.and_then(|id| Some((tokenizer.inner.id_to_token(id)?, id)));
    token.ok_or_else(|| config.fault(field, "an id of tokenizer.json", value))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use kyoka_core::Modality;

    use super::*;
    use crate::MediumTokens;

    /// A folder with the tests' tokenizer; `files` stand beside it.
    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = include_bytes!("../tests/tiny_tokenizer.json");
        fs::write(folder.path().join("tokenizer.json"), tokenizer).unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn ids() -> [u32; 3] {
        let tokenizer = Tokenizer::from_bytes(include_bytes!("../tests/tiny_tokenizer.json")).unwrap();
        ["<|endoftext|>", "<image>", "<audio>"].map(|token| tokenizer.token_id(token).unwrap())
    }

    #[test]
    fn ends_and_placeholders_come_from_the_configurations() {
        let [end, image, audio] = ids();
        let config =
            format!(r#"{{"model_type": "x", "image_token_id": {image}, "audio_token_index": {audio}}}"#);
        let folder = folder(&[
            ("config.json", &config),
            ("generation_config.json", r#"{"eos_token_id": [5, 6]}"#),
            ("tokenizer_config.json", r#"{"eos_token": {"content": "<|endoftext|>"}, "bos_token": null}"#),
        ]);
        let tokenizer = Tokenizer::from_checkpoint(folder.path()).unwrap();
        assert_eq!(tokenizer.end_ids(), [5, 6, end]);
        assert_eq!(tokenizer.placeholder_id(Modality::Audio).unwrap(), audio);
        let mut banned = vec![image, audio];
        banned.sort_unstable();
        assert_eq!(tokenizer.banned_ids(), banned);
        let media = [MediumTokens { modality: Modality::Image, tokens_per_view: 3, split: None }];
        let (token_ids, spans) = tokenizer.encode_prompt("how <image>?", &media).unwrap();
        let span = spans[0].positions.clone();
        assert_eq!(token_ids[span.clone()], [image; 3]);
        assert_eq!(tokenizer.decode(&token_ids).text, "how ?");
        assert_eq!(token_ids.iter().filter(|&&id| id == image).count(), span.len());
    }

    #[test]
    fn tokens_that_are_not_there_are_named_with_file_and_field() {
        for (name, text, expected) in [
            ("config.json", r#"{"image_token_id": 99999}"#, "config.json: image_token_id: expected an id"),
            ("config.json", r#"{"image_token_id": -3}"#, "config.json: image_token_id: expected an id"),
            (
                "generation_config.json",
                r#"{"eos_token_id": 99999}"#,
                "generation_config.json: eos_token_id: ",
            ),
            ("generation_config.json", r#"{"eos_token_id": "x"}"#, "generation_config.json: eos_token_id: "),
            ("generation_config.json", r#"{"#, "generation_config.json: EOF"),
            ("config.json", "{}", "generation_config.json: eos_token_id: expected at least one"),
        ] {
            let error = Tokenizer::from_checkpoint(folder(&[(name, text), ("ok.json", "")]).path());
            let error = match error {
                // The first two need an end to get as far as their field.
                Err(error) if !name.starts_with("config") || text == "{}" => error.to_string(),
                _ => {
                    let named = ("tokenizer_config.json", r#"{"eos_token": "<|endoftext|>"}"#);
                    Tokenizer::from_checkpoint(folder(&[(name, text), named]).path()).unwrap_err().to_string()
                }
            };
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_vocabulary_larger_than_the_models_is_refused() {
        let folder = folder(&[("tokenizer_config.json", r#"{"eos_token": "<|endoftext|>"}"#)]);
        let tokenizer = Tokenizer::from_checkpoint(folder.path()).unwrap();
        assert!(tokenizer.check_fits(tokenizer.vocab_size()).is_ok());
        let error = tokenizer.check_fits(10).unwrap_err().to_string();
        assert!(error.contains("expected ids below the model's vocabulary of 10"), "{error}");
    }
}
