//! What a recipe says of adapters.

use serde::{Deserialize, Serialize};

/// Settings of LoRA (arXiv 2106.09685). Everything but the adapters keeps its weights, towers, projectors, embeddings and
/// norms too, as PEFT and TRL have it; what is trained whole beside them is named in
/// [`modules_to_save`](Self::modules_to_save).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraSettings {
    /// Width between the two matrices. Default 16.
    pub rank: usize,
    /// The change is multiplied by alpha over the rank. Default 32.
    pub alpha: f64,
    /// Share of the input dropped in SFT, preference and reward-model stages, in [0, 1); an RL stage trains the policy
    /// that samples and drops nothing. Default 0.
    pub dropout: f64,
    /// Modules that get an adapter: names or ends of names as the checkpoint has them, `*` for anything. Default the
    /// projections of attention and MLPs by the names that decoders give them; a tower that uses these names gets adapters
    /// too.
    pub targets: Vec<String>,
    /// Modules that are trained whole beside the adapters, and saved with them: names or ends of names as the checkpoint has
    /// them (`lm_head`, `merger`, `multi_modal_projector`), or parts of a policy (`image.projector`). Default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub modules_to_save: Vec<String>,
}

impl Default for LoraSettings {
    fn default() -> Self {
        let targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
        Self {
            rank: 16,
            alpha: 32.0,
            dropout: 0.0,
            targets: targets.map(str::to_owned).to_vec(),
            modules_to_save: Vec::new(),
        }
    }
}

impl LoraSettings {
    /// Refuses numbers out of range.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.rank == 0 {
            return Err("rank: expected at least 1, got 0".to_owned());
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(format!("alpha: expected a number above 0, got {}", self.alpha));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(format!("dropout: expected a number in [0, 1), got {}", self.dropout));
        }
        if self.targets.is_empty() {
            return Err("targets: expected at least one module, got none".to_owned());
        }
        Ok(())
    }
}

/// What becomes of the adapters that a start already has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ExistingAdapters {
    /// They are trained further.
    Continue,
    /// They are folded into the weights; with `lora`, fresh ones are put beside.
    Merge,
}

/// Whether a target is a module's name, the end of it, or a pattern for it.
pub(super) fn is_named(target: &str, module: &str) -> bool {
    if target.contains('*') {
        return matches(target, module);
    }
    module == target || module.strip_suffix(target).is_some_and(|rest| rest.ends_with('.'))
}

/// `*` stands for any text.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(first) else { return false };
    (0..=text.len()).filter(|&place| text.is_char_boundary(place)).any(|place| matches(rest, &text[place..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_names_ends_or_patterns() {
        let module = "model.layers.3.self_attn.q_proj";
        for target in ["q_proj", "self_attn.q_proj", module, "model.*.q_proj", "*.3.*"] {
            assert!(is_named(target, module), "{target}");
        }
        for target in ["proj", "k_proj", "model.*.k_proj", "*.4.*", ""] {
            assert!(!is_named(target, module), "{target}");
        }
    }
}
