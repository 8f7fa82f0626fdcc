//! A prompt as the model reads it: token ids, and typed spans where media stand.

use std::ops::Range;

use crate::{AudioInput, ImageInput, Modality};

/// The place of one medium in a prompt, or of one tile of a picture that was split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModalitySpan {
    /// Which kind of medium stands here.
    pub modality: Modality,
    /// The token positions its features fill.
    pub positions: Range<usize>,
}

/// A tokenized prompt together with its decoded media.
#[derive(Debug, Clone, Default)]
pub struct Prompt {
    /// Token ids; positions inside a span hold the modality's placeholder id.
    pub token_ids: Vec<u32>,
    /// Where media stand, in reading order: a span a medium, and a span a tile where a picture was split.
    pub spans: Vec<ModalitySpan>,
    /// The pictures, in the order of their spans.
    pub images: Vec<ImageInput>,
    /// The sounds, in the order of their spans.
    pub audios: Vec<AudioInput>,
}

impl Prompt {
    /// Number of tokens, media positions included.
    pub fn len(&self) -> usize {
        self.token_ids.len()
    }

    /// Whether the prompt holds no token.
    pub fn is_empty(&self) -> bool {
        self.token_ids.is_empty()
    }

    /// Puts another piece behind it, media and all.
    ///
    /// ```
    /// use kyoka_core::{Modality, ModalitySpan, Prompt};
    ///
    /// let span = ModalitySpan { modality: Modality::Image, positions: 1..3 };
    /// let seen = Prompt { token_ids: vec![7, 0, 0], spans: vec![span], ..Prompt::default() };
    /// let mut prompt = Prompt { token_ids: vec![1, 2], ..Prompt::default() };
    /// prompt.append(&seen);
    /// assert_eq!((prompt.token_ids, prompt.spans[0].positions.clone()), (vec![1, 2, 7, 0, 0], 3..5));
    /// ```
    pub fn append(&mut self, more: &Self) {
        let start = self.len();
        let moved = |span: &ModalitySpan| ModalitySpan {
            modality: span.modality,
            positions: span.positions.start + start..span.positions.end + start,
        };
        self.spans.extend(more.spans.iter().map(moved));
        self.token_ids.extend(&more.token_ids);
        self.images.extend(more.images.iter().cloned());
        self.audios.extend(more.audios.iter().cloned());
    }

    /// The spans of one modality.
    pub fn spans_of(&self, modality: Modality) -> impl Iterator<Item = &ModalitySpan> {
        self.spans.iter().filter(move |span| span.modality == modality)
    }
}
