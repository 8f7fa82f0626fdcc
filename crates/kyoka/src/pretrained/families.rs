//! The families of models with a decoder: what their `config.json` says, and where their weights lie.

use kyoka_audio::families::{AudioFamily, AudioTower};
use kyoka_core::nearest;
use kyoka_fusion::{
    Decoder, PositionScheme, ProjectorConfig,
    families::{TextConfig, TextFamily},
};
use kyoka_image::{
    ImageEncoderConfig, ImageProcessor, QwenVisionConfig, VitPositions,
    families::{Qwen2VlVision, Qwen25Vision, SiglipVision},
};
use kyoka_nn::WeightRule;
use serde_json::Value;

use super::json::{parse, parse_part, part, token_id};
use crate::{AudioConfig, PolicyConfig, VisionConfig};

/// The tokens that stand for media.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Placeholders {
    /// A picture's.
    pub image: Option<u32>,
    /// A sound's.
    pub audio: Option<u32>,
    /// A clip's.
    pub video: Option<u32>,
}

/// Everything that a configuration says of a checkpoint.
pub(crate) struct Family {
    pub config: PolicyConfig,
    pub rules: Vec<WeightRule>,
    /// Tensors that nobody reads.
    pub unused: Vec<Unused>,
    pub placeholders: Placeholders,
}

/// Names of tensors that nobody reads.
#[derive(Debug, Clone)]
pub(crate) enum Unused {
    /// Everything under a prefix.
    Prefix(String),
    /// Everything with an ending.
    Suffix(&'static str),
}

impl Unused {
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Prefix(prefix) => name.starts_with(prefix.as_str()),
            Self::Suffix(suffix) => name.ends_with(suffix),
        }
    }

    /// Tables that old checkpoints keep and everybody computes.
    pub fn tables() -> Vec<Self> {
        vec![Self::Suffix("rotary_emb.inv_freq"), Self::Suffix(".position_ids")]
    }
}

/// What is asked about the tensors on disk.
#[derive(Clone, Copy)]
pub(crate) struct OnDisk<'a> {
    /// Whether there is one of a name.
    pub has: &'a dyn Fn(&str) -> bool,
    /// Whether two hold the same.
    pub same: &'a dyn Fn(&str, &str) -> bool,
}

