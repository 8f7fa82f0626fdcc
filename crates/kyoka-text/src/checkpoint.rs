//! The tokenizer of a Hugging Face folder: which tokens end a completion, and which stand for media.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{MediaMark, MediaMarks, TextError, TileMarks, Tokenizer, decode::Decoder, tokenizer::Opening};

/// A JSON file of a folder; one that is not there holds null.
pub(crate) struct JsonFile {
    path: PathBuf,
    pub content: Value,
}

impl JsonFile {
    pub fn optional(folder: &Path, name: &str) -> Result<Self, TextError> {
        let path = folder.join(name);
        let content = match std::fs::read(&path) {
            Ok(bytes) => kyoka_core::from_python_json(&bytes)
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
    /// `tokenizer_config.json`, and the placeholders of media from `config.json`.
    ///
    /// # Errors
    /// If a file cannot be read, or names a token that is not in the vocabulary; if no token ends a completion.
    pub fn from_checkpoint(folder: &Path) -> Result<Self, TextError> {
        let path = folder.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|source| TextError::Read { path: path.clone(), source })?;
        let parse = |reason| TextError::File { path, reason };
        let mut tokenizer = Self::parse(&bytes).map_err(parse.clone())?;
        let config = JsonFile::optional(folder, "config.json")?;
        let settings = JsonFile::optional(folder, "tokenizer_config.json")?;
        let named = named_tokens(folder)?;
        let further =
            ["extra_special_tokens", "additional_special_tokens"].map(|field| &settings.content[field]);
        let further = further.into_iter().filter_map(Value::as_array).flatten().filter_map(content);
        tokenizer.make_special(named.values().map(String::as_str).chain(further));
        tokenizer.end_ids = end_ids(&tokenizer, folder, &config, named.get("eos_token"))?;
        tokenizer.marks = media_marks(&tokenizer, &config)?;
        tokenizer.opening = opening(&tokenizer, &config.content, named.get("bos_token"))
            .map_err(|error| parse(error.to_string()))?;
        let is_bpe = matches!(tokenizer.inner.get_model(), tokenizers::ModelWrapper::BPE(_));
        if settings.content["clean_up_tokenization_spaces"] == true && !is_bpe {
            tokenizer.decoder = Decoder::File { clean_up: true };
        }
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

/// What stands before a text: what the post-processor of `tokenizer.json` puts there. As in transformers, `add_bos_token`
/// of `tokenizer_config.json` counts for nothing beside that file. What the post-processor would put behind the text is
/// left out: a completion goes on there.
fn opening(tokenizer: &Tokenizer, config: &Value, bos: Option<&String>) -> Result<Opening, TextError> {
    let probe = tokenizer.inner.encode("a", true).map_err(|error| TextError::Parse(error.to_string()))?;
    let added = probe.get_special_tokens_mask().iter().take_while(|&&added| added == 1).count();
    let ids = probe.get_ids()[..added].to_vec();
    // The processors of several senses put it before conversations too, unless the template has written it.
    let senses = ["vision_config", "audio_config", "thinker_config"];
    let processes = senses.iter().any(|part| config[part].is_object());
    let unless_written = bos.filter(|_| processes && !ids.is_empty()).cloned();
    Ok(Opening { ids, unless_written })
}

/// Every id that ends a completion: that of `eos_token` first, and those of `generation_config.json`, else of the
/// configuration.
fn end_ids(
    tokenizer: &Tokenizer,
    folder: &Path,
    config: &JsonFile,
    eos: Option<&String>,
) -> Result<Vec<u32>, TextError> {
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
    let mut ids: Vec<u32> = eos.and_then(|token| tokenizer.token_id(token)).into_iter().collect();
    let mut without_token = Vec::new();
    for value in listed {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| file.fault("eos_token_id", "token ids", value))?;
        // A vocabulary is often padded: an id that the model knows and the tokenizer does not ends a completion all the same.
        let known = tokenizer.inner.id_to_token(id).is_some();
        if known { &mut ids } else { &mut without_token }.push(id);
    }
    let mut seen = std::collections::BTreeSet::new();
    ids.retain(|id| seen.insert(*id));
    if ids.is_empty() {
        let expected = "at least one id of tokenizer.json that ends a completion";
        return Err(generation.fault("eos_token_id", expected, value));
    }
    ids.extend(without_token);
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
    use serde_json::json;

    use super::*;
    use crate::{MediumTokens, PromptLayout};

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
        assert_eq!(tokenizer.end_ids(), [end, 5, 6]);
        assert_eq!(tokenizer.end_id(), end);
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
            ("generation_config.json", r#"{"eos_token_id": -1}"#, "generation_config.json: eos_token_id: "),
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
    fn an_end_without_a_token_still_ends_and_is_not_the_one_taught() {
        let [end, ..] = ids();
        let listed = format!(r#"{{"eos_token_id": [99999, {end}]}}"#);
        let folder_with = |text: &str| folder(&[("generation_config.json", text)]);
        let tokenizer = Tokenizer::from_checkpoint(folder_with(&listed).path()).unwrap();
        assert_eq!((tokenizer.end_ids(), tokenizer.end_id()), (&[end, 99999][..], end));
        let alone = folder_with(r#"{"eos_token_id": 99999}"#);
        let error = Tokenizer::from_checkpoint(alone.path()).unwrap_err().to_string();
        assert!(error.contains("eos_token_id") && error.contains("99999"), "{error}");
    }

    #[test]
    fn a_vocabulary_larger_than_the_models_is_refused() {
        let folder = folder(&[("tokenizer_config.json", r#"{"eos_token": "<|endoftext|>"}"#)]);
        let tokenizer = Tokenizer::from_checkpoint(folder.path()).unwrap();
        assert!(tokenizer.check_fits(tokenizer.vocab_size()).is_ok());
        let error = tokenizer.check_fits(10).unwrap_err().to_string();
        assert!(error.contains("expected ids below the model's vocabulary of 10"), "{error}");
    }
    /// The tests' tokenizer with a field of `tokenizer.json` changed.
    fn with_field(folder: &Path, field: &str, value: Value) {
        let path = folder.join("tokenizer.json");
        let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        json[field] = value;
        fs::write(path, json.to_string()).unwrap();
    }

    #[test]
    fn texts_are_neither_cut_nor_padded_as_the_file_remembers() {
        let folder = folder(&[("tokenizer_config.json", r#"{"eos_token": "<|endoftext|>"}"#)]);
        let whole = Tokenizer::from_checkpoint(folder.path()).unwrap().encode("how many coats?").unwrap();
        let cut = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
        let padded = json!({"strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "x"});
        with_field(folder.path(), "truncation", cut);
        with_field(folder.path(), "padding", padded);
        let tokenizer = Tokenizer::from_checkpoint(folder.path()).unwrap();
        assert_eq!(tokenizer.encode("how many coats?").unwrap(), whole);
        assert!(whole.len() > 2);
    }

    #[test]
    fn what_stands_before_a_text_is_what_transformers_puts_there() {
        let [bos, ..] = ids();
        let token = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
        let sequence = json!({"Sequence": {"id": "A", "type_id": 0}});
        let both = json!({"type": "TemplateProcessing", "single": [token("b"), sequence, token("b")],
            "pair": [sequence, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"b": {"id": "b", "ids": [bos], "tokens": ["<|endoftext|>"]}}});
        let processor = json!({"type": "Sequence", "processors": [
            {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true}, both]});
        let settings = r#"{"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}"#;
        for (post_processor, config, opening, in_conversations) in [
            (processor.clone(), "{}", true, false),
            (Value::Null, "{}", false, false),
            (processor, r#"{"vision_config": {}}"#, true, true),
        ] {
            let folder = folder(&[("tokenizer_config.json", settings), ("config.json", config)]);
            with_field(folder.path(), "post_processor", post_processor);
            let tokenizer = Tokenizer::from_checkpoint(folder.path()).unwrap();
            let first = |ids: Vec<u32>| ids.first() == Some(&bos);
            let mut layout = PromptLayout::new(&tokenizer);
            layout.text("how");
            let (ids, _) = layout.finish().unwrap();
            assert_eq!((first(ids.clone()), ids.last() == Some(&bos)), (opening, false), "{config}");
            assert!(!first(tokenizer.encode("how").unwrap()));
            assert_eq!(first(tokenizer.encode_prompt("how", &[]).unwrap().0), in_conversations);
            let written = tokenizer.encode_prompt("<|endoftext|>how", &[]).unwrap().0;
            assert_eq!(written.iter().filter(|&&id| id == bos).count(), 1);
        }
    }

    #[test]
    fn tokens_that_the_configuration_names_are_special() {
        let settings = json!({"eos_token": "man", "image_token": {"content": "How"}, "add_bos_token": false,
            "extra_special_tokens": {"boi_token": "<|endoftext|>"}});
        let folder = folder(&[("tokenizer_config.json", &settings.to_string())]);
        let named = named_tokens(folder.path()).unwrap();
        assert_eq!(named.keys().collect::<Vec<_>>(), ["boi_token", "eos_token", "image_token"]);
        let tokenizer = Tokenizer::from_checkpoint(folder.path()).unwrap();
        let ids: Vec<u32> = ["How", "man"].iter().filter_map(|token| tokenizer.token_id(token)).collect();
        assert_eq!(tokenizer.decode(&ids).text, "");
        assert!(ids.contains(&tokenizer.end_id()));
    }
}
