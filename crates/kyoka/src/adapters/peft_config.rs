//! `adapter_config.json`: what of PEFT's settings is known to be computed rightly. Everything else is refused by name.

use kyoka_core::nearest;
use serde_json::{Value, json};

use super::settings::LoraSettings;

/// What `adapter_config.json` says.
#[derive(Debug)]
pub(super) struct PeftConfig {
    pub lora: LoraSettings,
    /// `lora_alpha`, before rank-stabilised scaling.
    alpha: f64,
    rank_stabilised: bool,
    alpha_pattern: Vec<(Pattern, f64)>,
    /// Whether an output that is tied to the embedding goes along with what happens to the embedding.
    pub keeps_tied: bool,
}

/// A key of `alpha_pattern`: names of modules or ends of names; PEFT takes regular expressions, of which these are some.
#[derive(Debug)]
struct Pattern {
    name: String,
    /// Whether it stands for the whole name only.
    whole: bool,
}

/// Settings that change nothing of what an adapter computes once its tensors are there.
const WITHOUT_EFFECT: [&str; 13] = [
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "task_type",
    "inference_mode",
    "peft_version",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "megatron_core",
    "qalora_group_size",
    "runtime_config",
    // Of matrices that lie on disk as [out, in] PEFT sets it back to false itself.
    "fan_in_fan_out",
];

/// Settings that are read.
const READ: [&str; 11] = [
    "peft_type",
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "init_lora_weights",
    "ensure_weight_tying",
];

/// Settings that change what an adapter computes, with the value at which it is plain LoRA. An absent one is `null`.
const PLAIN: [(&str, &str); 16] = [
    ("bias", "none"),
    ("use_dora", "false"),
    ("lora_bias", "false"),
    ("alora_invocation_tokens", "null"),
    ("trainable_token_indices", "null"),
    ("target_parameters", "null"),
    ("layer_replication", "null"),
    ("megatron_config", "null"),
    ("use_qalora", "false"),
    ("use_bdlora", "false"),
    ("loftq_config", "{}"),
    ("arrow_config", "null"),
    ("corda_config", "null"),
    ("lora_ga_config", "null"),
    // EVA draws the first A from activations and leaves the weights alone.
    ("eva_config", ""),
    ("kasa_config", "null"),
];

/// Ways to draw the first matrices that leave the weights of the base model alone.
const PLAIN_STARTS: [&str; 3] = ["gaussian", "orthogonal", "eva"];

impl PeftConfig {
    /// Reads the settings.
    ///
    /// # Errors
    /// Names the setting, what is expected, and what stands there.
    pub fn read(config: &Value) -> Result<Self, String> {
        let fields = config.as_object().ok_or("expected an object")?;
        if config["peft_type"] != "LORA" {
            return Err(format!("peft_type: expected \"LORA\", got {}", config["peft_type"]));
        }
        for (key, plain) in PLAIN.iter().filter(|(_, plain)| !plain.is_empty()) {
            refuse_unless(&config[*key], key, plain)?;
        }
        check_start(&config["init_lora_weights"])?;
        let known: Vec<&str> =
            READ.into_iter().chain(WITHOUT_EFFECT).chain(PLAIN.map(|(key, _)| key)).collect();
        for (key, value) in fields.iter().filter(|(key, _)| !known.contains(&key.as_str())) {
            if !is_nothing(value) {
                let near = nearest(key, known.iter().copied());
                let hint = near.map(|near| format!(" (nearest known: {near})")).unwrap_or_default();
                return Err(format!(
                    "{key}: expected none of that name, for what it does is not known{hint}, got {value}"
                ));
            }
        }
        let rank = config["r"].as_u64().filter(|&rank| rank > 0);
        let rank =
            rank.ok_or_else(|| format!("r: expected a rank of at least 1, got {}", config["r"]))? as usize;
        let alpha = config["lora_alpha"].as_f64();
        let alpha =
            alpha.ok_or_else(|| format!("lora_alpha: expected a number, got {}", config["lora_alpha"]))?;
        let rank_stabilised = config["use_rslora"].as_bool().unwrap_or(false);
        let lora = LoraSettings {
            rank,
            alpha: stabilised(alpha, rank, rank_stabilised),
            dropout: config["lora_dropout"].as_f64().unwrap_or(0.0),
            targets: names(&config["target_modules"], "target_modules")?,
            modules_to_save: names(&config["modules_to_save"], "modules_to_save")?,
        };
        lora.check()?;
        // The ranks are those of the tensors; the pattern only says how they came about.
        patterns(&config["rank_pattern"], "rank_pattern")?;
        let alpha_pattern = patterns(&config["alpha_pattern"], "alpha_pattern")?;
        let keeps_tied = config["ensure_weight_tying"].as_bool().unwrap_or(false);
        Ok(Self { lora, alpha, rank_stabilised, alpha_pattern, keeps_tied })
    }

    /// What the change of a module is multiplied by, times its rank.
    pub fn alpha_of(&self, module: &str, rank: usize) -> f64 {
        let own = self.alpha_pattern.iter().find(|(pattern, _)| pattern.matches(module));
        stabilised(own.map_or(self.alpha, |(_, alpha)| *alpha), rank, self.rank_stabilised)
    }
}

/// Rank-stabilised scaling divides by the root of the rank.
fn stabilised(alpha: f64, rank: usize, rank_stabilised: bool) -> f64 {
    if rank_stabilised { alpha * (rank as f64).sqrt() } else { alpha }
}

