//! One row of a dataset.

use std::path::PathBuf;

use crate::{MediaRef, Modality};

/// A piece of a prompt, in reading order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Plain text.
    Text(String),
    /// A picture or a sound.
    Media(MediaRef),
}

/// One question, with what is known about its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The row's name, unique within its file.
    pub id: String,
    /// The prompt, text and media interleaved.
    pub parts: Vec<Part>,
    /// The reference answer, if the row has one.
    pub answer: Option<String>,
    /// Labels of the reasoning steps, for step rewards; empty when unknown.
    pub steps: Vec<String>,
    /// A worked completion, for supervised fine-tuning.
    pub completion: Option<String>,
    /// File and line the row came from, for messages.
    pub origin: (PathBuf, usize),
}

impl Sample {
    /// The media of one modality, in prompt order.
    pub fn media(&self, modality: Modality) -> impl Iterator<Item = &MediaRef> {
        self.parts.iter().filter_map(move |part| match part {
            Part::Media(media) if media.modality == modality => Some(media),
            _ => None,
        })
    }

    /// The prompt as text, with placeholders where the media stand.
    pub fn prompt_text(&self) -> String {
        self.parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.as_str(),
                Part::Media(media) => media.modality.placeholder(),
            })
            .collect()
    }
}
