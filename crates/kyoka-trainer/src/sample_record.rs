//! Completions for the log.

use std::path::{Path, PathBuf};

use kyoka_core::{Completion, Modality, Reward, Sample};
use serde::Serialize;

/// A sampled completion, for the log.
#[derive(Debug, Clone, Serialize)]
pub struct SampleRecord {
    /// The row.
    pub id: String,
    /// Prompt text with placeholders.
    pub prompt: String,
    /// Files of the prompt's pictures; those whose bytes came with the row have none.
    pub images: Vec<PathBuf>,
    /// Files of the prompt's sounds, likewise.
    pub audios: Vec<PathBuf>,
    /// The row's answer.
    pub answer: Option<String>,
    /// What the policy wrote.
    pub completion: String,
    /// Reward, `None` if ungraded.
    pub reward: Option<f32>,
    /// Its parts.
    pub parts: Vec<(String, f32)>,
    /// Why it could not be judged, where that is a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

impl SampleRecord {
    pub(crate) fn new(sample: &Sample, completion: &Completion, reward: &Reward) -> Self {
        let files = |modality| {
            let media = sample.media().filter(|medium| medium.modality == modality);
            media.filter_map(|media| media.content.path().map(Path::to_owned)).collect()
        };
        Self {
            id: sample.id.clone(),
            prompt: sample.prompt_text(),
            images: files(Modality::Image),
            audios: files(Modality::Audio),
            answer: sample.answer_text(),
            completion: completion.text.clone(),
            reward: reward.total,
            parts: reward.parts.clone(),
            fault: reward.fault.clone(),
        }
    }
}
