//! Text decoders of Hugging Face checkpoints: Llama, Qwen2 and Qwen3, alone and inside larger models.

use std::num::NonZeroUsize;

use kyoka_nn::{Activation, RopeScaling, yarn_attention_factor};
use serde::Deserialize;

use crate::DecoderConfig;

/// Which decoder; they differ in what a configuration leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextFamily {
    /// Llama and its many relatives.
    Llama,
    /// Qwen2: biases on queries, keys and values.
    Qwen2,
    /// Qwen3: norms on queries and keys.
    Qwen3,
}

/// `config.json` of a text decoder, or `text_config` inside that of a larger model.
#[derive(Debug, Clone, Deserialize)]
pub struct TextConfig {
    vocab_size: NonZeroUsize,
    hidden_size: NonZeroUsize,
    intermediate_size: NonZeroUsize,
    num_hidden_layers: NonZeroUsize,
    num_attention_heads: NonZeroUsize,
    num_key_value_heads: Option<NonZeroUsize>,
    head_dim: Option<NonZeroUsize>,
    #[serde(default = "default_epsilon")]
    rms_norm_eps: f64,
    max_position_embeddings: NonZeroUsize,
    rope_theta: Option<f64>,
    rope_parameters: Option<RopeParameters>,
    /// The older name; where both say something, this one counts, as in `transformers`.
    rope_scaling: Option<RopeParameters>,
    /// Whether the output uses the embedding; where absent, a larger model or the weights tell.
    pub tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default = "default_activation")]
    hidden_act: Activation,
    use_sliding_window: Option<bool>,
    #[serde(default = "default_window")]
    sliding_window: Option<usize>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
}

/// `sliding_window` of Qwen where a configuration has windows and leaves their width out.
fn default_window() -> Option<usize> {
    Some(4096)
}

/// `max_window_layers` of Qwen where it is left out.
const DEFAULT_WINDOW_LAYERS: usize = 28;

fn default_epsilon() -> f64 {
    1e-6
}

fn default_activation() -> Activation {
    Activation::Silu
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
    /// The older name of `rope_type`; some files have both.
    r#type: Option<String>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    attention_factor: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    truncate: Option<bool>,
    mrope_section: Option<[usize; 3]>,
}

impl RopeParameters {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn kind(&self) -> &str {
        self.rope_type.as_deref().or(self.r#type.as_deref()).unwrap_or("default")
    }
}

impl TextConfig {
    /// The decoder's sizes; `tied` says whether the output uses the embedding where the configuration does not.
    ///
    /// # Errors
    /// Names the field that is wrong or not supported.
    pub fn config(&self, family: TextFamily, tied: bool) -> Result<DecoderConfig, String> {
        let (d_model, num_heads) = (self.hidden_size.get(), self.num_attention_heads.get());
        let num_kv_heads = self.num_key_value_heads.map_or(num_heads, NonZeroUsize::get);
        if !num_heads.is_multiple_of(num_kv_heads) {
            let expected = format!("num_key_value_heads: expected a divisor of {num_heads} heads");
            return Err(format!("{expected}, got {num_kv_heads}"));
        }
        let d_head = self.head_dim.map_or(d_model / num_heads, NonZeroUsize::get);
        if d_head == 0 || !d_head.is_multiple_of(2) {
            return Err(format!("head_dim: expected an even width, got {d_head}"));
        }
        if self.hidden_act != Activation::Silu {
            return Err(format!("hidden_act: expected silu, got {:?}", self.hidden_act));
        }
        self.refuse_windows(family)?;
        let sections = self.sections(d_head)?;
        Ok(DecoderConfig {
            vocab_size: self.vocab_size.get(),
            d_model,
            num_layers: self.num_hidden_layers.get(),
            num_heads,
            num_kv_heads,
            d_head,
            d_hidden: self.intermediate_size.get(),
            rope_theta: self.rope_theta(family)?,
            rope_scaling: self.scaling()?,
            rope_sections: sections,
            norm_epsilon: self.rms_norm_eps,
            qkv_bias: self.attention_bias.unwrap_or(family == TextFamily::Qwen2),
            out_bias: family != TextFamily::Qwen2 && self.attention_bias.unwrap_or(false),
            mlp_bias: self.mlp_bias,
            qk_norm: family == TextFamily::Qwen3,
            tie_embeddings: self.tie_word_embeddings.unwrap_or(tied),
            max_positions: self.max_position_embeddings.get(),
        })
    }

