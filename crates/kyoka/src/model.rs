//! Where a recipe's policy comes from: a named configuration, a Hugging Face checkpoint, or parts of several.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use kyoka_audio::{LogMelConfig, WhisperConfig};
use kyoka_core::ModalityEncoder;
use kyoka_fusion::{Decoder, DecoderConfig, Projector, ProjectorConfig, Tower};
use kyoka_image::{FixedSizeProcessor, ImageEncoderConfig, ImageProcessor, PixelScale};
use kyoka_nn::{CheckpointFiles, Fit, WeightInit, WeightRule};
use kyoka_text::{ChatTemplate, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::{
    AudioConfig, Error, LoraSettings, Policy, PolicyConfig, VisionConfig,
    adapters::{Adapters, ExistingAdapters},
    dataset_folder,
    doors::ImageEncoderDoor,
    hub::checkpoint_folder,
    own_image_encoder::OwnEncoderSettings,
    policy::Source,
    pretrained::{
        Described, audio_tower_config, describe, image_tower_config, load_audio_encoder, load_image_encoder,
        load_pretrained,
    },
    reading::Fault,
    text_side::SOURCE_FOLDER,
};

/// Where the policy comes from, and what of it is trained.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelSettings {
    /// Name of a configuration that is trained from scratch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// Folder of a run (its newest checkpoint) or of a checkpoint to start from; fresh weights if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
    /// Folder of a Hugging Face checkpoint, or its name on the hub, as those below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<PathBuf>,
    /// Folder of a Hugging Face text decoder that gets towers with fresh projectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder: Option<PathBuf>,
    /// Folder of a Hugging Face vision tower, beside a decoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<PathBuf>,
    /// Folder of a Whisper checkpoint whose encoder hears, beside a decoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<PathBuf>,
    /// An encoder of pictures that the program brings, with fresh weights, beside a config or a decoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_encoder: Option<OwnEncoderSettings>,
    /// Patches that make one token in a composed policy, a square number, default 16; positions of an own encoder that do,
    /// default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_fold: Option<usize>,
    /// Encoder positions that make one token in a composed policy. Default 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio_fold: Option<usize>,
    /// Side of the pictures of a composed policy or an own encoder in pixels. Default the tower's, or the configuration's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_side: Option<usize>,
    /// Seconds that sounds are padded or cut to in a composed policy. Default the tower's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio_window_s: Option<f64>,
    /// Parts that keep their weights: `decoder`, `image.encoder`, ..., or patterns of parameter names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<String>,
    /// Further ones in single stages: `sft`, `rl`, ...
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub freeze_in: BTreeMap<String, Vec<String>>,
    /// Folder of a PEFT adapter to go on with, on a checkpoint or a composed policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
    /// What becomes of the adapters that `start` or `adapter` has: `continue` or `merge`. Default `continue` where `lora`
    /// asks for the same or an `adapter` is named; else it must be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing_adapters: Option<ExistingAdapters>,
    /// Low-rank adapters; everything else keeps its weights but the modules it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraSettings>,
}

/// A policy's configuration and text side, before its weights are read.
pub(crate) struct Opened {
    pub config: PolicyConfig,
    pub tokenizer: Tokenizer,
    pub template: Option<ChatTemplate>,
    /// Written into every checkpoint, so that it can be used alone.
    pub files: Vec<(String, Vec<u8>)>,
    kind: Kind,
    /// Where the weights and adapters come from, where not from what `kind` says alone.
    pub(crate) beginning: Beginning,
}

/// Where weights and adapters come from, where not from the recipe's checkpoints alone.
#[derive(Default)]
pub(crate) enum Beginning {
    /// From the checkpoints.
    #[default]
    Checkpoints,
    /// An adapter in PEFT's layout stands beside them.
    Adapter {
        folder: PathBuf,
        /// Whether it is folded into the weights.
        merge: bool,
    },
    /// From a checkpoint of a run.
    Run {
        checkpoint: PathBuf,
        /// What its adapters are.
        adapters: Option<Adapters>,
        /// Whether they are folded into the weights.
        merge: bool,
    },
}

enum Kind {
    Fresh,
    Pretrained(PathBuf),
    Composed { decoder: PathBuf, image: Option<PathBuf>, audio: Option<PathBuf>, rules: Vec<WeightRule> },
}

