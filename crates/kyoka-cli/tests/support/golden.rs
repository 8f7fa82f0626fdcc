//! Runs over the tiny checkpoints of the parity cases.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kyoka/tests/golden").join(name)
}

pub fn kyoka(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kyoka")).args(arguments).current_dir(folder).output().unwrap()
}

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// How checkpoints with towers preprocess; the golden ones come without.
pub const PROCESSORS: [(&str, &str); 6] = [
    ("smolvlm_tiles", IDEFICS3),
    ("idefics3_tiles", LARGER_TILES),
    ("qwen2_vl", QWEN2_VL),
    ("qwen2_5_vl", QWEN2_VL),
    (
        "qwen2_audio",
        // The tower has 16 positions: 32 frames.
        r#"{"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 8, "chunk_length": 1,
            "hop_length": 500, "n_fft": 1000}"#,
    ),
    (
        "qwen2_5_omni",
        r#"{"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 2, "temporal_patch_size": 2, "merge_size": 2,
            "min_pixels": 784, "max_pixels": 50176, "feature_extractor_type": "WhisperFeatureExtractor",
            "feature_size": 8, "chunk_length": 1}"#,
    ),
];
const LARGER_TILES: &str = r#"{"image_processor_type": "Idefics3ImageProcessor", "size": {"longest_edge": 30},
    "max_image_size": {"longest_edge": 15}}"#;
const IDEFICS3: &str = r#"{"image_processor_type": "Idefics3ImageProcessor", "size": {"longest_edge": 24},
    "max_image_size": {"longest_edge": 12}}"#;
const QWEN2_VL: &str = r#"{"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 2, "temporal_patch_size": 2,
    "merge_size": 2, "min_pixels": 784, "max_pixels": 50176}"#;

/// A checkpoint, and how it preprocesses, as a folder of its own.
pub fn with_processor(name: &str, processor: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(name)).unwrap().map(Result::unwrap) {
        if entry.path().is_file() {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    fs::write(folder.path().join("preprocessor_config.json"), processor).unwrap();
    mark_placeholders(folder.path());
    folder
}

/// Writes the tokens that stand for media as special ones, as tokenizers of the hub have them: the golden ones are words.
fn mark_placeholders(folder: &Path) {
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap()
    };
    let (config, mut tokenizer) = (read("config.json"), read("tokenizer.json"));
    let fields =
        [&config, &config["thinker_config"]].into_iter().filter_map(|fields| fields.as_object()).flatten();
    let senses = ["image", "audio", "video", "vision"];
    let named = fields
        .filter(|(name, _)| senses.iter().any(|sense| name.starts_with(sense)) && name.contains("_token_i"));
    for id in named.filter_map(|(_, id)| id.as_u64()) {
        let mark = format!("<|{id}|>");
        let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        vocabulary.remove(&format!("t{id}"));
        vocabulary.insert(mark.clone(), id.into());
        let token = serde_json::json!({
            "id": id, "content": mark, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true,
        });
        tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    }
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// A folder with two rows and a recipe over a tiny checkpoint; `model` are further lines of `[model]`.
pub fn setup(name: &str, rate: f64, model: &str) -> tempfile::TempDir {
    setup_of((&golden(name), 5), rate, model)
}

/// `word` is the number of the first of five words that stand for no medium.
pub fn setup_of((checkpoint, word): (&Path, usize), rate: f64, model: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let (second, last) = (word + 1, word + 4);
    let row = |id: usize| {
        format!(
            "{{\"id\": \"{id}\", \"prompt\": \"t{word} t{second} t{id}\", \"answer\": \"t{last}\", \
             \"completion\": \"t{id} t{last}\"}}\n"
        )
    };
    fs::write(data.join("rows.jsonl"), row(word + 2) + &row(word + 3)).unwrap();
    let recipe = format!(
        "[data]\ndataset = \"data\"\n[model]\ncheckpoint = {:?}\n{model}\n[sft]\ndata = \"rows\"\nsteps = 2\nbatch_size = 2\n\
         learning_rate = {{ peak = {rate} }}\n[sft.optimizer]\nweight_decay = 0.0\n[[reward]]\nkind = \"exact_answer\"\n\
         weight = 1.0\n[eval]\nsplits = [\"rows\"]\nmax_new_tokens = 3\n",
        checkpoint
    );
    fs::write(folder.path().join("recipe.toml"), recipe).unwrap();
    folder
}

pub fn train(folder: &Path) {
    let output = kyoka(folder, &["train", "recipe.toml", "--out", "run", "--quiet", "--device", "cpu"]);
    assert!(output.status.success(), "{}", text(&output));
}
