//! Rows with pictures and sounds as prompts.

use std::sync::Arc;

use kyoka_audio::{AudioAugment, AudioError, AudioSpan, LogMel, Waveform};
use kyoka_core::{
    AudioInput, Completion, Content, ImageInput, MediaRef, Message, Modality, Part, Prompt, Role, Rollout,
    Sample, Stream, Task, TaskError, ToolSchema, stream_rng,
};
use kyoka_data::MediaStore;
use kyoka_image::{ImageAugment, ImageError, ImageProcessor, Picture};
use kyoka_rollout::LocalEngine;
use kyoka_text::{ChatTemplate, MediumTokens, PromptLayout, Tokenizer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    AudioConfig, Policy, PolicyConfig, VisionConfig,
    conversation::opens_reasoning,
    doors::local_engine,
    media_head::{Head, Heads},
};

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
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: Option<ChatTemplate>,
    /// Whether the template begins answers inside the reasoning.
    think_opened: bool,
    /// How a picture and a sound stand in a message for which the template writes their placeholder.
    pub(crate) media_parts: [Option<Value>; 2],
    /// Tools that the policy may call, as templates take them.
    pub(crate) tools: Vec<Value>,
    config: PolicyConfig,
    log_mel: Option<LogMel>,
    augment: MediaAugment,
    seed: u64,
    blank: Option<Modality>,
    pictures: MediaStore<Picture>,
    sounds: MediaStore<Waveform>,
    heads: Heads,
}

/// A medium that cannot be used, with its file or its name.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {source}")]
struct MediaFault<E: std::error::Error + 'static> {
    name: String,
    source: E,
}

impl MultimodalTask {
    /// A task for a policy of the given configuration.
    pub fn new(tokenizer: Tokenizer, config: PolicyConfig, augment: MediaAugment, seed: u64) -> Self {
        let log_mel = config.audio.as_ref().map(|audio| LogMel::new(audio.processor));
        let (pictures, sounds) = (MediaStore::new(STORE_BYTES), MediaStore::new(STORE_BYTES));
        let (template, media_parts, think_opened, blank) = Default::default();
        Self {
            tokenizer,
            template,
            media_parts,
            tools: Vec::new(),
            think_opened,
            config,
            log_mel,
            augment,
            seed,
            blank,
            pictures,
            sounds,
            heads: Heads::default(),
        }
    }

    /// Puts prompts into a conversation as the checkpoint's template writes it.
    pub fn with_template(mut self, template: Option<ChatTemplate>) -> Self {
        self.think_opened = template.as_ref().is_some_and(opens_reasoning);
        self.media_parts = [Modality::Image, Modality::Audio].map(|modality| {
            let mark = self.tokenizer.marks().of(modality)?;
            template.as_ref()?.media_part(modality, &mark.placeholder)
        });
        self.template = template;
        self
    }

