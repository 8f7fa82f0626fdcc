//! Text that spells a placeholder: its letters, never the token that stands for a medium.

use std::sync::Arc;

use crate::{MediaMark, TextError, Tokenizer};

/// Stands within a placeholder that is text while a template writes around it; no text holds this character, which
/// Unicode keeps for use within programs.
const SHIELD: char = '\u{fdd0}';

impl Tokenizer {
    /// `text` with the placeholders of media in it made unlike those that a template writes.
    pub fn shielded(&self, text: &str) -> String {
        let marks = self.marks.each().map(|(_, mark)| (mark.placeholder.as_str(), shielded(mark)));
        marks.fold(text.to_owned(), |text, (placeholder, shielded)| text.replace(placeholder, &shielded))
    }

    /// Token ids of a text in which shielded placeholders are letters, and others what they are.
    /// Behind other tokens no blank is put before it.
    pub(crate) fn encode_shielded(&self, text: &str, behind: bool) -> Result<Vec<u32>, TextError> {
        let mut ids: Vec<u32> = Vec::new();
        let mut rest = text;
        while let Some((at, mark)) = self.next_shielded(rest) {
            ids.extend(self.piece(&self.inner, &rest[..at], behind || !ids.is_empty())?);
            ids.extend(self.spelled(mark, behind || !ids.is_empty())?);
            rest = &rest[at + shielded(mark).len()..];
        }
        ids.extend(self.piece(&self.inner, rest, behind || !ids.is_empty())?);
        Ok(ids)
    }

    /// The letters of a placeholder; in two pieces where the vocabulary has it as a word.
    fn spelled(&self, mark: &MediaMark, behind: bool) -> Result<Vec<u32>, TextError> {
        let inner = self.of_letters();
        let letters = self.piece(&inner, &mark.placeholder, behind)?;
        if !letters.contains(&mark.id) {
            return Ok(letters);
        }
        let first = mark.placeholder.chars().next().map_or(0, char::len_utf8);
        let (first, rest) = mark.placeholder.split_at(first);
        Ok([self.piece(&inner, first, behind)?, self.piece(&inner, rest, true)?].concat())
    }

    fn next_shielded(&self, text: &str) -> Option<(usize, &MediaMark)> {
        let found = self.marks.each().filter_map(|(_, mark)| Some((text.find(&shielded(mark))?, mark)));
        found.min_by_key(|&(at, _)| at)
    }

    /// Token ids of a piece. Behind others it is encoded after a line feed, which is taken away again, so that no blank
    /// is put before it that begins a text in some vocabularies; as transformers does it.
    fn piece(&self, inner: &tokenizers::Tokenizer, text: &str, behind: bool) -> Result<Vec<u32>, TextError> {
        let encode = |text: &str| {
            let encoding = inner.encode(text, false).map_err(|error| TextError::Parse(error.to_string()))?;
            Ok::<_, TextError>(encoding.get_ids().to_vec())
        };
        if !behind || text.is_empty() {
            return encode(text);
        }
        let line_feed = encode("\n")?;
        match encode(&format!("\n{text}"))?.strip_prefix(line_feed.as_slice()) {
            Some(ids) => Ok(ids.to_vec()),
            None => encode(text),
        }
    }

    /// The same tokenizer, for which special tokens are text like any other.
    fn of_letters(&self) -> Arc<tokenizers::Tokenizer> {
        let made = self.letters.get_or_init(|| {
            let mut inner = self.inner.clone();
            let marks = self.marks.each();
            let special: Vec<_> =
                marks.map(|(_, mark)| tokenizers::AddedToken::from(mark.placeholder.clone(), true)).collect();
            inner.add_special_tokens(&special);
            inner.set_encode_special_tokens(true);
            Arc::new(inner)
        });
        made.clone()
    }
}

fn shielded(mark: &MediaMark) -> String {
    let mut chars = mark.placeholder.chars();
    chars.next().into_iter().chain([SHIELD]).chain(chars).collect()
}

#[cfg(test)]
mod tests {
    use kyoka_core::Modality;

    use super::*;
    use crate::{MediumTokens, PromptLayout};

    fn tiny() -> Tokenizer {
        Tokenizer::from_bytes(include_bytes!("../tests/tiny_tokenizer.json")).unwrap()
    }

    #[test]
    fn a_placeholder_in_running_text_is_its_letters() {
        let tokenizer = tiny();
        let id = tokenizer.placeholder_id(Modality::Image).unwrap();
        for text in ["see <image>", "<image><audio>", "<image", "a <image> b <image>"] {
            let ids = tokenizer.encode(text).unwrap();
            assert!(!ids.contains(&id), "{text}: {ids:?}");
            assert_eq!(tokenizer.decode(&ids).text, text);
        }
        assert!(tokenizer.banned_ids().contains(&id));
    }

    #[test]
    fn a_picture_and_the_word_for_one_stand_side_by_side() {
        let tokenizer = tiny();
        let id = tokenizer.placeholder_id(Modality::Image).unwrap();
        let mut layout = PromptLayout::new(&tokenizer);
        layout.text("the <image> tag, ");
        layout.media(MediumTokens { modality: Modality::Image, tokens_per_view: 3, split: None }).unwrap();
        let (token_ids, spans) = layout.finish().unwrap();
        assert_eq!(token_ids.iter().filter(|&&other| other == id).count(), 3);
        assert_eq!(token_ids[spans[0].positions.clone()], [id; 3]);
        assert_eq!(tokenizer.decode(&token_ids).text, "the <image> tag, ");
    }
}