    /// Refuses attention over a window that is shorter than the longest sequence, in any layer.
    fn refuse_windows(&self, family: TextFamily) -> Result<(), String> {
        let asked = family != TextFamily::Llama && self.use_sliding_window == Some(true);
        let Some(window) = self.sliding_window.filter(|_| asked) else { return Ok(()) };
        let (num_layers, longest) = (self.num_hidden_layers.get(), self.max_position_embeddings.get());
        let slides = match &self.layer_types {
            Some(kinds) => kinds.iter().any(|kind| kind == "sliding_attention"),
            None => self.max_window_layers.unwrap_or(DEFAULT_WINDOW_LAYERS) < num_layers,
        };
        if slides && window < longest {
            return Err(format!(
                "sliding_window: expected no layer with a window below the {longest} positions, got {window}"
            ));
        }
        Ok(())
    }

    /// What turns queries and keys.
    fn rope(&self) -> Option<&RopeParameters> {
        let says_something = |rope: &&RopeParameters| !rope.is_empty();
        self.rope_scaling.as_ref().filter(says_something).or(self.rope_parameters.as_ref())
    }

    fn rope_theta(&self, family: TextFamily) -> Result<f64, String> {
        let named = self.rope().and_then(|rope| rope.rope_theta).or(self.rope_theta);
        let sections = self.rope().is_some_and(|rope| rope.mrope_section.is_some());
        let usual = if family == TextFamily::Qwen2 && sections { 1_000_000.0 } else { 10_000.0 };
        let theta = named.unwrap_or(usual);
        if theta.is_finite() && theta > 0.0 {
            Ok(theta)
        } else {
            Err(format!("rope_theta: expected a number above 0, got {theta}"))
        }
    }

    fn sections(&self, d_head: usize) -> Result<Option<[usize; 3]>, String> {
        let sections = self.rope().and_then(|rope| rope.mrope_section);
        match sections {
            Some(sections) if sections.iter().sum::<usize>() != d_head / 2 => {
                Err(format!("mrope_section: expected a sum of {}, got {sections:?}", d_head / 2))
            }
            sections => Ok(sections),
        }
    }