/// Files of a Hugging Face folder besides its weights.
const SIDE_FILES: [&str; 13] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
];

impl ModelSettings {
    /// Refuses settings that contradict each other or have no effect.
    ///
    /// # Errors
    /// Names the setting.
    pub fn check(&self) -> Result<(), Fault> {
        let ways = [self.config.is_some(), self.checkpoint.is_some(), self.decoder.is_some()];
        let refused = |key: &str, reason: &str| Err(Fault::at(key, reason).below("model"));
        if ways.iter().filter(|&&way| way).count() != 1 {
            return Err(Fault::at("model", "expected one of config, checkpoint and decoder"));
        }
        let own = self.image_encoder.is_some();
        let composed = self.decoder.is_some();
        let misplaced = [
            ("image", self.image.is_some() && !composed, "a decoder"),
            ("audio", self.audio.is_some() && !composed, "a decoder"),
            (
                "image_encoder",
                own && self.checkpoint.is_some(),
                "a config or a decoder, a checkpoint has eyes",
            ),
            (
                "image_fold",
                self.image_fold.is_some() && self.image.is_none() && !own,
                "an image or an image_encoder",
            ),
            (
                "image_side",
                self.image_side.is_some() && self.image.is_none() && !own,
                "an image or an image_encoder",
            ),
            ("audio_fold", self.audio_fold.is_some() && self.audio.is_none(), "an audio"),
            ("audio_window_s", self.audio_window_s.is_some() && self.audio.is_none(), "an audio"),
            ("adapter", self.adapter.is_some() && self.config.is_some(), "a checkpoint or a decoder"),
        ];
        if let Some((key, _, beside)) = misplaced.into_iter().find(|(_, misplaced, _)| *misplaced) {
            return refused(key, &format!("it stands beside {beside}"));
        }
        if self.image.is_some() && own {
            return refused("image_encoder", "expected one of image and image_encoder, got both");
        }
        if self.adapter.is_some() && self.start.is_some() {
            return refused("adapter", "expected one of start and adapter, got both");
        }
        if self.existing_adapters.is_some() && self.adapter.is_none() && self.start.is_none() {
            return refused("existing_adapters", "expected a start or an adapter that has some");
        }
        if self.image_side == Some(0) {
            return refused("image_side", "expected at least 1 pixel, got 0");
        }
        Ok(())
    }

    /// Reads configuration and text side; `dataset` names the dataset whose tokenizer a policy from scratch uses.
    pub fn open(&self, dataset: &str, image_encoder: Option<&ImageEncoderDoor>) -> Result<Opened, Error> {
        let fail = |reason: String| Error::Recipe { name: "model".to_owned(), reason };
        if self.config.is_none() {
            return self.fetched()?.open_folders(Path::new(""), image_encoder);
        }
        if dataset.is_empty() {
            let expected = "config: expected data.dataset beside it, a folder with the tokenizer, got none";
            return Err(fail(expected.to_owned()));
        }
        self.fetched()?.open_folders(&dataset_folder(dataset)?, image_encoder)
    }

    /// The same with folders in the places of names on the hub.
    fn fetched(&self) -> Result<Self, Error> {
        let mut settings = self.clone();
        let Self { checkpoint, decoder, image, audio, adapter, .. } = &mut settings;
        for place in [checkpoint, decoder, image, audio, adapter].into_iter().flatten() {
            *place = checkpoint_folder(place)?;
        }
        Ok(settings)
    }

    fn open_folders(
        &self,
        dataset: &Path,
        image_encoder: Option<&ImageEncoderDoor>,
    ) -> Result<Opened, Error> {
        let mut opened = match (&self.config, &self.checkpoint, &self.decoder) {
            (Some(name), _, _) => from_scratch(name, dataset)?,
            (_, Some(folder), _) => open_checkpoint(folder)?,
            (_, _, Some(decoder)) => self.compose(decoder)?,
            _ => unreachable!("one of the three was checked"),
        };
        if let Some(door) = image_encoder {
            opened.put_image_encoder(self, door)?;
        }
        opened.begin(self)?;
        Ok(opened)
    }

