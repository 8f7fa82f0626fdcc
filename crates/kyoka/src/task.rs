//! Rows with pictures and sounds as prompts.

use std::{path::Path, sync::Arc};

use kyoka_audio::{AudioAugment, AudioError, AudioSpan, LogMel, Waveform};
use kyoka_core::{
    AudioInput, Completion, ImageInput, MediaRef, Modality, ModalitySpan, Part, Prompt, Rollout, Sample,
    StopReason, Stream, stream_rng,
};
use kyoka_data::MediaStore;
use kyoka_image::{ImageAugment, ImageError, ImageProcessor, Picture};
use kyoka_rollout::LocalEngine;
use kyoka_text::{ChatTemplate, MediaMark, MediumTokens, PromptLayout, Tokenizer};
use kyoka_trainer::{Task, TaskError};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{Policy, PolicyConfig};

/// Random changes of media while training.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MediaAugment {
    /// Pictures.
    pub image: ImageAugment,
    /// Sounds.
    pub audio: AudioAugment,
}

impl MediaAugment {
    /// Whether all media stay as they are.
    pub(crate) fn changes_nothing(&self) -> bool {
        self.image.changes_nothing() && self.audio.changes_nothing()
    }
}

/// Memory for decoded pictures and for decoded sounds, each.
pub(crate) const STORE_BYTES: usize = 1 << 29;

