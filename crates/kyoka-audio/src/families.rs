//! Audio towers of Hugging Face checkpoints: their `config.json`, and where their weights lie.

use std::num::NonZeroUsize;

use kyoka_nn::{Activation, EncoderLayerConfig, WeightRule};
use serde::Deserialize;

use crate::{AudioSpan, WhisperConfig};

/// Which of Whisper's descendants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AudioFamily {
    /// Whisper's own encoder.
    Whisper,
    /// Qwen2-Audio's: padding unseen, features pooled.
    Qwen2Audio,
    /// Qwen2.5-Omni's: in chunks, features pooled.
    Qwen25Omni,
}

/// `config.json` of Whisper, `audio_config` of the others; absent fields have the values of `transformers`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct AudioTower {
    num_mel_bins: NonZeroUsize,
    d_model: NonZeroUsize,
    encoder_layers: usize,
    encoder_attention_heads: NonZeroUsize,
    encoder_ffn_dim: NonZeroUsize,
    max_source_positions: NonZeroUsize,
    n_window: NonZeroUsize,
    output_dim: NonZeroUsize,
    activation_function: Activation,
}

impl Default for AudioTower {
    fn default() -> Self {
        let size = |value| NonZeroUsize::new(value).expect("the defaults are not zero");
        Self {
            num_mel_bins: size(128),
            d_model: size(1280),
            encoder_layers: 32,
            encoder_attention_heads: size(20),
            encoder_ffn_dim: size(5120),
            max_source_positions: size(1500),
            n_window: size(100),
            output_dim: size(3584),
            activation_function: Activation::Gelu,
        }
    }
}

/// Added to the variance in the norms; no checkpoint names another.
const EPSILON: f64 = 1e-5;

impl AudioTower {
    /// The tower's sizes.
    ///
    /// # Errors
    /// If the heads do not divide the width.
    pub fn config(&self, family: AudioFamily) -> Result<WhisperConfig, String> {
        let (d_model, num_heads) = (self.d_model.get(), self.encoder_attention_heads.get());
        if !d_model.is_multiple_of(num_heads) {
            let expected = format!("encoder_attention_heads: expected a divisor of the width {d_model}");
            return Err(format!("{expected}, got {num_heads}"));
        }
        let layer = EncoderLayerConfig {
            activation: self.activation_function,
            key_bias: false,
            ..EncoderLayerConfig::plain(d_model, num_heads, self.encoder_ffn_dim.get(), EPSILON)
        };
        let span = match family {
            AudioFamily::Whisper => AudioSpan::Padded,
            AudioFamily::Qwen2Audio => AudioSpan::Valid,
            AudioFamily::Qwen25Omni => AudioSpan::Chunks { frames: 2 * self.n_window.get() },
        };
        // Omni computes its sinusoids; the others keep them among the weights.
        let max_positions = (family != AudioFamily::Qwen25Omni).then_some(self.max_source_positions.get());
        Ok(WhisperConfig {
            max_positions,
            span,
            pooled: family != AudioFamily::Whisper,
            ..WhisperConfig::new(self.num_mel_bins.get(), self.encoder_layers, layer)
        })
    }

    /// Width of the tokens that Qwen2.5-Omni's tower gives.
    pub fn d_output(&self) -> usize {
        self.output_dim.get()
    }

    /// Frames that Whisper and Qwen2-Audio expect.
    pub fn num_frames(&self) -> usize {
        2 * self.max_source_positions.get()
    }

    /// How the parameters are made of the checkpoint's, whose names start with `theirs`; ours start with `ours`.
    pub fn rules(config: &WhisperConfig, family: AudioFamily, ours: &str, theirs: &str) -> Vec<WeightRule> {
        let linear = |ours: String, theirs: String| WeightRule::linear(&ours, &[theirs], true);
        let norm = |ours: String, theirs: String| {
            [("gamma", "weight"), ("beta", "bias")]
                .map(|(part, name)| WeightRule::same(format!("{ours}.{part}"), format!("{theirs}.{name}")))
        };
        let mut rules = linear(format!("{ours}conv1"), format!("{theirs}conv1"));
        rules.extend(linear(format!("{ours}conv2"), format!("{theirs}conv2")));
        if config.max_positions.is_some() {
            let name = format!("{theirs}embed_positions.weight");
            rules.push(WeightRule::same(format!("{ours}position_embedding"), name));
        }
        let last = if family == AudioFamily::Qwen25Omni { "ln_post" } else { "layer_norm" };
        rules.extend(norm(format!("{ours}norm"), format!("{theirs}{last}")));
        for layer in 0..config.num_layers {
            let (ours, theirs) = (format!("{ours}layers.{layer}"), format!("{theirs}layers.{layer}"));
            rules.extend(queries_keys_values(&ours, &theirs, config.layer.d_model));
            for (part, name) in [("out", "self_attn.out_proj"), ("mlp.fc1", "fc1"), ("mlp.fc2", "fc2")] {
                rules.extend(linear(format!("{ours}.{part}"), format!("{theirs}.{name}")));
            }
            rules.extend(norm(format!("{ours}.attention_norm"), format!("{theirs}.self_attn_layer_norm")));
            rules.extend(norm(format!("{ours}.mlp_norm"), format!("{theirs}.final_layer_norm")));
        }
        rules
    }
}

/// Keys have no bias on disk: it would shift all scores of a query alike, which changes no attention.
fn queries_keys_values(ours: &str, theirs: &str, d_model: usize) -> Vec<WeightRule> {
    let names = ["q_proj", "k_proj", "v_proj"].map(|name| format!("{theirs}.self_attn.{name}"));
    let qkv = WeightRule::linear(&format!("{ours}.qkv"), &names, true);
    let mut rules: Vec<WeightRule> = qkv.into_iter().map(|rule| rule.with_rows(&[d_model; 3])).collect();
    rules[1].tensors[1] = WeightRule::ZEROS.to_owned();
    rules
}
