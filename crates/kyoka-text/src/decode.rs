//! Token ids as text, as transformers' `decode` gives it, with the place of each token in it.

use std::ops::Range;

use crate::Tokenizer;

/// A completion as text, with the bytes each token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedText {
    /// The text, special tokens left out. Bytes that are no UTF-8 stand as U+FFFD, one for each cut character.
    pub text: String,
    /// Byte range of each token in `text`; empty for special tokens. Where tokens share a character of byte-level BPE,
    /// ranges end within it.
    pub token_spans: Vec<Range<usize>>,
}

/// How the tokens of a vocabulary become text.
#[derive(Debug, Clone)]
pub(crate) enum Decoder {
    /// Byte-level BPE: tokens are bytes.
    Bytes,
    /// What `tokenizer.json` says; `clean_up` takes the blanks before marks of punctuation away, as transformers does
    /// where `clean_up_tokenization_spaces` is set.
    File { clean_up: bool },
}

impl Tokenizer {
    /// The text of a completion; special tokens are left out.
    pub fn decode(&self, token_ids: &[u32]) -> DecodedText {
        match self.decoder {
            Decoder::Bytes => self.decode_bytes(token_ids),
            Decoder::File { clean_up } => self.decode_by_file(token_ids, clean_up),
        }
    }

    fn decode_bytes(&self, token_ids: &[u32]) -> DecodedText {
        let mut bytes = Vec::new();
        let ends: Vec<usize> = token_ids
            .iter()
            .map(|&id| {
                bytes.extend(self.token_bytes(id));
                bytes.len()
            })
            .collect();
        // Where in the text each byte ends: as far behind as before, but for bytes that a replacement stands for.
        let (mut text, mut places) = (String::new(), vec![0]);
        for chunk in bytes.utf8_chunks() {
            let start = text.len();
            text.push_str(chunk.valid());
            places.extend(start + 1..=text.len());
            if let [others @ .., _] = chunk.invalid() {
                places.extend((1..=others.len()).map(|byte| text.len() + byte));
                text.push(char::REPLACEMENT_CHARACTER);
                places.push(text.len());
            }
        }
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let token_spans = starts.zip(&ends).map(|(start, &end)| places[start]..places[end]).collect();
        DecodedText { text, token_spans }
    }

    /// With the file's own decoder; a token that ends within a character counts to the one that completes it.
    fn decode_by_file(&self, token_ids: &[u32], clean_up: bool) -> DecodedText {
        let decoded = |ids: &[u32]| {
            let text = self.inner.decode(ids, true).unwrap_or_default();
            if clean_up { cleaned_up(text) } else { text }
        };
        let text = decoded(token_ids);
        let mut stream = self.inner.decode_stream(true);
        let mut end = 0;
        let mut ends: Vec<usize> = token_ids
            .iter()
            .map_while(|&id| {
                // A piece that does not go on from the last means that later tokens change earlier text.
                let piece = stream.step(id).ok()?.unwrap_or_default();
                end += text[end..].starts_with(&piece).then_some(piece.len())?;
                Some(end)
            })
            .collect();
        for taken in ends.len()..token_ids.len() {
            end = end.max(common_prefix(&decoded(&token_ids[..=taken]), &text));
            ends.push(end);
        }
        // The stream keeps back what may be half a character.
        let last = token_ids.iter().rposition(|id| !self.special.contains_key(id)).unwrap_or(0);
        ends.iter_mut().skip(last).for_each(|end| *end = text.len());
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let token_spans = starts.zip(&ends).map(|(start, &end)| start..end).collect();
        DecodedText { text, token_spans }
    }

    fn token_bytes(&self, id: u32) -> Vec<u8> {
        if self.special.contains_key(&id) {
            return Vec::new();
        }
        let token = self.inner.id_to_token(id).unwrap_or_default();
        let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
        bytes.unwrap_or_else(|| token.into_bytes())
    }
}

/// Bytes of whole characters that two texts begin with.
fn common_prefix(a: &str, b: &str) -> usize {
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b);
    same.map(|(c, _)| c.len_utf8()).sum()
}