/// Decodes media once, lays out prompts, reads completions.
pub struct MultimodalTask {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
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
        Self { tokenizer, template: None, config, log_mel, augment, seed, blank: None, pictures, sounds }
    }

    /// Puts prompts into a conversation as the checkpoint's template writes it.
    pub fn with_template(mut self, template: Option<ChatTemplate>) -> Self {
        self.template = template;
        self
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
        engine.end_ids = tokenizer.end_ids().to_vec();
        engine.decode_text = Some(Box::new(move |ids| tokenizer.decode(ids).text));
        engine
    }

    /// The tokens that a medium takes. Only where they depend on the medium it is decoded for that.
    fn tokens_of(&self, media: &MediaRef) -> Result<MediumTokens, TaskError> {
        let lacks = || format!("the policy has no {} encoder", media.modality.name());
        match media.modality {
            Modality::Image => {
                let vision = self.config.vision.as_ref().ok_or_else(lacks)?;
                let size = match vision.processor {
                    ImageProcessor::FixedSize(fixed) => (fixed.height, fixed.width),
                    _ => self.picture(&media.path).map(|picture| (picture.height, picture.width))?,
                };
                let layout = vision.processor.layout(size.0, size.1);
                let layout = layout.map_err(|source| fault(&media.path, source))?;
                let (modality, tokens_per_view) = (media.modality, vision.tokens_per_view(&layout));
                Ok(MediumTokens { modality, tokens_per_view, split: layout.split })
            }
            Modality::Audio => {
                let audio = self.config.audio.as_ref().ok_or_else(lacks)?;
                let log_mel = self.log_mel.as_ref().ok_or_else(lacks)?;
                let samples = match audio.encoder.span {
                    AudioSpan::Padded => 0,
                    _ => self.sound(&media.path)?.samples.len(),
                };
                let tokens = audio.encoder.num_tokens(log_mel, samples, audio.projector.fold);
                let tokens = tokens.map_err(|source| fault(&media.path, source))?;
                Ok(MediumTokens { modality: media.modality, tokens_per_view: tokens, split: None })
            }
        }
    }

    /// Token ids and spans of a prompt, media not yet processed.
    fn layout(&self, sample: &Sample) -> Result<Prompt, TaskError> {
        let (token_ids, spans) = match &self.template {
            Some(template) => {
                let turn = Turn { role: "user", parts: sample.parts.clone() };
                self.encode_turns(template, &[turn])?
            }
            None => {
                let mut layout = PromptLayout::new(&self.tokenizer);
                for part in &sample.parts {
                    match part {
                        Part::Text(text) => layout.text(text)?,
                        Part::Media(media) => layout.marked_media(self.tokens_of(media)?)?,
                    }
                }
                layout.finish()
            }
        };
        Ok(Prompt { token_ids, spans, ..Prompt::default() })
    }

    /// Whether prompts are turns of a conversation.
    pub(crate) fn converses(&self) -> bool {
        self.template.is_some()
    }

    /// A conversation up to where the policy's turn begins, media processed.
    pub(crate) fn conversation(&self, turns: &[Turn]) -> Result<Prompt, TaskError> {
        let template = self.template.as_ref().ok_or("the policy has no chat template")?;
        let (token_ids, spans) = self.encode_turns(template, turns)?;
        let mut prompt = Prompt { token_ids, spans, ..Prompt::default() };
        turns.iter().try_for_each(|turn| self.add_media(&mut prompt, &turn.parts, None))?;
        Ok(prompt)
    }

    fn encode_turns(
        &self,
        template: &ChatTemplate,
        turns: &[Turn],
    ) -> Result<(Vec<u32>, Vec<ModalitySpan>), TaskError> {
        let mut media = Vec::new();
        let mut messages = Vec::new();
        for Turn { role, parts } in turns {
            for part in parts {
                match part {
                    Part::Text(text) => drop(self.tokenizer.encode(text)?),
                    Part::Media(medium) => media.push(self.tokens_of(medium)?),
                }
            }
            // A turn of words alone is one text, except for templates that see parts alone.
            let words_alone = parts.iter().all(|part| matches!(part, Part::Text(_)));
            let takes_parts = template.takes_parts() && !(words_alone && template.takes_text());
            messages.push(json!({"role": role, "content": content(&self.tokenizer, takes_parts, parts)}));
        }
        let text = template.render(&messages.into(), None, true)?;
        Ok(self.tokenizer.encode_prompt(&text, &media)?)
    }

    fn add_media(
        &self,
        prompt: &mut Prompt,
        parts: &[Part],
        augment: Option<&[u64]>,
    ) -> Result<(), TaskError> {
        for (number, part) in parts.iter().enumerate() {
            let Part::Media(media) = part else { continue };
            let place = augment.map(|place| [place, &[number as u64]].concat());
            match media.modality {
                Modality::Image => prompt.images.push(self.image_input(media, place.as_deref())?),
                Modality::Audio => prompt.audios.push(self.audio_input(media, place.as_deref())?),
            }
        }
        Ok(())
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
            return Ok(vision.processor.process(&Picture::grey(height, width, vec![128; height * width]))?);
        }
        Ok(match place {
            None => vision.processor.process(&picture).map_err(|source| fault(&media.path, source))?,
            Some(place) => {
                let mut rng = stream_rng(self.seed, Stream::Augment, place);
                let changed = self.augment.image.apply(&picture, &mut rng);
                vision.processor.process(&changed).map_err(|source| fault(&media.path, source))?
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

/// A turn of a conversation.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// What is said and shown.
    pub parts: Vec<Part>,
}

/// A turn as a template takes it: parts, or one text with placeholders.
fn content(tokenizer: &Tokenizer, takes_parts: bool, parts: &[Part]) -> serde_json::Value {
    let part = |part: &Part| match part {
        Part::Text(text) => json!({"type": "text", "text": text}),
        Part::Media(media) => json!({"type": media.modality.name()}),
    };
    let written = |part: &Part| match part {
        Part::Text(text) => text.clone(),
        Part::Media(media) => {
            tokenizer.marks().of(media.modality).map(MediaMark::written).unwrap_or_default()
        }
    };
    match takes_parts {
        true => parts.iter().map(part).collect(),
        false => parts.iter().map(written).collect::<String>().into(),
    }
}

fn fault<E: std::error::Error + Send + Sync + 'static>(path: &Path, source: E) -> MediaFault<E> {
    MediaFault { path: path.display().to_string(), source }
}

impl Task for MultimodalTask {
    fn prompt(&self, sample: &Sample, augment: Option<&[u64]>) -> Result<Prompt, TaskError> {
        let mut prompt = self.layout(sample)?;
        self.add_media(&mut prompt, &sample.parts, augment)?;
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