/// Nothing is asked for.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn refuse_unless(value: &Value, key: &str, plain: &str) -> Result<(), String> {
    if is_nothing(value) || *value == json!(plain) {
        return Ok(());
    }
    Err(format!("{key}: expected {plain}, which is plain LoRA, got {value}"))
}

/// Some ways to draw the first matrices also change the weights beside them, which the adapter does not hold.
fn check_start(value: &Value) -> Result<(), String> {
    match value {
        Value::Null | Value::Bool(_) => Ok(()),
        Value::String(name) if PLAIN_STARTS.contains(&name.to_lowercase().as_str()) => Ok(()),
        other => Err(format!(
            "init_lora_weights: expected true, false or one of {}, got {other}, which may change the weights of the base \
             model that the adapter does not hold; convert it in PEFT: save_pretrained(..., \
             path_initial_model_for_weight_conversion=...)",
            PLAIN_STARTS.join(", ")
        )),
    }
}

fn names(value: &Value, key: &str) -> Result<Vec<String>, String> {
    let fail = || format!("{key}: expected names of modules, got {value}");
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(one) => Ok(vec![one.clone()]),
        Value::Array(list) => {
            list.iter().map(|name| name.as_str().map(str::to_owned).ok_or_else(fail)).collect()
        }
        _ => Err(fail()),
    }
}

fn patterns(value: &Value, key: &str) -> Result<Vec<(Pattern, f64)>, String> {
    if is_nothing(value) {
        return Ok(Vec::new());
    }
    let fields = value.as_object().ok_or_else(|| format!("{key}: expected an object, got {value}"))?;
    let read = |(name, value): (&String, &Value)| {
        let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        let number = number.ok_or_else(|| format!("{key}.{name}: expected a number above 0, got {value}"))?;
        let pattern = Pattern::read(name).ok_or_else(|| {
            format!("{key}: expected names of modules or their ends, got the regular expression {name:?}")
        })?;
        Ok((pattern, number))
    };
    fields.iter().map(read).collect()
}

impl Pattern {
    /// `None` for a regular expression that is more than a name.
    fn read(key: &str) -> Option<Self> {
        let (name, whole) = key.strip_prefix('^').map_or((key, false), |name| (name, true));
        let name = name.strip_suffix('$').unwrap_or(name).replace("\\.", ".");
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
        (!name.is_empty() && name.chars().all(plain)).then_some(Self { name, whole })
    }

    fn matches(&self, module: &str) -> bool {
        let end = module.strip_suffix(self.name.as_str());
        end.is_some_and(|rest| rest.is_empty() || (!self.whole && rest.ends_with('.')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(extra: Value) -> Result<PeftConfig, String> {
        let mut config = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]});
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        PeftConfig::read(&config)
    }

    #[test]
    fn scales_follow_patterns_and_ranks() {
        assert_eq!(read(json!({"use_rslora": true})).unwrap().lora.alpha, 16.0);
        let config = read(json!({
            "use_rslora": true,
            "alpha_pattern": {"v_proj": 3, "^model.layers.1.k_proj": 5, "layers\\.0\\.o_proj$": 7}
        }));
        let config = config.unwrap();
        for (module, rank, alpha) in [
            ("model.layers.0.q_proj", 4, 16.0),
            ("model.layers.0.v_proj", 4, 6.0),
            ("model.layers.0.v_proj", 16, 12.0),
            ("model.layers.1.k_proj", 4, 10.0),
            ("x.model.layers.1.k_proj", 4, 16.0),
            ("model.layers.0.o_proj", 1, 7.0),
        ] {
            assert_eq!(config.alpha_of(module, rank), alpha, "{module}");
        }
    }

    #[test]
    fn what_is_not_known_to_be_plain_is_refused_by_name() {
        for (key, value) in [
            ("use_dora", json!(true)),
            ("bias", json!("all")),
            ("lora_bias", json!(true)),
            ("r", json!(0)),
            ("lora_alpha", json!("8")),
            ("init_lora_weights", json!("pissa")),
            ("init_lora_weights", json!("pissa_niter_4")),
            ("init_lora_weights", json!("olora")),
            ("init_lora_weights", json!("corda")),
            ("init_lora_weights", json!("loftq")),
            ("init_lora_weights", json!("lora_ga")),
            ("alora_invocation_tokens", json!([1, 2])),
            ("trainable_token_indices", json!([5])),
            ("target_parameters", json!(["experts.weight"])),
            ("layer_replication", json!([[0, 4]])),
            ("megatron_config", json!({"a": 1})),
            ("use_qalora", json!(true)),
            ("alpha_pattern", json!({"layers.[01].q_proj": 3})),
            ("alpha_pattern", json!({"q_proj": 0})),
            ("peft_type", json!("LOHA")),
            ("something_new", json!(true)),
            ("something_new", json!("x")),
        ] {
            let error = read(json!({key: value})).unwrap_err();
            assert!(error.starts_with(key) && error.contains("expected"), "{key} {value}: {error}");
        }
    }

    #[test]
    fn what_changes_nothing_is_taken() {
        let config = read(json!({
            "bias": "none", "modules_to_save": [], "rank_pattern": {"v_proj": 2}, "init_lora_weights": "gaussian",
            "fan_in_fan_out": true, "layers_to_transform": [1], "layers_pattern": "layers", "loftq_config": {},
            "eva_config": {"rho": 2.0}, "exclude_modules": ["lm_head"], "megatron_core": "megatron.core",
            "qalora_group_size": 16, "something_new": null, "another": false, "task_type": "CAUSAL_LM"
        }));
        assert!(config.unwrap().lora.modules_to_save.is_empty());
    }
}
