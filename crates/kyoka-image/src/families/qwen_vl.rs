//! The vision towers of Qwen2-VL, Qwen2.5-VL and Qwen2.5-Omni.

use std::num::NonZeroUsize;

use kyoka_nn::{Activation, EncoderLayerConfig, NormKind, WeightRule};
use serde::Deserialize;

use super::{layer_norms, linears, siglip::encoder_layer};
use crate::QwenVisionConfig;

/// Rotary base of the towers where a checkpoint names none.
const ROPE_THETA: f64 = 10_000.0;
/// In the norms; no checkpoint names another.
const EPSILON: f64 = 1e-6;

#[derive(Debug, Clone, Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
}

fn rope_theta(parameters: Option<&RopeParameters>) -> f64 {
    parameters.and_then(|parameters| parameters.rope_theta).unwrap_or(ROPE_THETA)
}

fn size(value: usize) -> NonZeroUsize {
    NonZeroUsize::new(value).expect("the defaults are not zero")
}

/// `vision_config` of Qwen2-VL; absent fields have the values of `transformers`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Qwen2VlVision {
    depth: usize,
    embed_dim: NonZeroUsize,
    hidden_size: NonZeroUsize,
    hidden_act: Activation,
    mlp_ratio: f64,
    num_heads: NonZeroUsize,
    patch_size: NonZeroUsize,
    spatial_merge_size: NonZeroUsize,
    temporal_patch_size: NonZeroUsize,
    rope_parameters: Option<RopeParameters>,
}

impl Default for Qwen2VlVision {
    fn default() -> Self {
        Self {
            depth: 32,
            embed_dim: size(1280),
            hidden_size: size(3584),
            hidden_act: Activation::QuickGelu,
            mlp_ratio: 4.0,
            num_heads: size(16),
            patch_size: size(14),
            spatial_merge_size: size(2),
            temporal_patch_size: size(2),
            rope_parameters: None,
        }
    }
}

impl Qwen2VlVision {
    /// The tower's sizes.
    ///
    /// # Errors
    /// If the heads do not divide the width.
    pub fn config(&self) -> Result<QwenVisionConfig, String> {
        let d_model = self.embed_dim.get();
        let d_hidden = (d_model as f64 * self.mlp_ratio) as usize;
        let layer = encoder_layer([d_model, d_hidden], self.num_heads.get(), EPSILON, self.hidden_act)?;
        Ok(QwenVisionConfig {
            patch_size: self.patch_size.get(),
            temporal_patch_size: self.temporal_patch_size.get(),
            merge_size: self.spatial_merge_size.get(),
            num_layers: self.depth,
            layer,
            rope_theta: rope_theta(self.rope_parameters.as_ref()),
            window_size: None,
            full_attention_layers: Vec::new(),
        })
    }

    /// Width of the tokens that the merger gives.
    pub fn d_output(&self) -> usize {
        self.hidden_size.get()
    }

    /// How the parameters are made of the checkpoint's, whose names start with `theirs`; ours start with `ours`.
    pub fn rules(config: &QwenVisionConfig, ours: &str, theirs: &str) -> Vec<WeightRule> {
        let mut rules = linears(ours, theirs, 0, &[("patch_embedding", &["patch_embed.proj"], false)]);
        rules.extend(layer_norms(ours, theirs, &[("norm", "merger.ln_q")]));
        for layer in 0..config.num_layers {
            let (ours, theirs) = (format!("{ours}layers.{layer}."), format!("{theirs}blocks.{layer}."));
            rules.extend(linears(
                &ours,
                &theirs,
                0,
                &[
                    ("qkv", &["attn.qkv"], true),
                    ("out", &["attn.proj"], true),
                    ("mlp.fc1", &["mlp.fc1"], true),
                    ("mlp.fc2", &["mlp.fc2"], true),
                ],
            ));
            rules.extend(layer_norms(&ours, &theirs, &[("attention_norm", "norm1"), ("mlp_norm", "norm2")]));
        }
        rules
    }
}

