//! Text and media in one row of token ids.

use kyoka_core::ModalitySpan;

use crate::{MediumTokens, TextError, Tokenizer};

/// Builds the token ids of a prompt that no chat template writes, piece by piece.
///
/// Spans are counted here, before anything is sampled: a medium's positions can neither be cut nor produced by text.
pub struct PromptLayout<'a> {
    tokenizer: &'a Tokenizer,
    /// Tokens before the text.
    opening: &'a [u32],
    /// Whether it stands behind other tokens.
    behind: bool,
    text: String,
    media: Vec<MediumTokens>,
}

impl<'a> PromptLayout<'a> {
    /// An empty prompt.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { opening: tokenizer.opening_ids(), behind: false, ..Self::following(tokenizer) }
    }

    /// What stands behind other tokens: nothing is put before it.
    pub fn following(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, opening: &[], behind: true, text: String::new(), media: Vec::new() }
    }

    /// Appends text; a placeholder in it is its letters.
    pub fn text(&mut self, text: &str) {
        self.text.push_str(&self.tokenizer.shielded(text));
    }

    /// Appends a medium with all that its family writes around it and between its tiles.
    ///
    /// # Errors
    /// If the tokenizer has no placeholder for this modality.
    pub fn media(&mut self, medium: MediumTokens) -> Result<(), TextError> {
        self.tokenizer.placeholder_id(medium.modality)?;
        let mark = self.tokenizer.marks().of(medium.modality).expect("it has an id");
        self.text.push_str(&mark.written());
        self.media.push(medium);
        Ok(())
    }

    /// The token ids, behind those that the tokenizer puts before a text that begins, and the spans of the media.
    ///
    /// # Errors
    /// If the tokenizer does not keep placeholders apart from text.
    pub fn finish(self) -> Result<(Vec<u32>, Vec<ModalitySpan>), TextError> {
        let Self { tokenizer, opening, behind, text, media } = self;
        tokenizer.encode_marked(opening, (&text, behind), &media)
    }
}
