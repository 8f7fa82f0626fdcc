//! Text and media in one row of token ids.

use kyoka_core::{Modality, ModalitySpan};

use crate::{MediumTokens, TextError, Tokenizer};

/// Builds the token ids of a prompt piece by piece.
///
/// Spans are counted here, before anything is sampled: a medium's positions can neither be cut nor produced by text.
pub struct PromptLayout<'a> {
    tokenizer: &'a Tokenizer,
    token_ids: Vec<u32>,
    spans: Vec<ModalitySpan>,
}

impl<'a> PromptLayout<'a> {
    /// An empty prompt.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, token_ids: Vec::new(), spans: Vec::new() }
    }

    /// Appends text.
    ///
    /// # Errors
    /// If the text holds a media placeholder.
    pub fn text(&mut self, text: &str) -> Result<(), TextError> {
        self.token_ids.extend(self.tokenizer.encode(text)?);
        Ok(())
    }

    /// Appends a medium that fills `num_positions` positions.
    ///
    /// # Errors
    /// If the tokenizer has no placeholder for this modality.
    pub fn media(&mut self, modality: Modality, num_positions: usize) -> Result<(), TextError> {
        let start = self.token_ids.len();
        let id = self.tokenizer.placeholder_id(modality)?;
        self.token_ids.extend(std::iter::repeat_n(id, num_positions));
        self.spans.push(ModalitySpan { modality, positions: start..start + num_positions });
        Ok(())
    }

    /// Appends a medium with all that its family writes around it and between its tiles.
    ///
    /// # Errors
    /// If the tokenizer has no placeholder for this modality.
    pub fn marked_media(&mut self, medium: MediumTokens) -> Result<(), TextError> {
        self.tokenizer.placeholder_id(medium.modality)?;
        let mark = self.tokenizer.marks().of(medium.modality).expect("it has an id");
        let (token_ids, spans) = self.tokenizer.encode_prompt(&mark.written(), &[medium])?;
        let start = self.token_ids.len();
        self.token_ids.extend(token_ids);
        self.spans.extend(spans.into_iter().map(|span| ModalitySpan {
            positions: span.positions.start + start..span.positions.end + start,
            ..span
        }));
        Ok(())
    }

    /// The token ids and the spans of the media.
    pub fn finish(self) -> (Vec<u32>, Vec<ModalitySpan>) {
        (self.token_ids, self.spans)
    }
}
