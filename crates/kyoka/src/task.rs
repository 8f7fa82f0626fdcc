//! Rows with pictures and sounds as prompts.

use std::{path::Path, sync::Arc};

use kyoka_audio::{AudioAugment, AudioError, LogMel, Waveform};
use kyoka_core::{
    AudioInput, Completion, ImageInput, MediaRef, Modality, Part, Prompt, Rollout, Sample, StopReason,
    Stream, stream_rng,
};
use kyoka_data::MediaStore;
use kyoka_image::{ImageAugment, ImageError, Picture};
use kyoka_rollout::LocalEngine;
use kyoka_text::{PromptLayout, Tokenizer};
use kyoka_trainer::{Task, TaskError};
use serde::{Deserialize, Serialize};

use crate::{Policy, PolicyConfig, VisionConfig};

/// Random changes of media while training.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MediaAugment {
    /// Pictures.
    pub image: ImageAugment,
    /// Sounds.
    pub audio: AudioAugment,
}

/// Memory for decoded pictures and for decoded sounds, each.
const STORE_BYTES: usize = 1 << 29;

/// Decodes media once, lays out prompts, reads completions.
pub struct MultimodalTask {
    tokenizer: Tokenizer,
    config: PolicyConfig,
    log_mel: Option<LogMel>,
    augment: MediaAugment,
    seed: u64,
    blank: Option<Modality>,
    pictures: MediaStore<Picture>,
    sounds: MediaStore<Waveform>,
}

/// A medium that cannot be used, with its file.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
struct MediaFault<E: std::error::Error + 'static> {
    path: String,
    source: E,
}

impl MultimodalTask {
    /// A task for a policy of the given configuration.
    pub fn new(tokenizer: Tokenizer, config: PolicyConfig, augment: MediaAugment, seed: u64) -> Self {
        let log_mel = config.audio.as_ref().map(|audio| LogMel::new(audio.processor));
        let (pictures, sounds) = (MediaStore::new(STORE_BYTES), MediaStore::new(STORE_BYTES));
        Self { tokenizer, config, log_mel, augment, seed, blank: None, pictures, sounds }
    }

