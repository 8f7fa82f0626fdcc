//! Text to token ids and back.

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
    sync::{Arc, OnceLock},
};

use kyoka_core::{Modality, ModalitySpan};

use crate::{MediaMark, MediaMarks, MediumTokens, TextError, decode::Decoder};

/// The token that ends a completion of a tokenizer of ours.
pub const END_TOKEN: &str = "<|endoftext|>";

/// A tokenizer with the special tokens a policy needs.
///
/// [`Tokenizer::from_bytes`] reads one of ours, [`Tokenizer::from_checkpoint`] that of a Hugging Face folder.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    pub(crate) inner: tokenizers::Tokenizer,
    /// That of `eos_token` first.
    pub(crate) end_ids: Vec<u32>,
    pub(crate) banned: BTreeSet<u32>,
    pub(crate) marks: MediaMarks,
    pub(crate) opening: Opening,
    pub(crate) special: HashMap<u32, String>,
    pub(crate) decoder: Decoder,
    /// Made when a text first spells a placeholder.
    pub(crate) letters: OnceLock<Arc<tokenizers::Tokenizer>>,
}

/// What stands before a text, such as `<s>`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Opening {
    /// What the tokenizer puts before a text of its own accord.
    pub ids: Vec<u32>,
    /// The text by which a chat template that writes it itself is known, in checkpoints whose processor adds it to
    /// conversations too: those of several senses.
    pub unless_written: Option<String>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json` of ours.
    ///
    /// # Errors
    /// As [`from_bytes`](Self::from_bytes), or if the file cannot be read.
    pub fn from_file(path: &Path) -> Result<Self, TextError> {
        let bytes =
            std::fs::read(path).map_err(|source| TextError::Read { path: path.to_owned(), source })?;
        Self::from_bytes(&bytes)
    }

    /// Reads a tokenizer of ours from the text of a `tokenizer.json`: byte-level BPE whose completions end with
    /// [`END_TOKEN`] and whose media stand at `<image>` and `<audio>`.
    ///
    /// # Errors
    /// If the text is no tokenizer or lacks the end token.
    pub fn from_bytes(json: &[u8]) -> Result<Self, TextError> {
        let mut tokenizer = Self::parse(json).map_err(TextError::Parse)?;
        tokenizer.decoder = Decoder::Bytes;
        let end_id = tokenizer.inner.token_to_id(END_TOKEN);
        let end_id = end_id.ok_or_else(|| TextError::MissingSpecial { token: END_TOKEN.to_owned() })?;
        tokenizer.end_ids = vec![end_id];
        tokenizer.banned = tokenizer.special.keys().copied().filter(|&id| id != end_id).collect();
        let mark = |modality: Modality| {
            let token = modality.placeholder();
            tokenizer.inner.token_to_id(token).map(|id| MediaMark::plain(token, id))
        };
        tokenizer.marks = MediaMarks { image: mark(Modality::Image), audio: mark(Modality::Audio) };
        Ok(tokenizer)
    }

    /// Any `tokenizer.json`, its ends and marks not yet known. How its texts were once cut and padded for training is left
    /// out: a prompt is read whole.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(|error| error.to_string())?;
        inner.with_truncation(None).map_err(|error| error.to_string())?;
        inner.with_padding(None);
        let decoder = inner.get_decoder().map(serde_json::to_value).transpose();
        let decoder = decoder.map_err(|error| error.to_string())?.unwrap_or_default();
        let decoder = match decoder["type"].as_str() {
            Some("ByteLevel") => Decoder::Bytes,
            _ => Decoder::File { clean_up: false },
        };
        let (end_ids, banned, marks, opening, letters) = Default::default();
        let mut tokenizer =
            Self { inner, end_ids, banned, marks, opening, special: HashMap::new(), decoder, letters };
        tokenizer.name_special();
        Ok(tokenizer)
    }

    /// Takes note of the tokens that are left out of text.
    fn name_special(&mut self) {
        let added = self.inner.get_added_tokens_decoder().into_iter();
        let special = added.filter(|(_, token)| token.special).map(|(id, token)| (id, token.content));
        self.special.extend(special);
    }

    /// Makes tokens of the vocabulary special, as the configuration of a checkpoint names them.
    pub(crate) fn make_special<'a>(&mut self, tokens: impl Iterator<Item = &'a str>) {
        let known: Vec<(u32, String)> =
            tokens.filter_map(|token| Some((self.token_id(token)?, token.to_owned()))).collect();
        let added: Vec<_> =
            known.iter().map(|(_, token)| tokenizers::AddedToken::from(token.clone(), true)).collect();
        self.inner.add_special_tokens(&added);
        self.special.extend(known);
    }

    /// The same tokenizer with placeholders for pictures and sounds behind the vocabulary of its model, as a decoder that
    /// gets towers needs them; and their ids.
    pub fn with_media_tokens(mut self, vocab_size: usize) -> (Self, [u32; 2]) {
        // Ids up to the model's vocabulary are filled, so that the placeholders lie behind it.
        let unused = (self.inner.get_vocab_size(true)..vocab_size)
            .map(|id| tokenizers::AddedToken::from(format!("<|unused_{id}|>"), true));
        let placeholders = [Modality::Image, Modality::Audio].map(Modality::placeholder);
        let placeholders = placeholders.map(|text| tokenizers::AddedToken::from(text.to_owned(), true));
        let added: Vec<_> = unused.chain(placeholders).collect();
        self.inner.add_special_tokens(&added);
        let ids = [Modality::Image, Modality::Audio].map(|modality| {
            let text = modality.placeholder();
            (text, self.inner.token_to_id(text).expect("it was added"))
        });
        let [image, audio] = ids.map(|(text, id)| MediaMark::plain(text.to_owned(), id));
        self.banned.extend([image.id, audio.id]);
        self.marks = MediaMarks { image: Some(image), audio: Some(audio) };
        self.name_special();
        self.letters = OnceLock::new();
        (self, ids.map(|(_, id)| id))
    }

    /// The text of its `tokenizer.json`.
    pub fn to_json(&self) -> String {
        self.inner.to_string(false).expect("it was read from JSON or built of it")
    }

    /// Number of token ids, special tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id that a worked completion ends with: that of the tokenizer's `eos_token`.
    pub fn end_id(&self) -> u32 {
        self.end_ids[0]
    }

    /// All ids that end a completion, at least one.
    pub fn end_ids(&self) -> &[u32] {
        &self.end_ids
    }

    /// The tokens of [`end_ids`](Self::end_ids), and how they are written.
    pub fn end_texts(&self) -> impl Iterator<Item = (u32, String)> + '_ {
        self.end_ids.iter().filter_map(|&id| Some((id, self.inner.id_to_token(id)?)))
    }

    /// The ids that stand before every text that no chat template wrote, such as that of `<s>`.
    pub fn opening_ids(&self) -> &[u32] {
        &self.opening.ids
    }

    /// How media stand in text.
    pub fn marks(&self) -> &MediaMarks {
        &self.marks
    }

    /// The id that stands for one position of a medium.
    ///
    /// # Errors
    /// If the tokenizer has none for this kind.
    pub fn placeholder_id(&self, modality: Modality) -> Result<u32, TextError> {
        let mark = self.marks.of(modality).map(|mark| mark.id);
        mark.ok_or_else(|| TextError::MissingSpecial { token: modality.placeholder().to_owned() })
    }

    /// The id of a token, special or not.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Ids that a sampler must never draw: of a tokenizer of ours all special ids but the end token, of a checkpoint's
    /// those of its media.
    pub fn banned_ids(&self) -> Vec<u32> {
        self.banned.iter().copied().collect()
    }

    /// Refuses a vocabulary with ids that a model of `vocab_size` tokens does not have.
    ///
    /// # Errors
    /// Names the largest id and its token.
    pub fn check_fits(&self, vocab_size: usize) -> Result<(), TextError> {
        let largest = self.inner.get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
        match largest {
            Some((token, id)) if id as usize >= vocab_size => Err(TextError::Parse(format!(
                "expected ids below the model's vocabulary of {vocab_size}, got {id} for {token:?}"
            ))),
            _ => Ok(()),
        }
    }

    /// Token ids of running text, no special token added. A placeholder in it is its letters: the token stands for a
    /// medium only.
    ///
    /// # Errors
    /// If the vocabulary cannot write the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.encode_shielded(&self.shielded(text), false)
    }

    /// Token ids and spans of a prompt in which each medium has its placeholder, as chat templates write them;
    /// [`shielded`](Self::shielded) ones are letters.
    ///
    /// # Errors
    /// If placeholders and media differ in number.
    pub fn encode_prompt(
        &self,
        text: &str,
        media: &[MediumTokens],
    ) -> Result<(Vec<u32>, Vec<ModalitySpan>), TextError> {
        let due = self.opening.unless_written.as_ref().is_some_and(|written| !text.starts_with(written));
        let opening = if due { self.opening_ids() } else { &[] };
        self.encode_marked(opening, (text, false), media)
    }

    /// [`encode_prompt`](Self::encode_prompt) of what stands behind other tokens: nothing is put before it, no blank either.
    ///
    /// # Errors
    /// As there.
    pub fn encode_following(
        &self,
        text: &str,
        media: &[MediumTokens],
    ) -> Result<(Vec<u32>, Vec<ModalitySpan>), TextError> {
        self.encode_marked(&[], (text, true), media)
    }

    pub(crate) fn encode_marked(
        &self,
        opening: &[u32],
        (text, behind): (&str, bool),
        media: &[MediumTokens],
    ) -> Result<(Vec<u32>, Vec<ModalitySpan>), TextError> {
        let (text, order) = self.marks.expand_in_order(text, media)?;
        let token_ids = [opening, &self.encode_shielded(&text, behind)?].concat();
        let spans = self.marks.spans(&token_ids, &order)?;
        Ok((token_ids, spans))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_banned_from_sampling() {
        let tokenizer = Tokenizer::from_bytes(include_bytes!("../tests/tiny_tokenizer.json")).unwrap();
        let banned = tokenizer.banned_ids();
        for modality in [Modality::Image, Modality::Audio] {
            assert!(banned.contains(&tokenizer.placeholder_id(modality).unwrap()));
        }
        assert!(!banned.contains(&tokenizer.end_id()));
    }

    #[test]
    fn a_file_that_is_no_tokenizer_is_named() {
        let missing = Tokenizer::from_file(Path::new("no/such/tokenizer.json")).unwrap_err();
        assert!(missing.to_string().starts_with("tokenizer no/such/tokenizer.json: "), "{missing}");
        assert!(matches!(Tokenizer::from_bytes(b"{}"), Err(TextError::Parse(_))));
    }
}