type ReadFamily = fn(&Value, OnDisk<'_>) -> Result<Family, String>;

const FAMILIES: [(&str, ReadFamily); 10] = [
    ("llama", |json, on_disk| text(json, TextFamily::Llama, on_disk)),
    ("qwen2", |json, on_disk| text(json, TextFamily::Qwen2, on_disk)),
    ("qwen3", |json, on_disk| text(json, TextFamily::Qwen3, on_disk)),
    ("smolvlm", idefics3),
    ("idefics3", idefics3),
    ("qwen2_vl", qwen2_vl),
    ("qwen2_5_vl", qwen2_vl),
    ("qwen2_audio", qwen2_audio),
    ("qwen2_5_omni", qwen2_5_omni),
    ("qwen2_5_omni_thinker", qwen2_5_omni),
];

/// Whether `model_type` names a family with a decoder.
pub fn is_known_family(model_type: &str) -> bool {
    FAMILIES.iter().any(|(name, _)| *name == model_type)
}

/// What a `config.json` says.
pub(crate) fn read_family(json: &Value, on_disk: OnDisk<'_>) -> Result<Family, String> {
    let name = json["model_type"].as_str().unwrap_or("nothing");
    let known = FAMILIES.map(|(name, _)| name);
    match FAMILIES.iter().find(|(family, _)| *family == name) {
        Some((_, read)) => read(json, on_disk),
        None => {
            let hint = nearest(name, known).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            Err(format!("model_type: expected one of {}, got {name}{hint}", known.join(", ")))
        }
    }
}

/// The first prefix under which the tensor is found, or else the first of all.
fn prefix(on_disk: OnDisk<'_>, tensor: &str, prefixes: &[&str]) -> String {
    let found = prefixes.iter().find(|prefix| (on_disk.has)(&format!("{prefix}{tensor}")));
    found.or(prefixes.first()).map(|prefix| (*prefix).to_owned()).unwrap_or_default()
}

/// A decoder with its rules; `whole` is the model's configuration, where untied heads are told as well.
struct Text {
    config: kyoka_fusion::DecoderConfig,
    rules: Vec<WeightRule>,
    unused: Vec<Unused>,
}

fn decoder(
    (text, whole): (&Value, &Value),
    family: TextFamily,
    on_disk: OnDisk<'_>,
    prefixes: &[&str],
    heads: &[&str],
) -> Result<Text, String> {
    let mut parsed: TextConfig = parse(text)?;
    parsed.tie_word_embeddings = whole["tie_word_embeddings"].as_bool().or(parsed.tie_word_embeddings);
    let head = prefix(on_disk, "lm_head.weight", heads) + "lm_head";
    let theirs = match prefixes.iter().any(|prefix| (on_disk.has)(&format!("{prefix}embed_tokens.weight"))) {
        true => prefix(on_disk, "embed_tokens.weight", prefixes),
        false => prefix(on_disk, "norm.weight", prefixes),
    };
    let (output, embedding) = (format!("{head}.weight"), format!("{theirs}embed_tokens.weight"));
    let on_disk_are = [&embedding, &output].map(|name| (on_disk.has)(name));
    if on_disk_are == [true, true] && !(on_disk.same)(&output, &embedding) {
        // Two matrices that differ are two, whatever the configuration says; so `transformers` has it.
        parsed.tie_word_embeddings = Some(false);
    }
    let config = parsed.config(family, on_disk_are != [true, true])?;
    let mut rules = Decoder::weight_rules(&config, "decoder.", &theirs, &head);
    match on_disk_are {
        // The one matrix lies there under the other name.
        [false, true] if config.tie_embeddings => {
            let tensor = rules.iter_mut().find(|rule| rule.tensors == [embedding.as_str()]);
            tensor.expect("the embedding has a rule").tensors = vec![output];
        }
        // It lies there twice, and is written twice.
        [true, true] if config.tie_embeddings => rules.push(WeightRule::same("decoder.embedding", output)),
        _ => {}
    }
    Ok(Text { config, rules, unused: Unused::tables() })
}

fn text(json: &Value, family: TextFamily, on_disk: OnDisk<'_>) -> Result<Family, String> {
    let Text { config, rules, unused } =
        decoder((json, json), family, on_disk, &["model.", ""], &["", "model."])?;
    let config = PolicyConfig { vision: None, audio: None, ..PolicyConfig::of(config) };
    Ok(Family { config, rules, unused, placeholders: Placeholders::default() })
}

fn idefics3(json: &Value, on_disk: OnDisk<'_>) -> Result<Family, String> {
    let vision: SiglipVision = parse_part(json, "vision_config")?;
    let text = part(json, "text_config")?;
    let prefixes = ["model.text_model.", "text_model."];
    let Text { config, mut rules, unused } =
        decoder((text, json), TextFamily::Llama, on_disk, &prefixes, &[""])
            .map_err(|reason| format!("text_config.{reason}"))?;
    let encoder =
        vision.config(VitPositions::Bucketed).map_err(|reason| format!("vision_config.{reason}"))?;
    let scale =
        json["scale_factor"].as_u64().filter(|&scale| (1..=64).contains(&scale)).unwrap_or(2) as usize;
    let [rows, columns] = encoder.grid();
    if !rows.is_multiple_of(scale) || !columns.is_multiple_of(scale) {
        return Err(format!("scale_factor: expected a divisor of a side of {rows} patches, got {scale}"));
    }
    let theirs =
        prefix(on_disk, "embeddings.patch_embedding.weight", &["model.vision_model.", "vision_model."]);
    rules.extend(SiglipVision::rules(&encoder, "image.encoder.", &theirs));
    let connector = "modality_projection.proj";
    let theirs = prefix(on_disk, &format!("{connector}.weight"), &["model.connector.", "connector."]);
    rules.extend(WeightRule::linear("image.projector.linear", &[theirs + connector], false));
    let processor = ImageProcessor::fixed_size(encoder.height, encoder.width);
    let projector =
        ProjectorConfig { grid_columns: Some(columns), ..ProjectorConfig::linear(scale * scale, false) };
    let vision = VisionConfig { processor, encoder: ImageEncoderConfig::Vit(encoder), projector };
    let placeholders =
        Placeholders { image: token_id(json, &["image_token_id"])?, ..Placeholders::default() };
    let config = PolicyConfig { vision: Some(vision), ..PolicyConfig::of(config) };
    Ok(Family { config, rules, unused, placeholders })
}

/// Rules of the merger's matrices.
fn merger(theirs: &str) -> Vec<WeightRule> {
    let linear =
        |ours: &str, name: &str| WeightRule::linear(ours, &[format!("{theirs}merger.mlp.{name}")], true);
    [linear("image.projector.mlp.fc1", "0"), linear("image.projector.mlp.fc2", "2")].concat()
}

/// The vision part of a Qwen model; its processor keeps the picture's shape.
fn qwen_vision(encoder: QwenVisionConfig) -> VisionConfig {
    let side = encoder.patch_size * encoder.merge_size;
    let fold = encoder.merge_size * encoder.merge_size;
    let d_hidden = Some(encoder.layer.d_model * fold);
    VisionConfig {
        processor: ImageProcessor::fixed_size(side, side),
        encoder: ImageEncoderConfig::Qwen(encoder),
        projector: ProjectorConfig { d_hidden, ..ProjectorConfig::mlp(fold) },
    }
}

const VISION_PREFIXES: [&str; 2] = ["visual.", "model.visual."];

fn qwen2_vl(json: &Value, on_disk: OnDisk<'_>) -> Result<Family, String> {
    // Checkpoints from before transformers 5 keep the decoder's fields at the top.
    let text = if json["text_config"].is_object() { &json["text_config"] } else { json };
    let Text { config, mut rules, unused } =
        decoder((text, json), TextFamily::Qwen2, on_disk, &["model.", "model.language_model."], &[""])
            .map_err(|reason| format!("text_config.{reason}"))?;
    let theirs = prefix(on_disk, "patch_embed.proj.weight", &VISION_PREFIXES);
    let in_vision = |reason: String| format!("vision_config.{reason}");
    let (encoder, d_output, ticks_per_second);
    if json["model_type"] == "qwen2_vl" {
        let vision: Qwen2VlVision = parse_part(json, "vision_config")?;
        (encoder, d_output, ticks_per_second) =
            (vision.config().map_err(in_vision)?, vision.d_output(), None);
        rules.extend(Qwen2VlVision::rules(&encoder, "image.encoder.", &theirs));
    } else {
        let vision: Qwen25Vision = parse_part(json, "vision_config")?;
        ticks_per_second = Some(vision.tokens_per_second());
        (encoder, d_output) = (vision.config().map_err(in_vision)?, vision.d_output());
        rules.extend(Qwen25Vision::rules(&encoder, "image.encoder.", &theirs, false));
    }
    same_width(d_output, config.d_model)?;
    rules.extend(merger(&theirs));
    let placeholders = Placeholders {
        image: token_id(json, &["image_token_id"])?,
        video: token_id(json, &["video_token_id"])?,
        audio: None,
    };
    let positions = PositionScheme::Grid { ticks_per_second, clips_advance: false };
    let config = PolicyConfig { vision: Some(qwen_vision(encoder)), positions, ..PolicyConfig::of(config) };
    Ok(Family { config, rules, unused, placeholders })
}

fn same_width(tower: usize, decoder: usize) -> Result<(), String> {
    if tower == decoder {
        return Ok(());
    }
    Err(format!("vision_config: expected tokens of the decoder's width {decoder}, got {tower}"))
}

fn qwen2_audio(json: &Value, on_disk: OnDisk<'_>) -> Result<Family, String> {
    let tower: AudioTower = parse_part(json, "audio_config")?;
    let text = part(json, "text_config")?;
    let prefixes = ["language_model.model.", "model.language_model."];
    let Text { config, mut rules, unused } =
        decoder((text, json), TextFamily::Qwen2, on_disk, &prefixes, &["language_model.", ""])
            .map_err(|reason| format!("text_config.{reason}"))?;
    let kind = AudioFamily::Qwen2Audio;
    let encoder = tower.config(kind).map_err(|reason| format!("audio_config.{reason}"))?;
    let theirs = prefix(on_disk, "conv1.weight", &["audio_tower.", "model.audio_tower."]);
    rules.extend(AudioTower::rules(&encoder, kind, "audio.encoder.", &theirs));
    let projector = "multi_modal_projector.linear";
    let name = prefix(on_disk, &format!("{projector}.weight"), &["", "model."]) + projector;
    rules.extend(WeightRule::linear("audio.projector.linear", &[name], true));
    let audio = AudioConfig {
        processor: AudioConfig::log_mel(encoder.num_mels, tower.num_frames()),
        encoder,
        projector: ProjectorConfig::linear(1, true),
    };
    let audio_token = token_id(json, &["audio_token_id", "audio_token_index"])?;
    let placeholders = Placeholders { audio: audio_token, ..Placeholders::default() };
    let config = PolicyConfig { audio: Some(audio), ..PolicyConfig::of(config) };
    Ok(Family { config, rules, unused, placeholders })
}

fn qwen2_5_omni(json: &Value, on_disk: OnDisk<'_>) -> Result<Family, String> {
    let whole = json["model_type"] == "qwen2_5_omni";
    let thinker = if whole { part(json, "thinker_config")? } else { json };
    let outer = prefix(on_disk, "model.embed_tokens.weight", &["", "thinker."]);
    let text = part(thinker, "text_config")?;
    let theirs = format!("{outer}model.");
    let Text { config, mut rules, mut unused } =
        decoder((text, thinker), TextFamily::Qwen2, on_disk, &[&theirs], &[&outer])
            .map_err(|reason| format!("text_config.{reason}"))?;
    let vision: Qwen25Vision = parse_part(thinker, "vision_config")?;
    let encoder = vision.config().map_err(|reason| format!("vision_config.{reason}"))?;
    same_width(vision.d_output(), config.d_model)?;
    let theirs = format!("{outer}visual.");
    rules.extend(Qwen25Vision::rules(&encoder, "image.encoder.", &theirs, true));
    rules.extend(merger(&theirs));
    let tower: AudioTower = parse_part(thinker, "audio_config")?;
    let kind = AudioFamily::Qwen25Omni;
    let hearing = tower.config(kind).map_err(|reason| format!("audio_config.{reason}"))?;
    same_width(tower.d_output(), config.d_model)?;
    rules.extend(AudioTower::rules(&hearing, kind, "audio.encoder.", &format!("{outer}audio_tower.")));
    let proj = format!("{outer}audio_tower.proj");
    rules.extend(WeightRule::linear("audio.projector.linear", &[proj], true));
    unused.push(Unused::Prefix(format!("{outer}audio_tower.audio_bos_eos_token.")));
    unused.extend(["talker.", "token2wav."].map(|part| Unused::Prefix(part.to_owned())));
    let audio = AudioConfig {
        processor: AudioConfig::log_mel(hearing.num_mels, tower.num_frames()),
        encoder: hearing,
        projector: ProjectorConfig::linear(1, true),
    };
    let placeholders = Placeholders {
        image: token_id(thinker, &["image_token_id", "image_token_index"])?,
        audio: token_id(thinker, &["audio_token_id", "audio_token_index"])?,
        video: token_id(thinker, &["video_token_id", "video_token_index"])?,
    };
    let ticks_per_second = Some(thinker["position_id_per_seconds"].as_f64().unwrap_or(25.0));
    let positions = PositionScheme::Grid { ticks_per_second, clips_advance: true };
    let (vision, audio) = (Some(qwen_vision(encoder)), Some(audio));
    let config = PolicyConfig { vision, audio, positions, ..PolicyConfig::of(config) };
    Ok(Family { config, rules, unused, placeholders })
}