    /// Tells the policy of tools that it may call, where it has a chat template.
    pub fn with_tools(mut self, tools: &[ToolSchema]) -> Self {
        self.tools = tools.iter().map(ToolSchema::to_json).collect();
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

    /// An engine in this process that ends, bans and decodes as this task's tokenizer says; it gets its weights with
    /// [`publish`](kyoka_core::RolloutEngine::publish).
    pub fn engine(&self) -> LocalEngine<Policy> {
        local_engine(&self.tokenizer)
    }

    /// A medium, decoded, changed and preprocessed once: what the encoder reads, and the tokens it takes.
    fn input_of(&self, media: &MediaRef, place: Option<&[u64]>) -> Result<(Input, MediumTokens), TaskError> {
        let lacks = || self.lacks(media.modality);
        match media.modality {
            Modality::Image => {
                let image = self.config.vision.as_ref().ok_or_else(lacks)?;
                let input = self.image_input(image, media, place)?;
                let tokens = image.tokens_of(&input);
                Ok((Input::Image(input), tokens))
            }
            Modality::Audio => {
                let audio = self.config.audio.as_ref().ok_or_else(lacks)?;
                let (input, samples) = self.audio_input(media, place)?;
                let tokens = self.sound_tokens(audio, (media, samples))?;
                Ok((Input::Audio(input), tokens))
            }
        }
    }

    /// What is wrong with a medium, as far as its head tells.
    pub(crate) fn fault_of(&self, media: &MediaRef) -> Option<String> {
        self.heads.of(media).err()
    }

    /// The tokens that a medium takes at most, with the longest random delay. Only where they depend on the medium the head
    /// of its file is read for that; a sound is decoded where the head does not tell its length.
    fn tokens_of(&self, media: &MediaRef) -> Result<MediumTokens, TaskError> {
        let lacks = || self.lacks(media.modality);
        match media.modality {
            Modality::Image => {
                let image = self.config.vision.as_ref().ok_or_else(lacks)?;
                let size = match image.processor {
                    ImageProcessor::FixedSize(fixed) => (fixed.height, fixed.width),
                    _ => match self.heads.of(media).map_err(|reason| headless(media, &reason))? {
                        Head::Picture { height, width } => (height, width),
                        Head::Sound { .. } => unreachable!("the head was read as that of a picture"),
                    },
                };
                let layout = image.processor.layout(size.0, size.1);
                Ok(image.tokens_of_layout(&layout.map_err(|source| fault(&media.content, source))?))
            }
            Modality::Audio => {
                let audio = self.config.audio.as_ref().ok_or_else(lacks)?;
                let samples = match audio.encoder.span {
                    AudioSpan::Padded => 0,
                    _ => self.num_samples(media)? + self.augment.audio.max_delay_samples(),
                };
                Ok(self.sound_tokens(audio, (media, samples))?)
            }
        }
    }

    /// Samples of a sound, from the head of its file where that tells.
    fn num_samples(&self, media: &MediaRef) -> Result<usize, TaskError> {
        match self.heads.of(media).map_err(|reason| headless(media, &reason))? {
            Head::Sound { num_samples: Some(samples) } => Ok(samples),
            _ => Ok(self.sound(&media.content)?.samples.len()),
        }
    }

    /// The tokens of a sound of so many samples.
    fn sound_tokens(
        &self,
        audio: &AudioConfig,
        (media, samples): (&MediaRef, usize),
    ) -> Result<MediumTokens, TaskError> {
        let log_mel = self.log_mel.as_ref().ok_or_else(|| self.lacks(media.modality))?;
        let tokens_per_view = audio.encoder.num_tokens(log_mel, samples, audio.projector.fold);
        let tokens_per_view = tokens_per_view.map_err(|source| fault(&media.content, source))?;
        Ok(MediumTokens { modality: Modality::Audio, tokens_per_view, split: None })
    }

    fn lacks(&self, modality: Modality) -> TaskError {
        format!("the policy has no {} encoder", modality.name()).into()
    }

    /// Token ids and spans of a prompt whose media take `media` tokens, in reading order.
    fn layout(&self, sample: &Sample, media: Vec<MediumTokens>) -> Result<Prompt, TaskError> {
        if let Some(template) = &self.template {
            return self.encode_messages(template, &sample.messages, &media);
        }
        let [Message { role: Role::User, parts }] = &sample.messages[..] else {
            let reason = match sample.messages.iter().any(|message| message.role == Role::System) {
                true => "the row has a `system` text, for which the policy needs a chat template",
                false => "the row has several messages, for which the policy needs a chat template",
            };
            return Err(reason.into());
        };
        self.encode_parts(PromptLayout::new(&self.tokenizer), parts, media)
    }

    /// Parts one after the other, as no template writes them.
    fn encode_parts(
        &self,
        mut layout: PromptLayout<'_>,
        parts: &[Part],
        media: Vec<MediumTokens>,
    ) -> Result<Prompt, TaskError> {
        let mut media = media.into_iter();
        for part in parts {
            match part {
                Part::Text(text) => layout.text(text),
                Part::Media(_) => layout.media(media.next().expect("one a medium"))?,
            }
        }
        let (token_ids, spans) = layout.finish()?;
        Ok(Prompt { token_ids, spans, ..Prompt::default() })
    }

    /// Whether the policy sees or hears.
    pub(crate) fn has_senses(&self) -> bool {
        self.config.vision.is_some() || self.config.audio.is_some()
    }

    /// What the encoders read of all media, in reading order, and the tokens they take.
    pub(crate) fn inputs<'a>(
        &self,
        parts: impl Iterator<Item = &'a Part>,
        augment: Option<&[u64]>,
    ) -> Result<(Vec<Input>, Vec<MediumTokens>), TaskError> {
        let (mut inputs, mut tokens) = (Vec::new(), Vec::new());
        for (number, part) in parts.enumerate() {
            let Part::Media(media) = part else { continue };
            let place = augment.map(|place| [place, &[number as u64]].concat());
            let (input, of_medium) = self.input_of(media, place.as_deref())?;
            inputs.push(input);
            tokens.push(of_medium);
        }
        Ok((inputs, tokens))
    }

    /// Tokens of a prompt at most, whatever the random changes of its media; nothing is preprocessed.
    pub fn prompt_len(&self, sample: &Sample) -> Result<usize, TaskError> {
        let media = sample.media().map(|media| self.tokens_of(media));
        Ok(self.layout(sample, media.collect::<Result<_, _>>()?)?.len())
    }

    /// Bytes of a medium once it is decoded; `None` if it cannot be.
    pub(crate) fn decoded_bytes(&self, modality: Modality, file: &[u8]) -> Option<usize> {
        match modality {
            Modality::Image => Some(Picture::decode(file).ok()?.rgb.len()),
            Modality::Audio => Some(4 * Waveform::decode(file).ok()?.samples.len()),
        }
    }