/// Python's `clean_up_tokenization`.
fn cleaned_up(text: String) -> String {
    let marks = [".", "?", "!", ","].map(|mark| (format!(" {mark}"), mark));
    let text = marks.iter().fold(text, |text, (from, to)| text.replace(from, to));
    let shortened = [" n't", " 'm", " 's", " 've", " 're"];
    shortened.iter().fold(text.replace(" ' ", "'"), |text, from| text.replace(from, &from[1..]))
}

/// The byte that a printable character of GPT-2's byte-level BPE stands for.
fn byte_of(c: char) -> Option<u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let code = u32::from(c);
    match u8::try_from(code) {
        Ok(byte) => printable(byte).then_some(byte),
        // The others have the codes from 256 on, in order.
        Err(_) => (0..=u8::MAX).filter(|&byte| !printable(byte)).nth(code as usize - 256),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::*;

    fn tiny() -> Tokenizer {
        Tokenizer::from_bytes(include_bytes!("../tests/tiny_tokenizer.json")).unwrap()
    }

    /// The tokens of whole bytes.
    fn ids_of(tokenizer: &Tokenizer, bytes: &[u8]) -> Vec<u32> {
        let token =
            |byte: u8| (0..0x200).filter_map(char::from_u32).find(|&c| byte_of(c) == Some(byte)).unwrap();
        bytes.iter().map(|&byte| tokenizer.token_id(&token(byte).to_string()).unwrap()).collect()
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
    fn a_cut_or_stray_byte_leaves_all_other_characters_whole() {
        let tokenizer = tiny();
        for (bytes, expected) in [
            (&b"\xe6\x97\xa5x\xe6\x9c"[..], "日x\u{fffd}"),
            (b"\xe6\x97\xa5\xff\xe6\x9c\xacy", "日\u{fffd}本y"),
            (b"\x80\xc3\xa9\xf0\x9f\x98", "\u{fffd}é\u{fffd}"),
            (b"\xc3", "\u{fffd}"),
            (b"", ""),
        ] {
            let decoded = tokenizer.decode(&ids_of(&tokenizer, bytes));
            assert_eq!(decoded.text, String::from_utf8_lossy(bytes));
            assert_eq!(decoded.text, expected);
            let mut end = 0;
            for span in &decoded.token_spans {
                assert!(span.start == end && span.end > end, "{:?}", decoded.token_spans);
                end = span.end;
            }
            assert_eq!(end, decoded.text.len());
        }
    }

    #[test]
    fn tokens_of_a_byte_fallback_keep_what_no_character_came_of() {
        let vocab = ["<unk>", "<0xE6>", "<0x97>", "<0xA5>", "▁a", "b"];
        let vocab: serde_json::Map<String, Value> =
            vocab.iter().enumerate().map(|(id, token)| (token.to_string(), json!(id))).collect();
        let decoders = json!([{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]);
        let file = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "pre_tokenizer": null, "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "vocab": vocab, "merges": []}});
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tokenizer.json"), file.to_string()).unwrap();
        fs::write(folder.path().join("tokenizer_config.json"), r#"{"eos_token": "<unk>"}"#).unwrap();
        let tokenizer = Tokenizer::from_checkpoint(folder.path()).unwrap();
        for (ids, text, spans) in [
            (&[4, 1, 2, 3, 5][..], "a日b", vec![0..1, 1..1, 1..1, 1..4, 4..5]),
            (&[4, 1, 2], "a\u{fffd}\u{fffd}", vec![0..1, 1..1, 1..7]),
            (&[1, 5, 4, 0], "\u{fffd}b a", vec![0..0, 0..4, 4..6, 6..6]),
        ] {
            assert_eq!(tokenizer.decode(ids), DecodedText { text: text.to_owned(), token_spans: spans });
        }
    }

    #[test]
    fn blanks_before_punctuation_go_where_transformers_takes_them_away() {
        assert_eq!(cleaned_up("it 's , do n't ' a ' .".to_owned()), "it's, don't'a '.");
    }
}
