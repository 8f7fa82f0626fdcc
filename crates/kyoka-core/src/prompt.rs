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

    /// The spans of one modality.
    pub fn spans_of(&self, modality: Modality) -> impl Iterator<Item = &ModalitySpan> {
        self.spans.iter().filter(move |span| span.modality == modality)
    }
}