    fn scaling(&self) -> Result<Option<RopeScaling>, String> {
        let Some(rope) = self.rope() else { return Ok(None) };
        let needed = |value: Option<f64>, field: &str| {
            let value = value.ok_or_else(|| format!("rope_parameters.{field}: missing"))?;
            let fits = value.is_finite() && value > 0.0;
            if fits {
                Ok(value)
            } else {
                Err(format!("rope_parameters.{field}: expected a number above 0, got {value}"))
            }
        };
        let context = self.max_position_embeddings.get() as f64;
        let original = rope.original_max_position_embeddings.unwrap_or(context);
        match rope.kind() {
            "default" | "mrope" => Ok(None),
            "linear" => Ok(Some(RopeScaling::Linear { factor: needed(rope.factor, "factor")? })),
            "llama3" => Ok(Some(RopeScaling::Llama3 {
                factor: needed(rope.factor, "factor")?,
                low_freq_factor: needed(rope.low_freq_factor, "low_freq_factor")?,
                high_freq_factor: needed(rope.high_freq_factor, "high_freq_factor")?,
                original_max_positions: needed(Some(original), "original_max_position_embeddings")?,
            })),
            "yarn" => {
                let original_max_positions = needed(Some(original), "original_max_position_embeddings")?;
                let factor = needed(rope.factor.or(Some(context / original)), "factor")?;
                let scales = rope.mscale.zip(rope.mscale_all_dim).filter(|&(a, b)| a != 0.0 && b != 0.0);
                Ok(Some(RopeScaling::Yarn {
                    factor,
                    attention_factor: rope
                        .attention_factor
                        .unwrap_or_else(|| yarn_attention_factor(factor, scales)),
                    beta_fast: rope.beta_fast.filter(|&beta| beta != 0.0).unwrap_or(32.0),
                    beta_slow: rope.beta_slow.filter(|&beta| beta != 0.0).unwrap_or(1.0),
                    original_max_positions,
                    truncate: rope.truncate.unwrap_or(true),
                }))
            }
            other => Err(format!(
                "rope_parameters.rope_type: expected default, linear, llama3 or yarn, got {other}"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: &str) -> Result<DecoderConfig, String> {
        let json = format!(
            "{{\"vocab_size\": 10, \"hidden_size\": 24, \"intermediate_size\": 8, \"num_hidden_layers\": 1, \
             \"num_attention_heads\": 3, \"max_position_embeddings\": 64{extra}}}"
        );
        let config: TextConfig = serde_json::from_str(&json).map_err(|error| error.to_string())?;
        config.config(TextFamily::Llama, true)
    }

    #[test]
    fn what_is_left_out_has_the_usual_value() {
        let config = parse("").unwrap();
        assert_eq!((config.d_head, config.num_kv_heads, config.rope_theta), (8, 3, 10_000.0));
        assert!(config.tie_embeddings && config.rope_scaling.is_none());
    }

    #[test]
    fn old_and_new_names_of_scalings_are_read() {
        let old = parse(", \"rope_theta\": 500.0, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.0}")
            .unwrap();
        assert_eq!(old.rope_scaling, Some(RopeScaling::Linear { factor: 2.0 }));
        let new = parse(
            ", \"rope_parameters\": {\"rope_theta\": 500.0, \"rope_type\": \"yarn\", \"factor\": 4.0, \
             \"original_max_position_embeddings\": 16}",
        );
        let Some(RopeScaling::Yarn { attention_factor, .. }) = new.unwrap().rope_scaling else {
            panic!("yarn")
        };
        assert!((attention_factor - (0.1 * 4_f64.ln() + 1.0)).abs() < 1e-12);
    }

    #[test]
    fn both_names_may_stand_side_by_side() {
        let linear = Some(RopeScaling::Linear { factor: 2.0 });
        for (extra, scaling, theta) in [
            (
                r#", "rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2.0}"#,
                linear,
                10_000.0,
            ),
            (r#", "rope_scaling": {"type": "mrope", "rope_type": "default"}"#, None, 10_000.0),
            (
                r#", "rope_scaling": {"type": "default", "rope_type": "linear", "factor": 2.0}"#,
                linear,
                10_000.0,
            ),
            (
                r#", "rope_scaling": null, "rope_parameters": {"rope_theta": 50.0}, "rope_theta": 60.0"#,
                None,
                50.0,
            ),
            (
                r#", "rope_scaling": {}, "rope_parameters": {"rope_type": "linear", "factor": 2.0}"#,
                linear,
                10_000.0,
            ),
            (
                r#", "rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_theta": 60.0,
                    "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}"#,
                linear,
                60.0,
            ),
        ] {
            let config = parse(extra).unwrap();
            assert_eq!((config.rope_scaling, config.rope_theta), (scaling, theta), "{extra}");
        }
    }

    #[test]
    fn a_window_counts_only_where_a_layer_uses_it() {
        let qwen = |extra: &str| {
            let json = format!(
                r#"{{"vocab_size": 10, "hidden_size": 24, "intermediate_size": 8, "num_hidden_layers": 2,
                    "num_attention_heads": 3, "max_position_embeddings": 64, "use_sliding_window": true{extra}}}"#
            );
            let config: TextConfig = serde_json::from_str(&json).unwrap();
            config.config(TextFamily::Qwen2, true).map(|_| ())
        };
        for extra in [
            "",
            r#", "sliding_window": 16, "max_window_layers": 2"#,
            r#", "sliding_window": null, "max_window_layers": 0"#,
            r#", "sliding_window": 64, "max_window_layers": 0"#,
            r#", "sliding_window": 16, "max_window_layers": 0, "layer_types": ["full_attention", "full_attention"]"#,
        ] {
            assert_eq!(qwen(extra), Ok(()), "{extra}");
        }
        for extra in [
            r#", "sliding_window": 16, "max_window_layers": 1"#,
            r#", "sliding_window": 16, "layer_types": ["full_attention", "sliding_attention"]"#,
        ] {
            assert!(qwen(extra).unwrap_err().contains("sliding_window"), "{extra}");
        }
        assert!(
            parse(r#", "use_sliding_window": true, "sliding_window": 16, "max_window_layers": 0"#).is_ok()
        );
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (extra, field) in [
            (", \"num_key_value_heads\": 2", "num_key_value_heads"),
            (", \"head_dim\": 3", "head_dim"),
            (", \"hidden_act\": \"gelu\"", "hidden_act"),
            (", \"rope_theta\": -1.0", "rope_theta"),
            (", \"rope_parameters\": {\"rope_type\": \"llama3\"}", "rope_parameters.factor"),
            (", \"rope_parameters\": {\"rope_type\": \"dynamic\"}", "rope_type"),
            (", \"rope_parameters\": {\"mrope_section\": [1, 1, 1]}", "mrope_section"),
            (", \"head_dim\": 0", "nonzero"),
        ] {
            let error = parse(extra).unwrap_err();
            assert!(error.contains(field), "{extra}: {error}");
        }
    }
}
