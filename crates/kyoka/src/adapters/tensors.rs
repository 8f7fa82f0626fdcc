//! The tensors of an adapter in PEFT's layout, by what their names say.

use std::collections::BTreeMap;

use kyoka_nn::{CheckpointFiles, WeightRule};

use super::{PREFIX, canonical, head_module, peft_config::PeftConfig, saved::module_of, settings::is_named};

/// How the base model's tensors are named.
pub(super) struct Names {
    pub model_type: String,
    pub rules: Vec<WeightRule>,
}

impl Names {
    pub fn canonical(&self, module: &str) -> String {
        canonical(&self.model_type, module)
    }

    /// A tensor's name in `transformers`.
    pub fn tensor(&self, on_disk: &str) -> String {
        let kind = on_disk.rsplit('.').next().unwrap_or_default();
        format!("{}.{kind}", self.canonical(module_of(on_disk)))
    }

    pub fn head(&self) -> String {
        head_module(&self.model_type)
    }

    /// The embedding stands beside the last norm.
    pub fn embedding(&self) -> String {
        let norm = self.rules.iter().find(|rule| rule.parameter == "decoder.norm.gamma");
        let norm = norm.map(|rule| self.tensor(&rule.tensors[0])).unwrap_or_default();
        format!("{}embed_tokens", norm.strip_suffix("norm.weight").unwrap_or_default())
    }
}

/// Two tensors that belong together: `lora_A` and `lora_B`.
#[derive(Default)]
pub(super) struct Pair {
    pub a: Option<String>,
    pub b: Option<String>,
}

/// A tensor of the base model that an adapter brings with it.
pub(super) struct Whole {
    /// Its name in the file.
    pub name: String,
    /// Whether it is a copy of its own (`modules_to_save`); else it is the base model's tensor itself.
    pub copy: bool,
}

/// The tensors of an adapter by the modules they belong to, as `transformers` names them.
#[derive(Default)]
pub(super) struct Tensors {
    pub low_rank: BTreeMap<String, Pair>,
    pub embeddings: BTreeMap<String, Pair>,
    /// By name of the tensor.
    pub whole: BTreeMap<String, Whole>,
}

/// What the last parts of a tensor's name say; the name of the adapter may stand among them.
enum Role {
    A,
    B,
    EmbeddingA,
    EmbeddingB,
    Whole {
        kind: String,
        copy: bool,
    },
    /// The base model's own, which the copy beside it replaces.
    Original,
}

fn role(name: &str) -> Option<(String, Role)> {
    let name = name.strip_prefix(PREFIX).unwrap_or(name);
    let parts: Vec<&str> = name.split('.').collect();
    let words = [
        "lora_A",
        "lora_B",
        "lora_embedding_A",
        "lora_embedding_B",
        "modules_to_save",
        "base_layer",
        "original_module",
    ];
    let other = |part: &&str| {
        part.starts_with("lora_") || part.starts_with("trainable_tokens") || *part == "token_adapter"
    };
    let Some(place) = parts.iter().position(|part| words.contains(part)) else {
        let known = !parts.iter().any(other) && parts.len() > 1;
        let (kind, module) = parts.split_last()?;
        return known.then(|| (module.join("."), Role::Whole { kind: (*kind).to_owned(), copy: false }));
    };
    let (module, tail) = (parts[..place].join("."), &parts[place + 1..]);
    let last = tail.last().copied();
    let role = match (parts[place], tail.len()) {
        ("lora_A", 1 | 2) if last == Some("weight") => Role::A,
        ("lora_B", 1 | 2) if last == Some("weight") => Role::B,
        ("lora_embedding_A", 0 | 1) => Role::EmbeddingA,
        ("lora_embedding_B", 0 | 1) => Role::EmbeddingB,
        ("modules_to_save", 1 | 2) => Role::Whole { kind: last?.to_owned(), copy: true },
        ("base_layer", 1) => Role::Whole { kind: last?.to_owned(), copy: false },
        ("original_module", 1) => Role::Original,
        _ => return None,
    };
    Some((module, role))
}