/// `vision_config` of Qwen2.5-VL and Qwen2.5-Omni; absent fields have the values of `transformers`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Qwen25Vision {
    depth: usize,
    hidden_size: NonZeroUsize,
    intermediate_size: NonZeroUsize,
    hidden_act: Activation,
    num_heads: NonZeroUsize,
    patch_size: NonZeroUsize,
    spatial_merge_size: NonZeroUsize,
    temporal_patch_size: NonZeroUsize,
    tokens_per_second: f64,
    window_size: NonZeroUsize,
    out_hidden_size: NonZeroUsize,
    fullatt_block_indexes: Vec<usize>,
    rope_parameters: Option<RopeParameters>,
}

impl Default for Qwen25Vision {
    fn default() -> Self {
        Self {
            depth: 32,
            hidden_size: size(3584),
            intermediate_size: size(3420),
            hidden_act: Activation::Silu,
            num_heads: size(16),
            patch_size: size(14),
            spatial_merge_size: size(2),
            temporal_patch_size: size(2),
            tokens_per_second: 4.0,
            window_size: size(112),
            out_hidden_size: size(3584),
            fullatt_block_indexes: vec![7, 15, 23, 31],
            rope_parameters: None,
        }
    }
}

impl Qwen25Vision {
    /// The tower's sizes.
    ///
    /// # Errors
    /// If the heads do not divide the width, or the activation is not SiLU.
    pub fn config(&self) -> Result<QwenVisionConfig, String> {
        if self.hidden_act != Activation::Silu {
            return Err(format!("hidden_act: expected silu, got {:?}", self.hidden_act));
        }
        let sizes = [self.hidden_size, self.intermediate_size].map(NonZeroUsize::get);
        let layer = encoder_layer(sizes, self.num_heads.get(), EPSILON, self.hidden_act)?;
        let layer = EncoderLayerConfig { norm: NormKind::RootMeanSquare, gated: true, ..layer };
        Ok(QwenVisionConfig {
            patch_size: self.patch_size.get(),
            temporal_patch_size: self.temporal_patch_size.get(),
            merge_size: self.spatial_merge_size.get(),
            num_layers: self.depth,
            layer,
            rope_theta: rope_theta(self.rope_parameters.as_ref()),
            window_size: Some(self.window_size.get()),
            full_attention_layers: self.fullatt_block_indexes.clone(),
        })
    }

    /// Width of the tokens that the merger gives.
    pub fn d_output(&self) -> usize {
        self.out_hidden_size.get()
    }

    /// Positions a second of a clip (Qwen2.5-VL; Omni names them elsewhere).
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens_per_second
    }

    /// How the parameters are made of the checkpoint's, whose names start with `theirs`; ours start with `ours`. Queries,
    /// keys and values lie in one tensor (Qwen2.5-VL) or in three (`split_qkv`, Omni).
    pub fn rules(config: &QwenVisionConfig, ours: &str, theirs: &str, split_qkv: bool) -> Vec<WeightRule> {
        let mut rules = linears(ours, theirs, 0, &[("patch_embedding", &["patch_embed.proj"], false)]);
        let norm = |part: String, name: String| WeightRule::same(part + ".gamma", name + ".weight");
        rules.push(norm(format!("{ours}norm"), format!("{theirs}merger.ln_q")));
        let qkv: &[&str] = if split_qkv { &["attn.q", "attn.k", "attn.v"] } else { &["attn.qkv"] };
        for layer in 0..config.num_layers {
            let (ours, theirs) = (format!("{ours}layers.{layer}."), format!("{theirs}blocks.{layer}."));
            rules.extend(linears(
                &ours,
                &theirs,
                config.layer.d_model,
                &[("qkv", qkv, true), ("out", &["attn.proj"], true)],
            ));
            rules.extend(linears(
                &ours,
                &theirs,
                config.layer.d_hidden,
                &[
                    ("gated_mlp.gate_up", &["mlp.gate_proj", "mlp.up_proj"], true),
                    ("gated_mlp.down", &["mlp.down_proj"], true),
                ],
            ));
            rules.push(norm(format!("{ours}attention_norm"), format!("{theirs}norm1")));
            rules.push(norm(format!("{ours}mlp_norm"), format!("{theirs}norm2")));
        }
        rules
    }
}
