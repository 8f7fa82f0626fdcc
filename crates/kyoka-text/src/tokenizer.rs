//! Text to token ids and back.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    path::Path,
};

use kyoka_core::{Modality, ModalitySpan};

use crate::{MediaMark, MediaMarks, MediumTokens, TextError};

/// The token that ends a completion of a tokenizer of ours.
pub const END_TOKEN: &str = "<|endoftext|>";

/// A completion as text, with the bytes each token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedText {
    /// The text, special tokens left out.
    pub text: String,
    /// Byte range of each token in `text`; empty for special tokens.
    pub token_spans: Vec<Range<usize>>,
}

/// A tokenizer with the special tokens a policy needs.
///
/// [`Tokenizer::from_bytes`] reads one of ours, [`Tokenizer::from_checkpoint`] that of a Hugging Face folder.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    pub(crate) inner: tokenizers::Tokenizer,
    pub(crate) end_ids: Vec<u32>,
    pub(crate) banned: BTreeSet<u32>,
    pub(crate) marks: MediaMarks,
    special: HashMap<u32, String>,
    /// Bytes of the characters of byte-level BPE; `None`: the file's own decoder is asked.
    byte_of: Option<HashMap<char, u8>>,
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
        tokenizer.byte_of = Some(byte_level_alphabet());
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

    /// Any `tokenizer.json`, its ends and marks not yet known.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        let inner = tokenizers::Tokenizer::from_bytes(json).map_err(|error| error.to_string())?;
        let special = inner.get_added_tokens_decoder();
        let special = special
            .into_iter()
            .filter(|(_, token)| token.special)
            .map(|(id, token)| (id, token.content))
            .collect();
        let decoder = inner.get_decoder().map(serde_json::to_string).transpose();
        let decoder = decoder.map_err(|error| error.to_string())?.unwrap_or_default();
        let byte_of = decoder.contains("\"ByteLevel\"").then(byte_level_alphabet);
        let (end_ids, banned, marks) = Default::default();
        Ok(Self { inner, end_ids, banned, marks, special, byte_of })
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
        let special = self.inner.get_added_tokens_decoder().into_iter();
        self.special = special.filter(|(_, token)| token.special).map(|(id, token)| (id, token.content)).collect();
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

    /// The id that ends a completion; where there are several, the first.
    pub fn end_id(&self) -> u32 {
        self.end_ids[0]
    }

    /// All ids that end a completion, at least one.
    pub fn end_ids(&self) -> &[u32] {
        &self.end_ids
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

    /// Token ids of running text, no special token added.
    ///
    /// # Errors
    /// If the text holds a media placeholder: those stand for media only.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.refuse_placeholders(text)?;
        self.encode_all(text)
    }

    /// Refuses text in which a placeholder would be read as a medium.
    pub(crate) fn refuse_placeholders(&self, text: &str) -> Result<(), TextError> {
        for (_, mark) in self.marks.each() {
            if let Some(at) = text.find(mark.placeholder.as_str()) {
                let excerpt = text[at..].chars().take(40).collect();
                return Err(TextError::StrayPlaceholder { placeholder: mark.placeholder.clone(), excerpt });
            }
        }
        Ok(())
    }

    fn encode_all(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let encoding = self.inner.encode(text, false).map_err(|error| TextError::Parse(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Token ids and spans of a prompt in which each medium has its placeholder, as chat templates write them.
    ///
    /// # Errors
    /// If placeholders and media differ in number.
    pub fn encode_prompt(
        &self,
        text: &str,
        media: &[MediumTokens],
    ) -> Result<(Vec<u32>, Vec<ModalitySpan>), TextError> {
        let (text, order) = self.marks.expand_in_order(text, media)?;
        let token_ids = self.encode_all(&text)?;
        let spans = self.marks.spans(&token_ids, &order)?;
        Ok((token_ids, spans))
    }

    /// The text of a completion; special tokens are left out.
    pub fn decode(&self, token_ids: &[u32]) -> DecodedText {
        match &self.byte_of {
            Some(byte_of) => self.decode_bytes(token_ids, byte_of),
            None => self.decode_stream(token_ids),
        }
    }

    fn decode_bytes(&self, token_ids: &[u32], byte_of: &HashMap<char, u8>) -> DecodedText {
        let pieces: Vec<Vec<u8>> = token_ids.iter().map(|&id| self.token_bytes(id, byte_of)).collect();
        let joined: Vec<u8> = pieces.concat();
        // Bytes that are no UTF-8 are replaced token by token, so that the ranges keep fitting the text.
        let valid = std::str::from_utf8(&joined).is_ok();
        let mut text: Vec<u8> = Vec::with_capacity(joined.len());
        let mut token_spans = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let start = text.len();
            match valid {
                true => text.extend(piece),
                false => text.extend(String::from_utf8_lossy(&piece).as_bytes()),
            }
            token_spans.push(start..text.len());
        }
        let text = String::from_utf8(text).expect("valid bytes, or replaced token by token");
        DecodedText { text, token_spans }
    }

    /// Token by token with the file's own decoder; a token whose bytes end within a character counts to the next.
    fn decode_stream(&self, token_ids: &[u32]) -> DecodedText {
        let mut stream = self.inner.decode_stream(true);
        let (mut text, mut token_spans) = (String::new(), Vec::with_capacity(token_ids.len()));
        for &id in token_ids {
            let start = text.len();
            text.push_str(&stream.step(id).ok().flatten().unwrap_or_default());
            token_spans.push(start..text.len());
        }
        DecodedText { text, token_spans }
    }

    fn token_bytes(&self, id: u32, byte_of: &HashMap<char, u8>) -> Vec<u8> {
        if self.special.contains_key(&id) {
            return Vec::new();
        }
        let token = self.inner.id_to_token(id).unwrap_or_default();
        let bytes: Option<Vec<u8>> = token.chars().map(|c| byte_of.get(&c).copied()).collect();
        bytes.unwrap_or_else(|| token.into_bytes())
    }
}

/// The printable characters that GPT-2's byte-level BPE writes for the 256 bytes.
fn byte_level_alphabet() -> HashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 256;
    (0..=255_u8)
        .map(|byte| {
            let code = if printable(byte) {
                u32::from(byte)
            } else {
                next += 1;
                next - 1
            };
            (char::from_u32(code).expect("codes below 0x200 are characters"), byte)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> Tokenizer {
        Tokenizer::from_bytes(include_bytes!("../tests/tiny_tokenizer.json")).unwrap()
    }

    #[test]
    fn any_text_survives_encoding_and_decoding() {
        let tokenizer = tiny();
        for text in ["how many?", "  two  spaces ", "強化 é\n\t", "<think> coat 1 </think>"] {
            assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()).text, text);
        }
    }

    #[test]
    fn token_spans_cover_the_text_and_special_tokens_are_silent() {
        let tokenizer = tiny();
        let mut ids = tokenizer.encode("<think> coat").unwrap();
        ids.push(tokenizer.end_id());
        let decoded = tokenizer.decode(&ids);
        assert_eq!(decoded.text, "<think> coat");
        assert_eq!(decoded.token_spans.last(), Some(&(12..12)));
        let joined: String = decoded.token_spans.iter().map(|span| &decoded.text[span.clone()]).collect();
        assert_eq!(joined, decoded.text);
    }

    #[test]
    fn half_a_character_is_replaced_and_spans_still_fit() {
        let tokenizer = tiny();
        let ids = tokenizer.encode("é").unwrap();
        let decoded = tokenizer.decode(&ids[..1]);
        assert_eq!(decoded.text, "\u{fffd}");
        assert_eq!(decoded.token_spans.first(), Some(&(0..3)));
    }

    #[test]
    fn placeholders_are_refused_in_running_text_and_banned_from_sampling() {
        let tokenizer = tiny();
        assert!(matches!(tokenizer.encode("see <image>"), Err(TextError::StrayPlaceholder { .. })));
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
