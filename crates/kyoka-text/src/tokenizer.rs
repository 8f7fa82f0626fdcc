//! Byte-level BPE from a `tokenizer.json`.

use std::{collections::HashMap, ops::Range, path::Path};

use kyoka_core::Modality;

use crate::TextError;

/// The token that ends a completion.
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
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    end_id: u32,
    special: HashMap<u32, String>,
    byte_of: HashMap<char, u8>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    pub fn from_file(path: &Path) -> Result<Self, TextError> {
        let bytes =
            std::fs::read(path).map_err(|source| TextError::Read { path: path.to_owned(), source })?;
        Self::from_bytes(&bytes)
    }

    /// Reads a tokenizer from the text of a `tokenizer.json`.
    pub fn from_bytes(json: &[u8]) -> Result<Self, TextError> {
        let inner =
            tokenizers::Tokenizer::from_bytes(json).map_err(|error| TextError::Parse(error.to_string()))?;
        let end_id = inner
            .token_to_id(END_TOKEN)
            .ok_or_else(|| TextError::MissingSpecial { token: END_TOKEN.to_owned() })?;
        let special = inner.get_added_tokens_decoder();
        let special = special
            .into_iter()
            .filter(|(_, token)| token.special)
            .map(|(id, token)| (id, token.content))
            .collect();
        Ok(Self { inner, end_id, special, byte_of: byte_level_alphabet() })
    }

    /// Number of token ids, special tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id that ends a completion.
    pub fn end_id(&self) -> u32 {
        self.end_id
    }

    /// The id that stands for one position of a medium.
    pub fn placeholder_id(&self, modality: Modality) -> Result<u32, TextError> {
        let token = modality.placeholder();
        self.inner.token_to_id(token).ok_or_else(|| TextError::MissingSpecial { token: token.to_owned() })
    }

    /// All special ids but the end token: a sampler must never draw them.
    pub fn banned_ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.special.keys().copied().filter(|&id| id != self.end_id).collect();
        ids.sort_unstable();
        ids
    }

    /// Token ids of running text, no special token added.
    ///
    /// # Errors
    /// If the text holds a media placeholder: those stand for media only.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        for modality in [Modality::Image, Modality::Audio] {
            if let Some(at) = text.find(modality.placeholder()) {
                let excerpt = text[at..].chars().take(40).collect();
                return Err(TextError::StrayPlaceholder { placeholder: modality.placeholder(), excerpt });
            }
        }
        let encoding = self.inner.encode(text, false).map_err(|error| TextError::Parse(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of a completion; special tokens are left out.
    pub fn decode(&self, token_ids: &[u32]) -> DecodedText {
        let pieces: Vec<Vec<u8>> = token_ids.iter().map(|&id| self.token_bytes(id)).collect();
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

    fn token_bytes(&self, id: u32) -> Vec<u8> {
        if self.special.contains_key(&id) {
            return Vec::new();
        }
        let token = self.inner.id_to_token(id).unwrap_or_default();
        let bytes: Option<Vec<u8>> = token.chars().map(|c| self.byte_of.get(&c).copied()).collect();
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
