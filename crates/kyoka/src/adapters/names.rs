//! How `transformers` names the modules of a family, today and before: PEFT names adapters so.

/// Names that one part of a model has had: the first is that of `transformers` 5, which PEFT loads; the others stand on disk
/// or in older adapters.
type Part = &'static [&'static str];

const TEXT: &[Part] = &[&["model.", ""], &["lm_head.", "model.lm_head."]];
const IDEFICS3: &[Part] = &[
    &["model.text_model.", "text_model."],
    &["model.vision_model.", "vision_model."],
    &["model.connector.", "connector."],
    &["lm_head."],
];
const QWEN2_VL: &[Part] =
    &[&["model.language_model.", "model."], &["model.visual.", "visual."], &["lm_head."]];
const QWEN2_AUDIO: &[Part] = &[
    &["model.language_model.", "language_model.model."],
    &["model.audio_tower.", "audio_tower."],
    &["model.multi_modal_projector.", "multi_modal_projector."],
    &["lm_head.", "language_model.lm_head."],
];
const OMNI_THINKER: &[Part] = &[
    &["model.language_model.", "model.", "thinker.model.language_model.", "thinker.model."],
    &["model.visual.", "visual.", "thinker.model.visual.", "thinker.visual."],
    &["model.audio_tower.", "audio_tower.", "thinker.model.audio_tower.", "thinker.audio_tower."],
    &["lm_head.", "thinker.lm_head."],
];
/// The same inside of the model that also speaks.
const OMNI: &[Part] = &[
    &["thinker.model.language_model.", "thinker.model.", "model.language_model.", "model."],
    &["thinker.model.visual.", "thinker.visual.", "model.visual.", "visual."],
    &["thinker.model.audio_tower.", "thinker.audio_tower.", "model.audio_tower.", "audio_tower."],
    &["thinker.lm_head.", "lm_head."],
];

fn parts(model_type: &str) -> &'static [Part] {
    match model_type {
        "llama" | "qwen2" | "qwen3" => TEXT,
        "smolvlm" | "idefics3" => IDEFICS3,
        "qwen2_vl" | "qwen2_5_vl" => QWEN2_VL,
        "qwen2_audio" => QWEN2_AUDIO,
        "qwen2_5_omni_thinker" => OMNI_THINKER,
        "qwen2_5_omni" => OMNI,
        _ => &[],
    }
}

/// A module's path in `transformers` 5, from any name that it has had. Unknown families keep their names.
pub(crate) fn canonical(model_type: &str, module: &str) -> String {
    let dotted = format!("{module}.");
    let names = parts(model_type).iter().flat_map(|part| part.iter().map(|name| (part[0], *name)));
    let found = names.filter(|(_, name)| dotted.starts_with(name)).max_by_key(|(_, name)| name.len());
    let Some((first, name)) = found else { return module.to_owned() };
    let path = format!("{first}{}", &dotted[name.len()..]);
    path.trim_end_matches('.').to_owned()
}

/// The path of the output in `transformers` 5.
pub(crate) fn head_module(model_type: &str) -> String {
    canonical(model_type, "lm_head")
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        path::Path,
    };

    use kyoka_nn::CheckpointFiles;

    use super::*;
    use crate::pretrained::read_json;

    /// `transformers_names.json` holds what transformers 5.23 calls the parameters of the golden checkpoints.
    #[test]
    fn every_tensor_on_disk_has_its_name_in_transformers() {
        let theirs = include_str!("../../tests/names/transformers_names.json");
        let theirs: BTreeMap<String, BTreeSet<String>> = serde_json::from_str(theirs).unwrap();
        assert!(theirs.len() >= 10);
        for (name, theirs) in theirs {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(&name);
            let config = read_json(&folder.join("config.json")).unwrap();
            let family = config["model_type"].as_str().unwrap();
            let named = |tensor: &str| {
                let (module, kind) = tensor.rsplit_once('.').unwrap();
                format!("{}.{kind}", canonical(family, module))
            };
            let files = CheckpointFiles::open(&folder).unwrap();
            let used =
                files.names().filter(|name| !name.starts_with("talker.") && !name.starts_with("token2wav."));
            let ours: BTreeSet<String> = used.map(named).collect();
            assert_eq!(ours, theirs, "{name}");
            assert_eq!(theirs.iter().map(|tensor| named(tensor)).collect::<BTreeSet<_>>(), theirs, "{name}");
        }
    }

    #[test]
    fn every_name_that_a_module_has_had_is_that_of_transformers() {
        for (family, expected, names) in [
            ("llama", "model.layers.0.q_proj", &["model.layers.0.q_proj", "layers.0.q_proj"][..]),
            ("qwen3", "lm_head", &["lm_head", "model.lm_head"]),
            (
                "smolvlm",
                "model.text_model.layers.0.x",
                &["model.text_model.layers.0.x", "text_model.layers.0.x"],
            ),
            ("idefics3", "model.connector.modality_projection.proj", &["connector.modality_projection.proj"]),
            (
                "qwen2_vl",
                "model.language_model.layers.0.x",
                &["model.layers.0.x", "model.language_model.layers.0.x"],
            ),
            (
                "qwen2_5_vl",
                "model.visual.blocks.0.mlp.down_proj",
                &["visual.blocks.0.mlp.down_proj", "model.visual.blocks.0.mlp.down_proj"],
            ),
            ("qwen2_5_vl", "lm_head", &["lm_head"]),
            (
                "qwen2_audio",
                "model.language_model.layers.0.x",
                &["language_model.model.layers.0.x", "model.language_model.layers.0.x"],
            ),
            ("qwen2_audio", "lm_head", &["language_model.lm_head", "lm_head"]),
            (
                "qwen2_5_omni_thinker",
                "model.audio_tower.proj",
                &["audio_tower.proj", "model.audio_tower.proj", "thinker.audio_tower.proj"],
            ),
            (
                "qwen2_5_omni",
                "thinker.model.language_model.layers.0.x",
                &["thinker.model.layers.0.x", "model.layers.0.x"],
            ),
            ("qwen2_5_omni", "thinker.model.visual.merger.mlp.0", &["thinker.visual.merger.mlp.0"]),
            ("composed", "image.projector.mlp.fc1", &["image.projector.mlp.fc1"]),
        ] {
            for name in names {
                assert_eq!(canonical(family, name), expected, "{family} {name}");
            }
        }
    }
}
