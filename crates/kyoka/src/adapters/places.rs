//! Where adapters sit, and what is trained where they are.

use std::collections::BTreeMap;

use burn::module::Module;
use kyoka_core::{nearest, parameter_shapes};
use kyoka_nn::{Linear, Linears, LowRank, LowRankConfig, NamedLinears, WeightInit, WeightRule};
use serde::{Deserialize, Serialize};

use super::{
    canonical,
    saved::{Naming, SavedParameter, saved_parameters},
    settings::{LoraSettings, is_named},
};
use crate::Policy;

/// Where one adapter sits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterPlace {
    /// Path of the linear map here.
    pub linear: String,
    /// First of its columns.
    pub start: usize,
    /// Column after the last.
    pub end: usize,
    /// Name of the module in the checkpoint.
    pub module: String,
    /// Width between the two matrices.
    pub rank: usize,
    /// Its own alpha, where it is another than that of the settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
}

/// All adapters of a policy, and what else is its own beside the checkpoint it began as; part of its configuration.
///
/// The one list of what is trained: the optimizer, the plan and the export ask it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adapters {
    /// Settings.
    pub lora: LoraSettings,
    /// Places, by linear map and columns.
    pub places: Vec<AdapterPlace>,
    /// Parameters that lie beside the adapters whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub saved: Vec<SavedParameter>,
}

/// The linear modules of a policy: every part of every linear map under its name in the checkpoint, or without one under
/// its own.
pub(crate) fn modules(policy: &mut Policy, rules: &[WeightRule]) -> Vec<AdapterPlace> {
    let rules: BTreeMap<&str, &WeightRule> =
        rules.iter().map(|rule| (rule.parameter.as_str(), rule)).collect();
    let mut linears = NamedLinears::new();
    policy.linears("", &mut linears);
    let mut places = Vec::new();
    for (path, linear) in linears {
        let [_, width] = linear.weight.lazy_shape().dims();
        let rule = rules.get(format!("{path}.weight").as_str());
        let place = |start, end, module: &str| {
            let module = module.strip_suffix(".weight").unwrap_or(module).to_owned();
            AdapterPlace { linear: path.clone(), start, end, module, rank: 0, alpha: None }
        };
        match rule {
            Some(rule) if rule.tensors.len() > 1 => {
                let mut start = 0;
                for (name, rows) in rule.tensors.iter().zip(&rule.rows) {
                    places.push(place(start, start + rows, name));
                    start += rows;
                }
            }
            Some(rule) => places.push(place(0, width, &rule.tensors[0])),
            None => places.push(place(0, width, &path)),
        }
    }
    places
}

impl Adapters {
    /// Adapters on the modules that the settings name, and the parameters that are trained beside them.
    ///
    /// # Errors
    /// If a name is no module's, or a module would have an adapter and be trained whole.
    pub(crate) fn of(lora: LoraSettings, policy: &mut Policy, naming: Naming<'_>) -> Result<Self, String> {
        lora.check()?;
        let modules = modules(policy, naming.rules);
        let named = |target: &str, place: &AdapterPlace| {
            is_named(target, &place.module) || is_named(target, &canonical(naming.model_type, &place.module))
        };
        let is_there = |target: &&String| modules.iter().any(|place| named(target, place));
        if let Some(target) = lora.targets.iter().find(|target| !is_there(target)) {
            let ends = modules.iter().filter_map(|place| place.module.rsplit('.').next());
            let hint = match naming.knows(target) {
                true => Some(" that is a linear map of its own; modules_to_save trains it whole".to_owned()),
                false => nearest(target, ends).map(|near| format!("; did you mean {near}?")),
            };
            return Err(format!("targets: {target:?} names no module{}", hint.unwrap_or_default()));
        }
        let wanted = |place: &&AdapterPlace| lora.targets.iter().any(|target| named(target, place));
        let places: Vec<AdapterPlace> = modules.iter().filter(wanted).cloned().collect();
        let places = places.into_iter().map(|place| AdapterPlace { rank: lora.rank, ..place }).collect();
        let parameters: Vec<String> = parameter_shapes(policy).into_keys().collect();
        let saved = saved_parameters(&lora.modules_to_save, &parameters, naming)?;
        let adapters = Self { lora, places, saved };
        match adapters.adapted_and_saved() {
            Some((module, parameter)) => Err(format!(
                "modules_to_save: {parameter} would be trained whole, and {module} has an adapter"
            )),
            None => Ok(adapters),
        }
    }