    fn compose(&self, decoder: &Path) -> Result<Opened, Error> {
        let Described { config, rules, json, .. } = describe(decoder)?;
        let mut config = PolicyConfig { source: None, ..config };
        if let Some(folder) = &self.image {
            config.vision = Some(self.vision(folder)?);
        }
        if let Some(folder) = &self.audio {
            config.audio = Some(self.hearing(folder)?);
        }
        let (tokenizer, ids) =
            Tokenizer::from_checkpoint(decoder)?.with_media_tokens(config.decoder.vocab_size);
        let mut json = json;
        json["image_token_id"] = ids[0].into();
        json["audio_token_id"] = ids[1].into();
        let mut files = side_files(decoder)?;
        let own = [
            ("config.json", serde_json::to_vec_pretty(&json).expect("it was JSON before")),
            ("tokenizer.json", tokenizer.to_json().into_bytes()),
        ];
        for (name, bytes) in own {
            let name = format!("{SOURCE_FOLDER}/{name}");
            files.retain(|(other, _)| *other != name);
            files.push((name, bytes));
        }
        let template = ChatTemplate::from_folder(decoder)?;
        let kind = Kind::Composed {
            decoder: decoder.to_owned(),
            image: self.image.clone(),
            audio: self.audio.clone(),
            rules,
        };
        Ok(Opened { config, tokenizer, template, files, kind, beginning: Beginning::default() })
    }

    fn vision(&self, folder: &Path) -> Result<VisionConfig, Error> {
        let encoder = image_tower_config(folder)?;
        let fold = self.image_fold.unwrap_or(16);
        let side = self.image_side.unwrap_or(224);
        let patch = encoder.patch_size;
        let columns = side / patch;
        if !side.is_multiple_of(patch)
            || fold.isqrt().pow(2) != fold
            || !columns.is_multiple_of(fold.isqrt().max(1))
        {
            let reason = format!(
                "image_side and image_fold: expected whole patches of {patch} that fold in squares, got {side} and {fold}"
            );
            return Err(Error::Recipe { name: "model".to_owned(), reason });
        }
        let PixelScale { image_mean, image_std, rescale_factor } =
            PixelScale::from_folder(folder).map_err(|error| Error::file(folder, error))?;
        if (rescale_factor * 255.0 - 1.0).abs() > 1e-6 {
            let reason = format!("rescale_factor: expected 1/255, got {rescale_factor}");
            return Err(Error::file(folder, reason));
        }
        let processor = ImageProcessor::FixedSize(FixedSizeProcessor {
            height: side,
            width: side,
            image_mean,
            image_std,
        });
        Ok(VisionConfig {
            processor,
            encoder: ImageEncoderConfig::Vit(encoder),
            projector: ProjectorConfig { grid_columns: Some(columns), ..ProjectorConfig::mlp(fold) },
        })
    }

    fn hearing(&self, folder: &Path) -> Result<AudioConfig, Error> {
        let (encoder, frames): (WhisperConfig, usize) = audio_tower_config(folder)?;
        let usual = LogMelConfig::new(encoder.num_mels, frames as f64 / 100.0);
        let processor = match self.audio_window_s {
            None => usual,
            Some(seconds) if seconds > 0.0 && seconds * 100.0 <= frames as f64 => {
                LogMelConfig::new(encoder.num_mels, seconds)
            }
            Some(seconds) => {
                let reason =
                    format!("audio_window_s: expected up to {}, got {seconds}", frames as f64 / 100.0);
                return Err(Error::Recipe { name: "model".to_owned(), reason });
            }
        };
        let projector = ProjectorConfig::mlp(self.audio_fold.unwrap_or(10));
        Ok(AudioConfig { processor, encoder, projector })
    }
}

fn from_scratch(name: &str, dataset: &Path) -> Result<Opened, Error> {
    let path = dataset.join("tokenizer.json");
    let json = fs::read(&path).map_err(|error| Error::file(&path, error))?;
    let tokenizer = Tokenizer::from_bytes(&json)?;
    let config = PolicyConfig::named(name, tokenizer.vocab_size())?;
    let files = vec![("tokenizer.json".to_owned(), json)];
    Ok(Opened {
        config,
        tokenizer,
        template: None,
        files,
        kind: Kind::Fresh,
        beginning: Beginning::default(),
    })
}

