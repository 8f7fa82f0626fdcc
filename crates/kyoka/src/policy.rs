//! The registry of models: configurations, fresh weights, saved weights.

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::Device;
use kyoka_audio::{LogMelConfig, WhisperConfig, WhisperEncoder};
use kyoka_core::{ImageInput, Modality, ModalityEncoder};
use kyoka_fusion::{Decoder, DecoderConfig, MultimodalLm, PositionScheme, Projector, ProjectorConfig, Tower};
use kyoka_image::{
    ImageEncoder, ImageEncoderConfig, ImageLayout, ImageProcessor, OwnImageEncoder, VitConfig,
};
use kyoka_nn::WeightInit;
use kyoka_text::MediumTokens;
use kyoka_trainer::load_weights;
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    adapters::Adapters,
    text_side::{TextSide, text_side},
};

/// A policy that sees through a vision transformer, or an image encoder of one's own, and hears through a Whisper encoder.
pub type Policy<I = ImageEncoder> = MultimodalLm<I, WhisperEncoder>;

/// The eye.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionConfig {
    /// Preprocessing.
    pub processor: ImageProcessor,
    /// Encoder.
    pub encoder: ImageEncoderConfig,
    /// Patches to tokens.
    pub projector: ProjectorConfig,
}

/// The ear.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AudioConfig {
    /// Preprocessing.
    pub processor: LogMelConfig,
    /// Encoder.
    pub encoder: WhisperConfig,
    /// Frames to tokens.
    pub projector: ProjectorConfig,
}

/// Everything needed to build a policy; `config.json` of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// The eye, if it has one.
    pub vision: Option<VisionConfig>,
    /// The ear, if it has one.
    pub audio: Option<AudioConfig>,
    /// The decoder.
    pub decoder: DecoderConfig,
    /// How the tokens of a prompt are numbered.
    #[serde(default)]
    pub positions: PositionScheme,
    /// The Hugging Face checkpoint that the policy comes from, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Low-rank adapters beside its linear maps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapters: Option<Adapters>,
}

/// Where a policy comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The checkpoint's folder.
    pub folder: PathBuf,
    /// Its `config.json`.
    pub config: serde_json::Value,
}

impl VisionConfig {
    /// Tokens of a picture as the encoder reads it.
    pub(crate) fn tokens_of(&self, input: &ImageInput) -> MediumTokens {
        let ImageInput { num_views, height, width, split, .. } = *input;
        self.tokens_of_layout(&ImageLayout { num_views, height, width, split })
    }

    /// Tokens of a picture with this layout: those of one tile where it is split, else of all of it.
    pub(crate) fn tokens_of_layout(&self, layout: &ImageLayout) -> MediumTokens {
        let num_views = if layout.split.is_some() { 1 } else { layout.num_views };
        let positions = self.encoder.num_positions(num_views, layout.height, layout.width);
        let tokens_per_view = positions / self.projector.fold;
        MediumTokens { modality: Modality::Image, tokens_per_view, split: layout.split }
    }
}

impl AudioConfig {
    /// Log-mel features of sounds padded or cut to `frames`.
    pub(crate) fn log_mel(num_mels: usize, frames: usize) -> LogMelConfig {
        LogMelConfig::new(num_mels, frames as f64 / 100.0)
    }
}

impl PolicyConfig {
    /// A configuration by name; the decoder's vocabulary is the tokenizer's.
    ///
    /// # Errors
    /// If the name is unknown.
    pub fn named(name: &str, vocab_size: usize) -> Result<Self, Error> {
        match name {
            "tiny" => Ok(Self::tiny(vocab_size)),
            _ => {
                let hint = kyoka_core::nearest(name, ["tiny"]).map(|near| format!("; did you mean {near}?"));
                let reason =
                    format!("unknown model config {name:?} (known: tiny){}", hint.unwrap_or_default());
                Err(Error::Recipe { name: "model.config".to_owned(), reason })
            }
        }
    }

