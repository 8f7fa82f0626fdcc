//! The families that are tried: a tiny checkpoint of each, how it preprocesses, and rows that it can take.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// A family, or a policy of another make.
pub struct Subject {
    pub name: &'static str,
    /// Lines of `[model]`.
    pub model: String,
    /// Whether it is a Hugging Face checkpoint, which lies in `model` and can be exported.
    pub is_checkpoint: bool,
    /// Its placeholder for pictures, if it sees.
    image: Option<&'static str>,
    /// Its placeholder for sounds, if it hears.
    audio: Option<&'static str>,
    /// Folder of the golden checkpoint.
    checkpoint: Option<PathBuf>,
    /// Its `preprocessor_config.json`; the golden ones come without.
    processor: Option<&'static str>,
    /// Holds the tokenizer of a policy from scratch.
    tokenizer: Option<PathBuf>,
}

const IDEFICS3: &str = r#"{"image_processor_type": "Idefics3ImageProcessor", "size": {"longest_edge": 24},
    "max_image_size": {"longest_edge": 12}, "do_image_splitting": true}"#;
const QWEN2_VL: &str = r#"{"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 2, "temporal_patch_size": 2,
    "merge_size": 2, "min_pixels": 64, "max_pixels": 144}"#;
const LARGER_TILES: &str = r#"{"image_processor_type": "Idefics3ImageProcessor", "size": {"longest_edge": 30},
    "max_image_size": {"longest_edge": 15}, "do_image_splitting": true}"#;
const WHISPER: &str = r#"{"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 8, "chunk_length": 1,
    "hop_length": 500, "n_fft": 1000}"#;
const OMNI: &str = r#"{"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 2, "temporal_patch_size": 2,
    "merge_size": 2, "min_pixels": 64, "max_pixels": 144, "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 8, "chunk_length": 1}"#;

/// A conversation as words of the vocabulary; IMAGE and AUDIO stand for the family's placeholders.
const TEMPLATE: &str = "{% for message in messages %}{% if message.role == 'user' %}t13 {% else %}t14 {% endif %}\
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}\
{% if part.type == 'text' %}{{ part.text }}{% elif part.type == 'image' %} IMAGE {% else %} AUDIO {% endif %}\
{% endfor %}{% endif %} t15 {% endfor %}{% if add_generation_prompt %}t14 {% endif %}";

/// Everything that is tried.
pub fn subjects(root: &Path) -> Vec<Subject> {
    let golden = root.join("crates/kyoka/tests/golden");
    let family = |name: &'static str,
                  (image, audio): (Option<&'static str>, Option<&'static str>),
                  processor| Subject {
        name,
        model: "checkpoint = 'model'".to_owned(),
        is_checkpoint: true,
        image,
        audio,
        checkpoint: Some(golden.join(name)),
        processor,
        tokenizer: None,
    };
    let both = (Some("<image>"), Some("<audio>"));
    let mut all: Vec<Subject> = ["llama_linear", "llama_llama3", "llama_yarn", "qwen2_untied", "qwen3"]
        .map(|name| family(name, (None, None), None))
        .into();
    all.extend([
        family("smolvlm_tiles", (Some("t7"), None), Some(IDEFICS3)),
        family("idefics3_tiles", (Some("t62"), None), Some(LARGER_TILES)),
        family("qwen2_vl", (Some("t62 t60 t63"), None), Some(QWEN2_VL)),
        family("qwen2_5_vl", (Some("t6 t4 t7"), None), Some(QWEN2_VL)),
        family("qwen2_audio", (None, Some("t5")), Some(WHISPER)),
        family("qwen2_5_omni", (Some("t60 t58 t61"), Some("t62 t57 t63")), Some(OMNI)),
        family("qwen2_5_omni_thinker", (Some("t7 t5 t8"), Some("t9 t4 t10")), Some(OMNI)),
    ]);
    let [decoder, image, audio] = ["llama_yarn", "dinov2", "whisper_learned"].map(|name| golden.join(name));
    all.push(Subject {
        name: "composed",
        model: format!(
            "decoder = {decoder:?}\nimage = {image:?}\naudio = {audio:?}\nimage_side = 12\nimage_fold = 9\naudio_fold = 4\n"
        ),
        is_checkpoint: false,
        checkpoint: None,
        processor: None,
        ..family("composed", both, None)
    });
    all.push(Subject {
        name: "from_scratch",
        model: "config = 'tiny'".to_owned(),
        is_checkpoint: false,
        checkpoint: None,
        tokenizer: Some(root.join("crates/kyoka-text/tests/tiny_tokenizer.json")),
        ..family("from_scratch", both, None)
    });
    all
}

