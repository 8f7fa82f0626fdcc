//! CLIP's vision tower (arXiv 2103.00020).

use std::num::NonZeroUsize;

use kyoka_nn::{Activation, WeightRule};
use serde::Deserialize;

use super::{
    layer_norms, linears,
    siglip::{encoder_layer, layer_rules},
};
use crate::VitConfig;

/// `vision_config` of CLIP; absent fields have the values of `transformers`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct ClipVision {
    hidden_size: NonZeroUsize,
    intermediate_size: NonZeroUsize,
    num_hidden_layers: usize,
    num_attention_heads: NonZeroUsize,
    image_size: NonZeroUsize,
    patch_size: NonZeroUsize,
    layer_norm_eps: f64,
    hidden_act: Activation,
}

impl Default for ClipVision {
    fn default() -> Self {
        let size = |value| NonZeroUsize::new(value).expect("the defaults are not zero");
        Self {
            hidden_size: size(768),
            intermediate_size: size(3072),
            num_hidden_layers: 12,
            num_attention_heads: size(12),
            image_size: size(224),
            patch_size: size(32),
            layer_norm_eps: 1e-5,
            hidden_act: Activation::QuickGelu,
        }
    }
}

impl ClipVision {
    /// The tower's sizes: hidden states of the last layer, without the norm that CLIP puts on the class token alone.
    ///
    /// # Errors
    /// If heads or patches do not divide.
    pub fn config(&self) -> Result<VitConfig, String> {
        let sizes = [self.hidden_size, self.intermediate_size].map(NonZeroUsize::get);
        let layer =
            encoder_layer(sizes, self.num_attention_heads.get(), self.layer_norm_eps, self.hidden_act)?;
        let (side, patch) = (self.image_size.get(), self.patch_size.get());
        if !side.is_multiple_of(patch) {
            return Err(format!("image_size: expected a multiple of the patch {patch}, got {side}"));
        }
        let plain = VitConfig::new(side, patch, self.num_hidden_layers, layer);
        Ok(VitConfig { class_token: true, patch_bias: false, pre_norm: true, post_norm: false, ..plain })
    }

    /// How the parameters are made of the checkpoint's, whose names start with `theirs`; ours start with `ours`.
    pub fn rules(config: &VitConfig, ours: &str, theirs: &str) -> Vec<WeightRule> {
        let mut rules = linears(
            ours,
            theirs,
            0,
            &[("patch_embedding", &["embeddings.patch_embedding"], config.patch_bias)],
        );
        let same = |part: &str, name: &str| {
            WeightRule::same(format!("{ours}{part}"), format!("{theirs}embeddings.{name}"))
        };
        rules.push(same("class_embedding", "class_embedding"));
        rules.push(same("position_embedding", "position_embedding.weight"));
        // The name is spelled so in all checkpoints.
        rules.extend(layer_norms(ours, theirs, &[("pre_norm", "pre_layrnorm")]));
        for layer in 0..config.num_layers {
            let names = (format!("{ours}layers.{layer}."), format!("{theirs}encoder.layers.{layer}."));
            rules.extend(layer_rules(&names.0, &names.1, config.layer.d_model));
        }
        rules
    }
}
