//! SigLIP (arXiv 2303.15343), alone and inside SmolVLM and Idefics3.

use std::num::NonZeroUsize;

use kyoka_nn::{Activation, EncoderLayerConfig, WeightRule};
use serde::Deserialize;

use super::{layer_norms, linears};
use crate::{VitConfig, VitPositions};

/// `vision_config` of SigLIP, SmolVLM and Idefics3; absent fields have the values of `transformers`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct SiglipVision {
    hidden_size: NonZeroUsize,
    intermediate_size: NonZeroUsize,
    num_hidden_layers: usize,
    num_attention_heads: NonZeroUsize,
    image_size: NonZeroUsize,
    patch_size: NonZeroUsize,
    layer_norm_eps: f64,
    hidden_act: Activation,
}

impl Default for SiglipVision {
    fn default() -> Self {
        let size = |value| NonZeroUsize::new(value).expect("the defaults are not zero");
        Self {
            hidden_size: size(768),
            intermediate_size: size(3072),
            num_hidden_layers: 12,
            num_attention_heads: size(12),
            image_size: size(224),
            patch_size: size(16),
            layer_norm_eps: 1e-6,
            hidden_act: Activation::GeluPytorchTanh,
        }
    }
}

impl SiglipVision {
    /// The tower's sizes.
    ///
    /// # Errors
    /// If heads or patches do not divide.
    pub fn config(&self, positions: VitPositions) -> Result<VitConfig, String> {
        let sizes = [self.hidden_size, self.intermediate_size].map(NonZeroUsize::get);
        let layer =
            encoder_layer(sizes, self.num_attention_heads.get(), self.layer_norm_eps, self.hidden_act)?;
        let (side, patch) = (self.image_size.get(), self.patch_size.get());
        if side < patch {
            return Err(format!("image_size: expected at least one patch of {patch}, got {side}"));
        }
        // A strip at the edge that fills no patch is not looked at.
        let side = side / patch * patch;
        Ok(VitConfig { positions, ..VitConfig::new(side, patch, self.num_hidden_layers, layer) })
    }

    /// How the parameters are made of the checkpoint's, whose names start with `theirs`; ours start with `ours`.
    pub fn rules(config: &VitConfig, ours: &str, theirs: &str) -> Vec<WeightRule> {
        let mut rules = linears(
            ours,
            theirs,
            0,
            &[("patch_embedding", &["embeddings.patch_embedding"], config.patch_bias)],
        );
        rules.push(WeightRule::same(
            format!("{ours}position_embedding"),
            format!("{theirs}embeddings.position_embedding.weight"),
        ));
        rules.extend(layer_norms(ours, theirs, &[("norm", "post_layernorm")]));
        for layer in 0..config.num_layers {
            let names = (format!("{ours}layers.{layer}."), format!("{theirs}encoder.layers.{layer}."));
            rules.extend(layer_rules(&names.0, &names.1, config.layer.d_model));
        }
        rules
    }
}

/// A plain layer whose heads divide its width.
pub(super) fn encoder_layer(
    [d_model, d_hidden]: [usize; 2],
    num_heads: usize,
    norm_epsilon: f64,
    activation: Activation,
) -> Result<EncoderLayerConfig, String> {
    if !d_model.is_multiple_of(num_heads) {
        return Err(format!(
            "num_attention_heads: expected a divisor of the width {d_model}, got {num_heads}"
        ));
    }
    Ok(EncoderLayerConfig {
        activation,
        ..EncoderLayerConfig::plain(d_model, num_heads, d_hidden, norm_epsilon)
    })
}

/// A layer as SigLIP and CLIP name it.
pub(super) fn layer_rules(ours: &str, theirs: &str, d_model: usize) -> Vec<WeightRule> {
    let mut rules = linears(
        ours,
        theirs,
        d_model,
        &[
            ("qkv", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], true),
            ("out", &["self_attn.out_proj"], true),
            ("mlp.fc1", &["mlp.fc1"], true),
            ("mlp.fc2", &["mlp.fc2"], true),
        ],
    );
    rules.extend(layer_norms(
        ours,
        theirs,
        &[("attention_norm", "layer_norm1"), ("mlp_norm", "layer_norm2")],
    ));
    rules
}
