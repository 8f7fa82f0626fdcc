//! Hugging Face checkpoints as policies.

use std::{fs, path::Path};

use burn::tensor::Device;
use kyoka_fusion::{Decoder, DecoderConfig, ProjectorConfig};
use kyoka_image::{ImageProcessor, VitConfig, VitEncoder};
use kyoka_nn::{Activation, CheckpointFiles, EncoderLayerConfig, Fit, WeightInit, WeightRule};
use serde::Deserialize;

use crate::{Error, Policy, PolicyConfig, VisionConfig};

/// `config.json` of SmolVLM and Idefics3: what is needed of it.
#[derive(Debug, Deserialize)]
struct SmolVlm {
    text_config: LlamaText,
    vision_config: SiglipVision,
    scale_factor: usize,
    image_token_id: u32,
    #[serde(default)]
    tie_word_embeddings: bool,
}

#[derive(Debug, Deserialize)]
struct LlamaText {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: Option<usize>,
    rms_norm_eps: f64,
    max_position_embeddings: usize,
    rope_parameters: Option<RopeParameters>,
    rope_theta: Option<f64>,
    eos_token_id: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct RopeParameters {
    rope_theta: f64,
    rope_type: String,
}

#[derive(Debug, Deserialize)]
struct SiglipVision {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    image_size: usize,
    patch_size: usize,
    #[serde(default = "siglip_epsilon")]
    layer_norm_eps: f64,
    #[serde(default = "siglip_activation")]
    hidden_act: Activation,
}

fn siglip_epsilon() -> f64 {
    1e-6
}

fn siglip_activation() -> Activation {
    Activation::GeluPytorchTanh
}

impl SmolVlm {
    fn policy(&self) -> Result<PolicyConfig, String> {
        let Self { text_config: text, vision_config: vision, scale_factor, .. } = self;
        let rope = text.rope_parameters.as_ref();
        if let Some(rope) = rope.filter(|rope| rope.rope_type != "default") {
            return Err(format!(
                "text_config.rope_parameters.rope_type: expected default, got {}",
                rope.rope_type
            ));
        }
        let decoder = DecoderConfig {
            vocab_size: text.vocab_size,
            d_model: text.hidden_size,
            num_layers: text.num_hidden_layers,
            num_heads: text.num_attention_heads,
            num_kv_heads: text.num_key_value_heads,
            d_head: text.head_dim.unwrap_or(text.hidden_size / text.num_attention_heads.max(1)),
            d_hidden: text.intermediate_size,
            rope_theta: rope.map(|rope| rope.rope_theta).or(text.rope_theta).unwrap_or(10_000.0),
            norm_epsilon: text.rms_norm_eps,
            qkv_bias: false,
            tie_embeddings: self.tie_word_embeddings,
            max_positions: text.max_position_embeddings,
        };
        let side = vision.image_size;
        let layer = EncoderLayerConfig {
            d_model: vision.hidden_size,
            num_heads: vision.num_attention_heads,
            d_hidden: vision.intermediate_size,
            norm_epsilon: vision.layer_norm_eps,
            activation: vision.hidden_act,
        };
        let vision = VisionConfig {
            processor: ImageProcessor { height: side, width: side, ..ImageProcessor::default() },
            encoder: VitConfig {
                height: side,
                width: side,
                patch_size: vision.patch_size,
                num_layers: vision.num_hidden_layers,
                layer,
            },
            projector: ProjectorConfig {
                fold: scale_factor * scale_factor,
                grid_columns: Some(side / vision.patch_size.max(1)),
                linear: true,
            },
        };
        Ok(PolicyConfig { vision: Some(vision), audio: None, decoder })
    }
}

/// A policy from a Hugging Face folder.
pub struct Pretrained {
    /// The policy.
    pub policy: Policy,
    /// Its sizes.
    pub config: PolicyConfig,
    /// The token that stands for pictures.
    pub image_token_id: u32,
    /// The token that ends a completion.
    pub end_id: u32,
}

/// Whether a folder holds a Hugging Face checkpoint rather than one of ours.
pub(crate) fn is_pretrained(folder: &Path) -> bool {
    let text = fs::read_to_string(folder.join("config.json")).unwrap_or_default();
    serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|config| config["model_type"].is_string())
}

/// Reads `config.json` and the safetensors of a SmolVLM or Idefics3 checkpoint whose pictures are not split.
///
/// # Errors
/// Names the file, and lists every tensor that is missing, superfluous or misshapen.
pub fn load_pretrained(folder: &Path, device: &Device) -> Result<Pretrained, Error> {
    let path = folder.join("config.json");
    let text = fs::read(&path).map_err(|error| Error::file(&path, error))?;
    let json: serde_json::Value = serde_json::from_slice(&text).map_err(|error| Error::file(&path, error))?;
    let family = json["model_type"].as_str().unwrap_or("none");
    if !["smolvlm", "idefics3"].contains(&family) {
        let reason = format!("model_type: expected smolvlm or idefics3, got {family}");
        return Err(Error::file(&path, reason));
    }
    let family: SmolVlm = serde_json::from_value(json).map_err(|error| Error::file(&path, error))?;
    let config = family.policy().map_err(|reason| Error::file(&path, reason))?;
    let mut rules = Decoder::weight_rules(&config.decoder, "decoder.", "model.text_model.");
    let vision = config.vision.as_ref().expect("the family has a vision tower");
    rules.extend(VitEncoder::siglip_rules(&vision.encoder, "image.encoder.", "model.vision_model."));
    let connector = "model.connector.modality_projection.proj".to_owned();
    rules.extend(WeightRule::linear("image.projector.linear", &[connector], false));
    let files = CheckpointFiles::open(folder)?;
    let policy = files.load(config.build_with(WeightInit::blank(device)), Fit::exact(&rules))?;
    let end_id = family.text_config.eos_token_id.unwrap_or(2);
    Ok(Pretrained { policy, config, image_token_id: family.image_token_id, end_id })
}
