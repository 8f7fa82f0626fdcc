//! The registry of models: configurations, fresh weights, saved weights.

use std::{fs, path::Path};

use burn::tensor::Device;
use kyoka_audio::{LogMelConfig, WhisperConfig, WhisperEncoder};
use kyoka_core::ModalityEncoder;
use kyoka_fusion::{Decoder, DecoderConfig, MultimodalLm, Projector, ProjectorConfig, Tower};
use kyoka_image::{ImageProcessor, VitConfig, VitEncoder};
use kyoka_nn::WeightInit;
use kyoka_text::Tokenizer;
use kyoka_trainer::load_weights;
use serde::{Deserialize, Serialize};

use crate::Error;

/// A policy that sees through a vision transformer and hears through a Whisper encoder.
pub type Policy = MultimodalLm<VitEncoder, WhisperEncoder>;

/// The eye.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionConfig {
    /// Preprocessing.
    pub processor: ImageProcessor,
    /// Encoder.
    pub encoder: VitConfig,
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
                encoder: VitConfig::tiny(),
                projector: ProjectorConfig::mlp(16),
            }),
            audio: Some(AudioConfig {
                processor: LogMelConfig { num_mels: 80, window_s: 1.0 },
                encoder: WhisperConfig::tiny(),
                projector: ProjectorConfig::mlp(10),
            }),
            decoder: DecoderConfig::tiny(vocab_size),
        }
    }

    /// A policy with seeded weights.
    pub fn build(&self, seed: u64, device: &Device) -> Policy {
        self.build_with(WeightInit::new(seed, device))
    }

    /// A policy whose weights `init` gives.
    pub fn build_with(&self, mut init: WeightInit) -> Policy {
        let d_model = self.decoder.d_model;
        let image = self.vision.as_ref().map(|vision| {
            let encoder = VitEncoder::new(&vision.encoder, &mut init);
            let projector = Projector::new(vision.projector, encoder.d_output(), d_model, &mut init);
            Tower { encoder, projector }
        });
        let audio = self.audio.as_ref().map(|audio| {
            let encoder = WhisperEncoder::new(&audio.encoder, &mut init);
            let projector = Projector::new(audio.projector, encoder.d_output(), d_model, &mut init);
            Tower { encoder, projector }
        });
        Policy { image, audio, decoder: Decoder::new(&self.decoder, &mut init) }
    }
}

/// A saved policy with its configuration and tokenizer, from a checkpoint folder.
///
/// # Errors
/// Names the file that is missing or does not fit.
pub fn load_policy(folder: &Path, device: &Device) -> Result<(Policy, PolicyConfig, Tokenizer), Error> {
    if !folder.is_dir() {
        return Err(Error::file(folder, "expected the folder of a checkpoint"));
    }
    let path = folder.join("config.json");
    let text = fs::read(&path).map_err(|error| Error::file(&path, error))?;
    let config: PolicyConfig = serde_json::from_slice(&text).map_err(|error| Error::file(&path, error))?;
    let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json"))?;
    let policy = load_weights(&folder.join("model.safetensors"), config.build(0, device))?;
    Ok((policy, config, tokenizer))
}