/// Sorts the tensors of the file by what they are.
pub(super) fn sorted(
    files: &CheckpointFiles,
    settings: &PeftConfig,
    names: &Names,
) -> Result<Tensors, Vec<String>> {
    let (mut tensors, mut faults) = (Tensors::default(), Vec::new());
    for name in files.names() {
        let Some((module, role)) = role(name) else {
            faults.push(format!("{name}: expected a matrix of plain LoRA or a weight of the base model"));
            continue;
        };
        let listed = settings
            .lora
            .modules_to_save
            .iter()
            .any(|saved| is_named(saved, &module) || module.ends_with(saved.as_str()));
        let module = names.canonical(&module);
        let slot = match role {
            Role::Original => continue,
            Role::Whole { kind, copy } => {
                let whole = Whole { name: name.to_owned(), copy: copy || listed };
                tensors.whole.insert(format!("{module}.{kind}"), whole);
                continue;
            }
            Role::A => &mut tensors.low_rank.entry(module.clone()).or_default().a,
            Role::B => &mut tensors.low_rank.entry(module.clone()).or_default().b,
            Role::EmbeddingA => &mut tensors.embeddings.entry(module.clone()).or_default().a,
            Role::EmbeddingB => &mut tensors.embeddings.entry(module.clone()).or_default().b,
        };
        if let Some(other) = slot.replace(name.to_owned()) {
            faults.push(format!("{module}: expected one matrix, got {other} and {name}"));
        }
    }
    for (module, pair) in tensors.low_rank.iter().chain(&tensors.embeddings) {
        match (&pair.a, &pair.b) {
            (Some(a), None) => faults.push(format!("{module}: expected lora_A and lora_B, got {a} alone")),
            (None, Some(b)) => faults.push(format!("{module}: expected lora_A and lora_B, got {b} alone")),
            _ => {}
        }
    }
    if faults.is_empty() { Ok(tensors) } else { Err(faults) }
}

impl Tensors {
    /// Whether the adapter changes only one of an embedding and an output that are one matrix.
    pub fn untie(&self, files: &CheckpointFiles, settings: &PeftConfig, names: &Names) -> bool {
        let (head, embedding) = (names.head(), names.embedding());
        let weight = |module: &str| self.whole.get(&format!("{module}.weight"));
        let alone = match (weight(&embedding), weight(&head)) {
            (Some(a), Some(b)) => files.bytes(&a.name) != files.bytes(&b.name),
            (Some(one), None) | (None, Some(one)) => one.copy,
            (None, None) => false,
        };
        let low_rank = self.low_rank.contains_key(&head) || self.embeddings.contains_key(&embedding);
        (low_rank || alone) && !settings.keeps_tied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_a_tensor_is_with_or_without_the_name_of_its_adapter() {
        let kind = |name: &str| {
            let (module, role) = role(name)?;
            let word = match role {
                Role::A => "A".to_owned(),
                Role::B => "B".to_owned(),
                Role::EmbeddingA => "eA".to_owned(),
                Role::EmbeddingB => "eB".to_owned(),
                Role::Whole { kind, copy } => format!("{kind} {copy}"),
                Role::Original => "original".to_owned(),
            };
            Some((module, word))
        };
        for (name, module, word) in [
            ("base_model.model.a.q_proj.lora_A.weight", "a.q_proj", "A"),
            ("base_model.model.a.q_proj.lora_B.default.weight", "a.q_proj", "B"),
            ("a.q_proj.lora_B.weight", "a.q_proj", "B"),
            ("base_model.model.a.embed_tokens.lora_embedding_A", "a.embed_tokens", "eA"),
            ("base_model.model.a.embed_tokens.lora_embedding_B.default", "a.embed_tokens", "eB"),
            ("base_model.model.lm_head.weight", "lm_head", "weight false"),
            ("base_model.model.lm_head.base_layer.weight", "lm_head", "weight false"),
            ("base_model.model.lm_head.modules_to_save.default.weight", "lm_head", "weight true"),
            ("base_model.model.lm_head.modules_to_save.weight", "lm_head", "weight true"),
            ("base_model.model.lm_head.original_module.weight", "lm_head", "original"),
        ] {
            assert_eq!(kind(name), Some((module.to_owned(), word.to_owned())), "{name}");
        }
        for name in [
            "a.q_proj.lora_B.bias",
            "a.q_proj.lora_magnitude_vector.weight",
            "a.embed_tokens.token_adapter.trainable_tokens_delta",
            "weight",
        ] {
            assert_eq!(kind(name), None, "{name}");
        }
    }
}
