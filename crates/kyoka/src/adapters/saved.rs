//! Which parameters the modules are that `modules_to_save` names.

use std::collections::BTreeSet;

use kyoka_core::nearest;
use kyoka_nn::WeightRule;
use serde::{Deserialize, Serialize};

use super::{canonical, head_module, settings::is_named};

/// A parameter that lies in the adapter's files whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedParameter {
    /// Its path here.
    pub parameter: String,
    /// Whether it is trained; else an adapter brought it, and it is given back as it came.
    pub trained: bool,
}

/// By what names a policy's modules are known: of its checkpoint, and of `transformers`.
#[derive(Clone, Copy)]
pub(crate) struct Naming<'a> {
    /// `model_type` of the checkpoint.
    pub model_type: &'a str,
    /// How parameters are made of the checkpoint's tensors.
    pub rules: &'a [WeightRule],
}

/// The module of a tensor: `lm_head` of `lm_head.weight`.
pub(super) fn module_of(tensor: &str) -> &str {
    tensor.rsplit_once('.').map_or(tensor, |(module, _)| module)
}

/// Whether a name stands for a module or for one that holds it.
fn covers(name: &str, module: &str) -> bool {
    let ends = module.match_indices('.').map(|(place, _)| place).chain([module.len()]);
    ends.into_iter().any(|end| is_named(name, &module[..end]))
}

impl Naming<'_> {
    /// Whether a name is that of any module, with an adapter's place or without; the output may be the embedding.
    pub(super) fn knows(&self, name: &str) -> bool {
        let tensors = self.rules.iter().flat_map(WeightRule::on_disk);
        let mut modules = tensors.map(module_of).chain(["lm_head"]);
        modules.any(|module| is_named(name, module) || is_named(name, &canonical(self.model_type, module)))
    }

    /// The names of the modules that each parameter's tensors stand in, one list a way to make the parameter.
    fn modules(&self, parameter: &str) -> Vec<Vec<[String; 2]>> {
        let both = |tensor: &str| {
            let module = module_of(tensor);
            [module.to_owned(), canonical(self.model_type, module)]
        };
        let rules = self.rules.iter().filter(|rule| rule.parameter == parameter);
        rules.map(|rule| rule.on_disk().map(both).collect()).collect()
    }
}

/// The parameters of the modules that are named.
///
/// # Errors
/// If a name is no module's, or is that of a part of what is one parameter here.
pub(super) fn saved_parameters(
    names: &[String],
    parameters: &[String],
    naming: Naming<'_>,
) -> Result<Vec<SavedParameter>, String> {
    let tied = !parameters.iter().any(|name| name.starts_with("decoder.head."));
    let (mut saved, mut used, mut known) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for parameter in parameters.iter().filter(|name| !name.contains(".adapters.")) {
        let mut ways = naming.modules(parameter);
        ways.push(vec![[parameter.clone(), parameter.clone()]]);
        if tied && parameter == "decoder.embedding" {
            ways.push(vec![["lm_head".to_owned(), head_module(naming.model_type)]]);
        }
        known.extend(ways.iter().flatten().map(|[on_disk, _]| on_disk.clone()));
        let hit = |module: &[String; 2]| {
            names.iter().filter(|name| module.iter().any(|path| covers(name, path))).collect::<Vec<_>>()
        };
        let hits: Vec<Vec<Vec<&String>>> = ways.iter().map(|way| way.iter().map(hit).collect()).collect();
        used.extend(hits.iter().flatten().flatten().copied());
        let whole = |way: &Vec<Vec<&String>>| way.iter().all(|names| !names.is_empty());
        if hits.iter().any(whole) {
            saved.push(SavedParameter { parameter: parameter.clone(), trained: true });
        } else if let Some(name) = hits.iter().flatten().flatten().next() {
            let together: Vec<&str> = ways[0].iter().map(|[on_disk, _]| on_disk.as_str()).collect();
            return Err(format!(
                "modules_to_save: {name:?} names a part of what is one parameter here: name {} together",
                together.join(", ")
            ));
        }
    }
    if let Some(name) = names.iter().find(|name| !used.contains(name)) {
        let hint = nearest(name, known.iter().map(String::as_str));
        let hint = hint.map(|near| format!("; the nearest is {near}")).unwrap_or_default();
        return Err(format!("modules_to_save: {name:?} names no module{hint}"));
    }
    Ok(saved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(names: &[&str]) -> Result<Vec<String>, String> {
        let rules = [
            WeightRule::linear(
                "decoder.layers.0.qkv",
                &["model.layers.0.q_proj", "model.layers.0.k_proj"].map(str::to_owned),
                false,
            ),
            WeightRule::linear("image.projector.mlp.fc1", &["visual.merger.mlp.0".to_owned()], true),
            vec![WeightRule::same("decoder.embedding", "model.embed_tokens.weight")],
        ]
        .concat();
        let parameters = rules.iter().map(|rule| rule.parameter.clone()).collect::<Vec<_>>();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let saved = saved_parameters(&names, &parameters, Naming { model_type: "qwen2_vl", rules: &rules })?;
        Ok(saved.into_iter().map(|saved| saved.parameter).collect())
    }

    #[test]
    fn modules_are_named_as_on_disk_as_in_transformers_or_as_here() {
        let projector = ["image.projector.mlp.fc1.weight", "image.projector.mlp.fc1.bias"];
        for name in ["merger", "visual.merger", "model.visual.merger.mlp.0", "image.projector", "*merger*"] {
            assert_eq!(saved(&[name]).unwrap(), projector, "{name}");
        }
        for name in ["embed_tokens", "lm_head", "decoder.embedding"] {
            assert_eq!(saved(&[name]).unwrap(), ["decoder.embedding"], "{name}");
        }
        assert_eq!(saved(&["q_proj", "k_proj"]).unwrap(), ["decoder.layers.0.qkv.weight"]);
        assert!(
            saved(&["q_proj"]).unwrap_err().contains("model.layers.0.q_proj, model.layers.0.k_proj together")
        );
        assert!(saved(&["mergr"]).unwrap_err().contains("names no module"));
    }
}