impl Subject {
    /// The senses that can be blanked.
    pub fn senses(&self) -> Vec<&'static str> {
        [("image", self.image), ("audio", self.audio)]
            .into_iter()
            .filter(|(_, mark)| mark.is_some())
            .map(|(name, _)| name)
            .collect()
    }

    /// Media of a question on the command line.
    pub fn media(&self) -> impl Iterator<Item = &'static str> {
        let image = self.image.map(|_| ["--image", "data/wide.png"]);
        let audio = self.audio.map(|_| ["--audio", "data/long.wav"]);
        [image, audio].into_iter().flatten().flatten()
    }

    /// Two turns of a conversation, each with what the family can take.
    pub fn chat_lines(&self) -> impl Iterator<Item = String> {
        let media = [("/image data/tall.png", self.image), ("/audio data/short.wav", self.audio)];
        let shown: Vec<String> =
            media.into_iter().filter(|(_, mark)| mark.is_some()).map(|(line, _)| line.to_owned()).collect();
        shown.into_iter().chain(["t20 t21".to_owned(), "t22".to_owned()])
    }

    /// Writes checkpoint, media and rows into `home`.
    pub fn write(&self, home: &Path) -> Result<()> {
        let data = home.join("data");
        fs::create_dir(&data)?;
        if let Some(checkpoint) = &self.checkpoint {
            self.write_checkpoint(checkpoint, &home.join("model"))?;
        }
        if let Some(tokenizer) = &self.tokenizer {
            fs::copy(tokenizer, data.join("tokenizer.json"))?;
        }
        for (name, width, height) in [("wide.png", 40, 24), ("tall.png", 17, 31), ("square.png", 12, 12)] {
            let shade = |x, y| image::Rgb([(x * 6) as u8, (y * 8) as u8, ((x + y) * 3) as u8]);
            image::RgbImage::from_fn(width, height, shade).save(data.join(name))?;
        }
        for (name, samples) in [("short.wav", 3_000), ("long.wav", 12_000)] {
            write_wav(&data.join(name), samples)?;
        }
        let rows = [("wide.png", "long.wav"), ("tall.png", "short.wav"), ("square.png", "long.wav")];
        let lines = |fields: &[(&str, &str)]| -> String {
            let row = |(number, media)| self.row(number, media, fields).to_string() + "\n";
            rows.into_iter().enumerate().map(row).collect()
        };
        let worked = lines(&[("answer", "t30"), ("completion", "t31 t30")]);
        fs::write(data.join("train.jsonl"), &worked)?;
        fs::write(data.join("test.jsonl"), &worked)?;
        fs::write(data.join("pairs.jsonl"), lines(&[("chosen", "t31 t30"), ("rejected", "t40")]))?;
        Ok(())
    }

    fn write_checkpoint(&self, from: &Path, to: &Path) -> Result<()> {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
            let path = entry?.path();
            if path.is_file() {
                fs::copy(&path, to.join(path.file_name().context("a file has a name")?))?;
            }
        }
        let [image, audio] = [self.image, self.audio].map(Option::unwrap_or_default);
        keep_apart(&to.join("tokenizer.json"), [image, audio])?;
        fs::write(to.join("chat_template.jinja"), TEMPLATE.replace("IMAGE", image).replace("AUDIO", audio))?;
        if let Some(processor) = self.processor {
            fs::write(to.join("preprocessor_config.json"), processor)?;
        }
        Ok(())
    }

    /// A row with the media that the family takes, and further fields.
    fn row(&self, number: usize, (image, audio): (&str, &str), fields: &[(&str, &str)]) -> Value {
        let marks = format!(
            "{}{}",
            if self.image.is_some() { "<image>" } else { "" },
            if self.audio.is_some() { "<audio>" } else { "" }
        );
        let mut row = json!({"id": format!("row-{number}"), "prompt": format!("{marks} t20 t2{number}")});
        if self.image.is_some() {
            row["images"] = json!([image]);
        }
        if self.audio.is_some() {
            row["audios"] = json!([audio]);
        }
        for (key, value) in fields {
            row[*key] = json!(value);
        }
        row
    }
}

/// Makes the words of the placeholders tokens of their own, as real tokenizers have them; those of the golden checkpoints
/// are words like others.
fn keep_apart(path: &Path, placeholders: [&str; 2]) -> Result<()> {
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(path)?)?;
    let added = tokenizer["added_tokens"].as_array_mut().context("a list of added tokens")?;
    for word in placeholders.iter().flat_map(|words| words.split_whitespace()) {
        let id: u32 = word.trim_start_matches('t').parse().with_context(|| word.to_owned())?;
        added.push(json!({"id": id, "content": word, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false}));
    }
    Ok(fs::write(path, tokenizer.to_string())?)
}

fn write_wav(path: &Path, samples: usize) -> Result<()> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec)?;
    for i in 0..samples {
        writer.write_sample(((i as f32 * 0.1).sin() * 9_000.0) as i16)?;
    }
    Ok(writer.finalize()?)
}