    /// About 1.75 M parameters: 28 x 28 pictures as one token each, one second of sound as five.
    pub fn tiny(vocab_size: usize) -> Self {
        Self {
            vision: Some(VisionConfig {
                processor: ImageProcessor::default(),
                encoder: ImageEncoderConfig::Vit(VitConfig::tiny()),
                projector: ProjectorConfig::mlp(16),
            }),
            audio: Some(AudioConfig {
                processor: LogMelConfig::new(80, 1.0),
                encoder: WhisperConfig::tiny(),
                projector: ProjectorConfig::mlp(10),
            }),
            ..Self::of(DecoderConfig::tiny(vocab_size))
        }
    }

    /// A decoder without senses.
    pub fn of(decoder: DecoderConfig) -> Self {
        Self {
            vision: None,
            audio: None,
            decoder,
            positions: PositionScheme::Plain,
            source: None,
            adapters: None,
        }
    }

    /// `model_type` of the checkpoint that the policy comes from, by which adapters name modules.
    pub(crate) fn model_type(&self) -> &str {
        let source = self.source.as_ref();
        source.and_then(|source| source.config["model_type"].as_str()).unwrap_or("composed")
    }

    /// A policy with seeded weights; without eyes where these are an encoder of another crate.
    pub fn build(&self, seed: u64, device: &Device) -> Policy {
        self.build_with(&mut WeightInit::new(seed, device))
    }

    /// The image encoder of another crate, where the policy sees through one.
    pub(crate) fn own_image_encoder(&self) -> Option<&OwnImageEncoder> {
        match &self.vision.as_ref()?.encoder {
            ImageEncoderConfig::Own(own) => Some(own),
            _ => None,
        }
    }

    /// A policy with weights from `init`; without eyes where these are an encoder of another crate.
    pub(crate) fn build_with(&self, init: &mut WeightInit) -> Policy {
        let d_model = self.decoder.d_model;
        let image = self.vision.as_ref().and_then(|vision| {
            let encoder = vision.encoder.build(init)?;
            let projector = Projector::new(vision.projector, encoder.d_output(), d_model, init);
            Some(Tower { encoder, projector })
        });
        let audio = self.audio.as_ref().map(|audio| {
            let encoder = WhisperEncoder::new(&audio.encoder, init);
            let projector = Projector::new(audio.projector, encoder.d_output(), d_model, init);
            Tower { encoder, projector }
        });
        let mut policy = Policy::new(image, audio, Decoder::new(&self.decoder, init), self.positions);
        if let Some(adapters) = &self.adapters {
            adapters.attach(&mut policy, init);
        }
        policy
    }
}

/// A saved policy with its configuration and tokenizer, from a checkpoint folder.
///
/// # Errors
/// Names the file that is missing or does not fit.
pub fn load_policy(folder: &Path, device: &Device) -> Result<(Policy, PolicyConfig, TextSide), Error> {
    if !folder.is_dir() {
        return Err(Error::file(folder, "expected the folder of a checkpoint"));
    }
    let config = read_config(folder)?;
    if let Some(own) = config.own_image_encoder() {
        let reason = format!(
            "the policy sees through the image encoder {:?} of another program; expected one of Kyoka's",
            own.name
        );
        return Err(Error::file(folder, reason));
    }
    let text = text_side(folder)?;
    let policy =
        load_weights(&folder.join("model.safetensors"), config.build_with(&mut WeightInit::blank(device)))?;
    Ok((policy, config, text))
}

/// The configuration in a checkpoint of ours.
///
/// # Errors
/// Names the file, and the place in it that does not fit.
pub(crate) fn read_config(folder: &Path) -> Result<PolicyConfig, Error> {
    let path = folder.join("config.json");
    let text = fs::read(&path).map_err(|error| Error::file(&path, error))?;
    serde_json::from_slice(&text).map_err(|error| Error::file(&path, error))
}