    /// A module with an adapter whose parameters are trained whole besides.
    fn adapted_and_saved(&self) -> Option<(&str, &str)> {
        self.saved.iter().filter(|saved| saved.trained).find_map(|saved| {
            let inside =
                |linear: &str| saved.parameter.strip_prefix(linear).is_some_and(|rest| rest.starts_with('.'));
            let place = self.places.iter().find(|place| inside(&place.linear))?;
            Some((place.module.as_str(), saved.parameter.as_str()))
        })
    }

    /// The adapter's scale times its rank.
    pub(super) fn alpha_of(&self, place: &AdapterPlace) -> f64 {
        place.alpha.unwrap_or(self.lora.alpha)
    }

    /// Puts fresh adapters beside the linear maps.
    pub(crate) fn attach(&self, policy: &mut Policy, init: &mut WeightInit) {
        let mut linears = NamedLinears::new();
        policy.linears("", &mut linears);
        for (path, linear) in linears {
            let [d_input, _] = linear.weight.lazy_shape().dims();
            let places = self.places.iter().filter(|place| place.linear == path);
            linear.adapters = places
                .map(|place| {
                    let rank = place.rank;
                    let scale = self.alpha_of(place) / rank as f64;
                    let config = LowRankConfig { rank, scale, dropout: self.lora.dropout };
                    LowRank::new(config, d_input, place.start..place.end, init)
                })
                .collect();
        }
    }

    /// Whether a parameter is one of the frozen ones: everything but the adapters and what is trained whole beside them.
    pub(crate) fn freezes(&self, parameter: &str) -> bool {
        let trained = |saved: &SavedParameter| saved.trained && saved.parameter == parameter;
        !parameter.contains(".adapters.") && !self.saved.iter().any(trained)
    }

    /// Whether nothing below a path (`image.encoder`) is trained.
    pub(crate) fn freezes_all_of(&self, path: &str) -> bool {
        let below = |name: &str| name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
        let saved = self.saved.iter().filter(|saved| saved.trained);
        !self.places.iter().any(|place| below(&place.linear))
            && !saved.clone().any(|saved| below(&saved.parameter))
    }

    /// What keeps these adapters from being those that other settings ask for: names, what is there, what is asked. How
    /// much is dropped in training may differ.
    pub(crate) fn differences(&self, asked: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let modules = |adapters: &Self| -> BTreeMap<String, (usize, f64)> {
            let places = adapters.places.iter();
            places.map(|place| (place.module.clone(), (place.rank, adapters.alpha_of(place)))).collect()
        };
        let (there, here) = (modules(self), modules(asked));
        let without = |a: &BTreeMap<String, _>, b: &BTreeMap<String, _>| -> Vec<String> {
            a.keys().filter(|name| !b.contains_key(*name)).cloned().collect()
        };
        for (names, where_) in [(without(&there, &here), "there"), (without(&here, &there), "asked for here")]
        {
            if let Some(first) = names.first() {
                found.push(format!("targets ({first}{} only {where_})", and_more(names.len())));
            }
        }
        let both = || there.iter().filter_map(|(name, there)| Some((name, there, here.get(name)?)));
        if let Some((name, there, here)) = both().find(|(_, there, here)| there.0 != here.0) {
            found.push(format!("rank ({} there, {} here, at {name})", there.0, here.0));
        }
        let scale = |(rank, alpha): &(usize, f64)| alpha / *rank as f64;
        let unlike = |there: &(usize, f64), here: &(usize, f64)| {
            there.0 == here.0 && (scale(there) - scale(here)).abs() > 1e-9 * scale(there).abs()
        };
        if let Some((name, there, here)) = both().find(|(_, there, here)| unlike(there, here)) {
            found.push(format!("alpha ({} there, {} here, at {name})", there.1, here.1));
        }
        let saved = |adapters: &Self| -> Vec<String> {
            let saved = adapters.saved.iter().filter(|saved| saved.trained);
            saved.map(|saved| saved.parameter.clone()).collect()
        };
        let (there, here) = (saved(self), saved(asked));
        if there != here {
            let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(" ") };
            found.push(format!("modules_to_save ({} there, {} here)", list(&there), list(&here)));
        }
        found
    }
}

fn and_more(count: usize) -> String {
    if count > 1 { format!(" and {} more", count - 1) } else { String::new() }
}

/// The policy with its adapters folded into the weights; one without autodiff.
pub(crate) fn merged(mut policy: Policy) -> Policy {
    let mut linears = NamedLinears::new();
    policy.linears("", &mut linears);
    for (_, linear) in linears {
        let whole: Linear = linear.clone();
        *linear = whole.merged();
    }
    policy
}

/// The policy's device.
pub(super) fn device_of(policy: &Policy) -> burn::tensor::Device {
    policy.devices().into_iter().next().unwrap_or_default()
}