    fn picture(&self, content: &Content) -> Result<Arc<Picture>, TaskError> {
        let decode = |bytes: &[u8]| -> Result<(Picture, usize), ImageError> {
            let picture = Picture::decode(bytes)?;
            let size = picture.rgb.len();
            Ok((picture, size))
        };
        Ok(self.pictures.get(content, decode).map_err(|source| fault(content, source))?)
    }

    fn sound(&self, content: &Content) -> Result<Arc<Waveform>, TaskError> {
        let decode = |bytes: &[u8]| -> Result<(Waveform, usize), AudioError> {
            let sound = Waveform::decode(bytes)?;
            let size = 4 * sound.samples.len();
            Ok((sound, size))
        };
        Ok(self.sounds.get(content, decode).map_err(|source| fault(content, source))?)
    }

    fn image_input(
        &self,
        config: &VisionConfig,
        media: &MediaRef,
        place: Option<&[u64]>,
    ) -> Result<ImageInput, TaskError> {
        let picture = self.picture(&media.content)?;
        let changed = match place {
            Some(_) if self.augment.image.changes_nothing() => None,
            Some(place) => {
                let mut rng = stream_rng(self.seed, Stream::Augment, place);
                Some(self.augment.image.apply(&picture, &mut rng))
            }
            None => None,
        };
        let picture = changed.as_ref().unwrap_or(&picture);
        if self.blank == Some(Modality::Image) {
            let (height, width) = (picture.height, picture.width);
            return Ok(config.processor.process(&Picture::grey(height, width, vec![128; height * width]))?);
        }
        Ok(config.processor.process(picture).map_err(|source| fault(&media.content, source))?)
    }

    /// What the encoder reads of a sound, and of how many samples.
    fn audio_input(&self, media: &MediaRef, place: Option<&[u64]>) -> Result<(AudioInput, usize), TaskError> {
        let log_mel = self.log_mel.as_ref().ok_or_else(|| self.lacks(media.modality))?;
        let sound = self.sound(&media.content)?;
        let changed = match place {
            Some(_) if self.augment.audio.changes_nothing() => None,
            Some(place) => {
                let mut rng = stream_rng(self.seed, Stream::Augment, place);
                Some(self.augment.audio.apply(&sound.samples, &mut rng))
            }
            None => None,
        };
        let samples = changed.as_deref().unwrap_or(&sound.samples);
        // Silence of the same length: the prompt keeps its tokens.
        let input = match self.blank {
            Some(Modality::Audio) => log_mel.process(&vec![0.0; samples.len()]),
            _ => log_mel.process(samples),
        };
        Ok((input, samples.len()))
    }
}

/// A medium as its encoder reads it.
pub(crate) enum Input {
    Image(ImageInput),
    Audio(AudioInput),
}

/// A prompt with what its encoders read.
pub(crate) fn filled(mut prompt: Prompt, inputs: Vec<Input>) -> Prompt {
    for input in inputs {
        match input {
            Input::Image(image) => prompt.images.push(image),
            Input::Audio(audio) => prompt.audios.push(audio),
        }
    }
    prompt
}

fn headless(media: &MediaRef, reason: &str) -> TaskError {
    format!("{}: {reason}", media.content).into()
}

fn fault<E: std::error::Error + Send + Sync + 'static>(content: &Content, source: E) -> MediaFault<E> {
    MediaFault { name: content.to_string(), source }
}

impl Task for MultimodalTask {
    fn prompt(&self, sample: &Sample, augment: Option<&[u64]>) -> Result<Prompt, TaskError> {
        let (inputs, media) = self.inputs(sample.parts(), augment)?;
        Ok(filled(self.layout(sample, media)?, inputs))
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, TaskError> {
        let mut ids = self.tokenizer.encode(text)?;
        ids.push(self.tokenizer.end_id());
        Ok(ids)
    }

    fn observation(&self, parts: &[Part], closed_by: Option<u32>) -> Result<Prompt, TaskError> {
        let (inputs, media) = self.inputs(parts.iter(), None)?;
        let laid_out = match &self.template {
            Some(template) => self.encode_answer(template, (parts, &media), closed_by)?,
            None => self.encode_parts(PromptLayout::following(&self.tokenizer), parts, media)?,
        };
        Ok(filled(laid_out, inputs))
    }

    fn read(&self, rollout: &Rollout, max_new_tokens: usize) -> Completion {
        let decoded = self.tokenizer.decode(&rollout.token_ids);
        Completion {
            text: decoded.text,
            token_ids: rollout.token_ids.clone(),
            token_spans: decoded.token_spans,
            think_opened: self.think_opened,
            turns: rollout.completed_turns(),
            finished: !rollout.is_truncated(),
            max_new_tokens,
        }
    }
}
