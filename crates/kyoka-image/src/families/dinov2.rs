//! DINOv2 (arXiv 2304.07193).

use std::num::NonZeroUsize;

use kyoka_nn::{Activation, EncoderLayerConfig, WeightRule};
use serde::Deserialize;

use super::{layer_norms, linears, siglip::encoder_layer};
use crate::VitConfig;

/// `config.json` of DINOv2; absent fields have the values of `transformers`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Dinov2 {
    hidden_size: NonZeroUsize,
    mlp_ratio: f64,
    num_hidden_layers: usize,
    num_attention_heads: NonZeroUsize,
    image_size: NonZeroUsize,
    patch_size: NonZeroUsize,
    layer_norm_eps: f64,
    hidden_act: Activation,
    use_swiglu_ffn: bool,
    qkv_bias: bool,
}

impl Default for Dinov2 {
    fn default() -> Self {
        let size = |value| NonZeroUsize::new(value).expect("the defaults are not zero");
        Self {
            hidden_size: size(768),
            mlp_ratio: 4.0,
            num_hidden_layers: 12,
            num_attention_heads: size(12),
            image_size: size(224),
            patch_size: size(14),
            layer_norm_eps: 1e-6,
            hidden_act: Activation::Gelu,
            use_swiglu_ffn: false,
            qkv_bias: true,
        }
    }
}

impl Dinov2 {
    /// The tower's sizes.
    ///
    /// # Errors
    /// If heads or patches do not divide.
    pub fn config(&self) -> Result<VitConfig, String> {
        let d_model = self.hidden_size.get();
        let d_hidden = self.d_hidden(d_model)?;
        let num_heads = self.num_attention_heads.get();
        let layer = encoder_layer([d_model, d_hidden], num_heads, self.layer_norm_eps, self.hidden_act)?;
        let (gated, qkv_bias) = (self.use_swiglu_ffn, self.qkv_bias);
        let layer = EncoderLayerConfig { gated, qkv_bias, layer_scale: true, ..layer };
        let (side, patch) = (self.image_size.get(), self.patch_size.get());
        if side < patch {
            return Err(format!("image_size: expected at least one patch of {patch}, got {side}"));
        }
        let plain = VitConfig::new(side / patch * patch, patch, self.num_hidden_layers, layer);
        Ok(VitConfig { class_token: true, ..plain })
    }

    /// The gated MLP has two thirds of the width, rounded up to a multiple of 8.
    fn d_hidden(&self, d_model: usize) -> Result<usize, String> {
        let plain = (d_model as f64 * self.mlp_ratio) as usize;
        if !(self.mlp_ratio.is_finite() && plain > 0) {
            return Err(format!("mlp_ratio: expected a number above 0, got {}", self.mlp_ratio));
        }
        let gated = ((plain as f64 * 2.0 / 3.0) as usize).div_ceil(8) * 8;
        Ok(if self.use_swiglu_ffn { gated } else { plain })
    }

    /// How the parameters are made of the checkpoint's, whose names start with `theirs`; ours start with `ours`. The two
    /// matrices of a gated MLP lie in one tensor (`weights_in`) or in two (`split_gates`).
    pub fn rules(config: &VitConfig, ours: &str, theirs: &str, split_gates: bool) -> Vec<WeightRule> {
        let mut rules = linears(
            ours,
            theirs,
            0,
            &[("patch_embedding", &["embeddings.patch_embeddings.projection"], config.patch_bias)],
        );
        let same =
            |part: &str, name: &str| WeightRule::same(format!("{ours}{part}"), format!("{theirs}{name}"));
        rules.push(same("class_embedding", "embeddings.cls_token"));
        rules.push(same("position_embedding", "embeddings.position_embeddings"));
        rules.extend(layer_norms(ours, theirs, &[("norm", "layernorm")]));
        for layer in 0..config.num_layers {
            let (ours, theirs) =
                (format!("{ours}layers.{layer}."), format!("{theirs}encoder.layer.{layer}."));
            rules.extend(linears(&ours, &theirs, config.layer.d_model, attention(config.layer.qkv_bias)));
            rules.extend(linears(
                &ours,
                &theirs,
                config.layer.d_hidden,
                mlp(config.layer.gated, split_gates),
            ));
            rules.extend(layer_norms(&ours, &theirs, &[("attention_norm", "norm1"), ("mlp_norm", "norm2")]));
            for (part, name) in [("attention_scale", "layer_scale1"), ("mlp_scale", "layer_scale2")] {
                rules.push(WeightRule::same(format!("{ours}{part}"), format!("{theirs}{name}.lambda1")));
            }
        }
        rules
    }
}

type Linears = &'static [(&'static str, &'static [&'static str], bool)];

const QKV: &[&str] = &["attention.attention.query", "attention.attention.key", "attention.attention.value"];

fn attention(qkv_bias: bool) -> Linears {
    match qkv_bias {
        true => &[("qkv", QKV, true), ("out", &["attention.output.dense"], true)],
        false => &[("qkv", QKV, false), ("out", &["attention.output.dense"], true)],
    }
}

fn mlp(gated: bool, split_gates: bool) -> Linears {
    match (gated, split_gates) {
        (false, _) => &[("mlp.fc1", &["mlp.fc1"], true), ("mlp.fc2", &["mlp.fc2"], true)],
        (true, false) => &[
            ("gated_mlp.gate_up", &["mlp.weights_in"], true),
            ("gated_mlp.down", &["mlp.weights_out"], true),
        ],
        (true, true) => &[
            ("gated_mlp.gate_up", &["mlp.gate_proj", "mlp.up_proj"], true),
            ("gated_mlp.down", &["mlp.down_proj"], true),
        ],
    }
}