    /// Replaces every picture by grey or every sound by silence: how much does the policy rely on it?
    pub fn with_blank(mut self, blank: Option<Modality>) -> Self {
        self.blank = blank;
        self
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// An engine over `policy` that ends, bans and decodes as this task's tokenizer says.
    pub fn engine(&self, policy: Policy) -> LocalEngine<Policy> {
        let tokenizer = self.tokenizer.clone();
        let mut engine = LocalEngine::new(policy, tokenizer.end_id(), tokenizer.banned_ids());
        engine.decode_text = Some(Box::new(move |ids| tokenizer.decode(ids).text));
        engine
    }

    /// Tokens that one medium takes; `None` if the policy lacks the sense.
    fn tokens_of(&self, modality: Modality) -> Option<usize> {
        match modality {
            Modality::Image => self.config.vision.as_ref().and_then(VisionConfig::fixed_tokens),
            Modality::Audio => {
                let audio = self.config.audio.as_ref()?;
                Some(self.log_mel.as_ref()?.num_frames() / 2 / audio.projector.fold)
            }
        }
    }

    /// Token ids and spans of a prompt, media not yet decoded.
    fn layout(&self, sample: &Sample) -> Result<Prompt, TaskError> {
        let mut layout = PromptLayout::new(&self.tokenizer);
        for part in &sample.parts {
            match part {
                Part::Text(text) => layout.text(text)?,
                Part::Media(media) => {
                    let tokens = self.tokens_of(media.modality);
                    let name = media.modality.name();
                    layout.media(
                        media.modality,
                        tokens.ok_or_else(|| format!("the policy has no {name} encoder"))?,
                    )?;
                }
            }
        }
        let (token_ids, spans) = layout.finish();
        Ok(Prompt { token_ids, spans, ..Prompt::default() })
    }

    /// Tokens of a prompt, counted without decoding its media.
    pub fn prompt_len(&self, sample: &Sample) -> Result<usize, TaskError> {
        Ok(self.layout(sample)?.len())
    }

    /// Bytes of a medium once it is decoded; `None` if it cannot be.
    pub(crate) fn decoded_bytes(&self, modality: Modality, file: &[u8]) -> Option<usize> {
        match modality {
            Modality::Image => Some(Picture::decode(file).ok()?.rgb.len()),
            Modality::Audio => Some(4 * Waveform::decode(file).ok()?.samples.len()),
        }
    }

    fn picture(&self, path: &Path) -> Result<Arc<Picture>, TaskError> {
        let decode = |bytes: &[u8]| -> Result<(Picture, usize), ImageError> {
            let picture = Picture::decode(bytes)?;
            let size = picture.rgb.len();
            Ok((picture, size))
        };
        Ok(self.pictures.get(path, decode).map_err(|source| fault(path, source))?)
    }

    fn sound(&self, path: &Path) -> Result<Arc<Waveform>, TaskError> {
        let decode = |bytes: &[u8]| -> Result<(Waveform, usize), AudioError> {
            let sound = Waveform::decode(bytes)?;
            let size = 4 * sound.samples.len();
            Ok((sound, size))
        };
        Ok(self.sounds.get(path, decode).map_err(|source| fault(path, source))?)
    }

    fn image_input(&self, media: &MediaRef, place: Option<&[u64]>) -> Result<ImageInput, TaskError> {
        let vision = self.config.vision.as_ref().ok_or("the policy has no image encoder")?;
        let picture = self.picture(&media.path)?;
        if self.blank == Some(Modality::Image) {
            let (height, width) = (picture.height, picture.width);
            return Ok(vision.processor.process(&Picture::grey(height, width, vec![128; height * width])));
        }
        Ok(match place {
            None => vision.processor.process(&picture),
            Some(place) => {
                let mut rng = stream_rng(self.seed, Stream::Augment, place);
                vision.processor.process(&self.augment.image.apply(&picture, &mut rng))
            }
        })
    }

    fn audio_input(&self, media: &MediaRef, place: Option<&[u64]>) -> Result<AudioInput, TaskError> {
        let log_mel = self.log_mel.as_ref().ok_or("the policy has no audio encoder")?;
        let sound = self.sound(&media.path)?;
        if self.blank == Some(Modality::Audio) {
            return Ok(log_mel.process(&[]));
        }
        Ok(match place {
            None => log_mel.process(&sound.samples),
            Some(place) => {
                let mut rng = stream_rng(self.seed, Stream::Augment, place);
                log_mel.process(&self.augment.audio.apply(&sound.samples, &mut rng))
            }
        })
    }
}

fn fault<E: std::error::Error + Send + Sync + 'static>(path: &Path, source: E) -> MediaFault<E> {
    MediaFault { path: path.display().to_string(), source }
}

impl Task for MultimodalTask {
    fn prompt(&self, sample: &Sample, augment: Option<&[u64]>) -> Result<Prompt, TaskError> {
        let mut prompt = self.layout(sample)?;
        for (number, part) in sample.parts.iter().enumerate() {
            let Part::Media(media) = part else { continue };
            let place = augment.map(|place| [place, &[number as u64]].concat());
            match media.modality {
                Modality::Image => prompt.images.push(self.image_input(media, place.as_deref())?),
                Modality::Audio => prompt.audios.push(self.audio_input(media, place.as_deref())?),
            }
        }
        Ok(prompt)
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, TaskError> {
        let mut ids = self.tokenizer.encode(text)?;
        ids.push(self.tokenizer.end_id());
        Ok(ids)
    }

    fn read(&self, rollout: &Rollout, max_new_tokens: usize) -> Completion {
        let decoded = self.tokenizer.decode(&rollout.token_ids);
        Completion {
            text: decoded.text,
            token_spans: decoded.token_spans,
            finished: rollout.stop_reason != StopReason::Length,
            max_new_tokens,
        }
    }
}