/// A Hugging Face folder.
pub(crate) fn open_checkpoint(folder: &Path) -> Result<Opened, Error> {
    let Described { mut config, json, layout, .. } = describe(folder)?;
    let tokenizer = Tokenizer::from_checkpoint(folder)?;
    tokenizer.check_fits(config.decoder.vocab_size)?;
    if let Some(vision) = &mut config.vision {
        vision.processor = ImageProcessor::from_folder(folder).map_err(|error| Error::file(folder, error))?;
        vision.encoder.check_processor(&vision.processor).map_err(|error| Error::file(folder, error))?;
    }
    if let Some(audio) = &mut config.audio {
        audio.processor = LogMelConfig::from_folder(folder).map_err(|error| Error::file(folder, error))?;
        audio.encoder.check_features(&audio.processor).map_err(|error| Error::file(folder, error))?;
    }
    let folder = fs::canonicalize(folder).map_err(|error| Error::file(folder, error))?;
    config.source = Some(Source { folder: folder.clone(), config: json });
    let mut files = side_files(&folder)?;
    let layout = serde_json::to_vec(&layout).expect("names and sizes serialise");
    files.push((format!("{SOURCE_FOLDER}/layout.json"), layout));
    let template = ChatTemplate::from_folder(&folder)?;
    Ok(Opened {
        config,
        tokenizer,
        template,
        files,
        kind: Kind::Pretrained(folder),
        beginning: Beginning::default(),
    })
}

fn side_files(folder: &Path) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let mut files = Vec::new();
    for name in SIDE_FILES {
        let path = folder.join(name);
        if path.is_file() {
            let bytes = fs::read(&path).map_err(|error| Error::file(&path, error))?;
            files.push((format!("{SOURCE_FOLDER}/{name}"), bytes));
        }
    }
    Ok(files)
}

impl Opened {
    /// How parameters are made of tensors on disk, where they are.
    pub(crate) fn rules(&self) -> Result<Vec<WeightRule>, Error> {
        match &self.kind {
            Kind::Fresh => Ok(Vec::new()),
            Kind::Pretrained(folder) => Ok(describe(folder)?.rules),
            Kind::Composed { rules, .. } => Ok(rules.clone()),
        }
    }

    /// The policy with the weights of its checkpoints and without adapters; what no checkpoint gives is drawn.
    pub(crate) fn of_checkpoints(&self, init: &mut WeightInit) -> Result<Policy, Error> {
        match &self.kind {
            Kind::Fresh => Ok(PolicyConfig { adapters: None, ..self.config.clone() }.build_with(init)),
            Kind::Pretrained(folder) => Ok(load_pretrained(folder, init.device())?.policy),
            Kind::Composed { decoder, image, audio, rules } => {
                self.composed([image, audio], (decoder, rules), init)
            }
        }
    }

    fn composed(
        &self,
        [image, audio]: [&Option<PathBuf>; 2],
        (folder, rules): (&Path, &[WeightRule]),
        init: &mut WeightInit,
    ) -> Result<Policy, Error> {
        let device = init.device().clone();
        let d_model = self.config.decoder.d_model;
        let image = match image.as_ref().zip(self.config.vision.as_ref()) {
            Some((folder, vision)) => {
                let encoder = load_image_encoder(folder, &device)?.encoder;
                let projector = Projector::new(vision.projector, encoder.d_output(), d_model, init);
                Some(Tower { encoder, projector })
            }
            None => None,
        };
        let audio = match audio.as_ref().zip(self.config.audio.as_ref()) {
            Some((folder, hearing)) => {
                let encoder = load_audio_encoder(folder, &device)?.encoder;
                let projector = Projector::new(hearing.projector, encoder.d_output(), d_model, init);
                Some(Tower { encoder, projector })
            }
            None => None,
        };
        // An adapter may untie what is one matrix on disk.
        let tie_embeddings = !rules.iter().any(|rule| rule.parameter.starts_with("decoder.head."));
        let on_disk = DecoderConfig { tie_embeddings, ..self.config.decoder.clone() };
        let blank = Decoder::new(&on_disk, &mut WeightInit::blank(&device));
        let own: Vec<WeightRule> = rules
            .iter()
            .filter_map(|rule| {
                let parameter = rule.parameter.strip_prefix("decoder.")?.to_owned();
                Some(WeightRule { parameter, ..rule.clone() })
            })
            .collect();
        let files = CheckpointFiles::open(folder)?;
        let unused = |_: &str| true;
        let decoder = files.load(blank, Fit { unused: &unused, ..Fit::exact(&own) })?;
        Ok(Policy::new(image, audio, decoder, self.config.positions))
    }
}
