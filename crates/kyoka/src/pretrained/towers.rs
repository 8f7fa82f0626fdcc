//! Towers from checkpoints of their own: what composed policies are made of.

use std::path::Path;

use burn::tensor::Device;
use kyoka_audio::{
    WhisperConfig, WhisperEncoder,
    families::{AudioFamily, AudioTower},
};
use kyoka_core::nearest;
use kyoka_image::{
    ImageEncoder, ImageEncoderConfig, VitConfig, VitEncoder, VitPositions,
    families::{ClipVision, Dinov2, SiglipVision},
};
use kyoka_nn::{Fit, WeightInit, WeightRule};
use serde_json::Value;

use super::{
    families::Unused,
    json::{open_folder, parse},
};
use crate::Error;

/// A tower from a checkpoint of its own.
pub struct PretrainedTower<E, C> {
    /// The tower.
    pub encoder: E,
    /// Its sizes.
    pub config: C,
    /// How its parameters are made of the tensors on disk.
    pub rules: Vec<WeightRule>,
}

/// A vision tower's sizes and rules.
struct ImageTower {
    config: VitConfig,
    rules: Vec<WeightRule>,
    unused: Vec<Unused>,
}

const IMAGE_FAMILIES: [&str; 5] = ["dinov2", "siglip", "siglip_vision_model", "clip", "clip_vision_model"];

fn unknown(json: &Value, known: &[&str]) -> String {
    let name = json["model_type"].as_str().unwrap_or("nothing");
    let hint = nearest(name, known.iter().copied());
    let hint = hint.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    format!("model_type: expected one of {}, got {name}{hint}", known.join(", "))
}

fn first_found(on_disk: &dyn Fn(&str) -> bool, tensor: &str, prefixes: &[&'static str]) -> &'static str {
    prefixes.iter().copied().find(|prefix| on_disk(&format!("{prefix}{tensor}"))).unwrap_or(prefixes[0])
}

fn image_tower(json: &Value, on_disk: &dyn Fn(&str) -> bool, ours: &str) -> Result<ImageTower, String> {
    let vision = if json["vision_config"].is_object() { &json["vision_config"] } else { json };
    let parts =
        |names: &[&str]| names.iter().map(|name| Unused::Prefix((*name).to_owned())).collect::<Vec<_>>();
    let mut unused = Unused::tables();
    let (config, rules);
    match json["model_type"].as_str().unwrap_or_default() {
        "dinov2" => {
            config = parse::<Dinov2>(json)?.config()?;
            let theirs = first_found(on_disk, "embeddings.cls_token", &["", "dinov2."]);
            let split_gates = on_disk(&format!("{theirs}encoder.layer.0.mlp.gate_proj.weight"));
            rules = Dinov2::rules(&config, ours, theirs, split_gates);
            unused.extend(parts(&["embeddings.mask_token", "dinov2.embeddings.mask_token", "classifier."]));
        }
        "siglip" | "siglip_vision_model" => {
            config = parse::<SiglipVision>(vision)?.config(VitPositions::Interpolated)?;
            let theirs = first_found(
                on_disk,
                "embeddings.patch_embedding.weight",
                &["vision_model.", "", "model.vision_model."],
            );
            rules = SiglipVision::rules(&config, ours, theirs);
            unused.extend(parts(&["vision_model.head.", "head.", "text_model.", "logit_"]));
        }
        "clip" | "clip_vision_model" => {
            config = parse::<ClipVision>(vision)?.config()?;
            let theirs = first_found(
                on_disk,
                "embeddings.patch_embedding.weight",
                &["vision_model.", "", "model.vision_model."],
            );
            rules = ClipVision::rules(&config, ours, theirs);
            unused.extend(parts(&["text_model.", "logit_scale", "visual_projection.", "text_projection."]));
            unused.push(Unused::Prefix(format!("{theirs}post_layernorm.")));
        }
        _ => return Err(unknown(json, &IMAGE_FAMILIES)),
    }
    Ok(ImageTower { config, rules, unused })
}

/// A vision tower from a checkpoint of its own: DINOv2, SigLIP or CLIP.
///
/// # Errors
/// Names the file and the field, and lists every tensor that is missing, superfluous or misshapen.
pub fn load_image_encoder(
    folder: &Path,
    device: &Device,
) -> Result<PretrainedTower<ImageEncoder, ImageEncoderConfig>, Error> {
    let (path, json, files) = open_folder(folder)?;
    let tower = image_tower(&json, &|name| files.info(name).is_some(), "")
        .map_err(|reason| Error::file(&path, reason))?;
    let unused = |name: &str| tower.unused.iter().any(|part| part.matches(name));
    let blank = ImageEncoder::Vit(VitEncoder::new(&tower.config, &mut WeightInit::blank(device)));
    let config = ImageEncoderConfig::Vit(tower.config);
    let encoder = files.load(blank, Fit { unused: &unused, ..Fit::exact(&tower.rules) })?;
    Ok(PretrainedTower { encoder, config, rules: tower.rules })
}

/// Whisper's encoder from a checkpoint of Whisper; the decoder is left alone.
///
/// # Errors
/// Names the file and the field, and lists every tensor that is missing, superfluous or misshapen.
pub fn load_audio_encoder(
    folder: &Path,
    device: &Device,
) -> Result<PretrainedTower<WhisperEncoder, WhisperConfig>, Error> {
    let (path, json, files) = open_folder(folder)?;
    let fail = |reason: String| Error::file(&path, reason);
    if json["model_type"] != "whisper" {
        return Err(fail(unknown(&json, &["whisper"])));
    }
    let config =
        parse::<AudioTower>(&json).and_then(|tower| tower.config(AudioFamily::Whisper)).map_err(fail)?;
    let on_disk = |name: &str| files.info(name).is_some();
    let theirs = first_found(&on_disk, "conv1.weight", &["model.encoder.", "encoder.", ""]);
    let rules = AudioTower::rules(&config, AudioFamily::Whisper, "", theirs);
    let unused =
        |name: &str| ["model.decoder.", "decoder.", "proj_out."].iter().any(|part| name.starts_with(part));
    let blank = WhisperEncoder::new(&config, &mut WeightInit::blank(device));
    let encoder = files.load(blank, Fit { unused: &unused, ..Fit::exact(&rules) })?;
    Ok(PretrainedTower { encoder, config, rules })
}

/// Sizes of a vision tower, without its weights.
pub(crate) fn image_tower_config(folder: &Path) -> Result<VitConfig, Error> {
    let (path, json, files) = open_folder(folder)?;
    let tower = image_tower(&json, &|name| files.info(name).is_some(), "");
    Ok(tower.map_err(|reason| Error::file(&path, reason))?.config)
}

/// Sizes of Whisper's encoder, and the frames it was trained with.
pub(crate) fn audio_tower_config(folder: &Path) -> Result<(WhisperConfig, usize), Error> {
    let (path, json, _) = open_folder(folder)?;
    let fail = |reason: String| Error::file(&path, reason);
    if json["model_type"] != "whisper" {
        return Err(fail(unknown(&json, &["whisper"])));
    }
    let tower = parse::<AudioTower>(&json).map_err(fail)?;
    Ok((tower.config(AudioFamily::Whisper).map_err(fail)?, tower.num_frames()))
}
