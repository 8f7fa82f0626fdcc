//! A program's own source of rows, whose pictures are bytes in memory and sounds are files.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, path::Path};

use kyoka::{
    PlanOptions, Quiet, Recipe, Run, TrainOptions,
    core::{MediaRef, Modality, Part, Sample},
    data::{RowSource, Rows, SourceError},
};

const RECIPE: &str = r#"
[data]
dataset = "FOLDER"
source = { kind = "custom", name = "memory", settings = { count = 4 } }
[model]
config = "tiny"
[rl]
data = "train"
steps = 2
prompts_per_step = 2
group_size = 2
sampling = { max_new_tokens = 6 }
learning_rate = { peak = 1e-4 }
[[reward]]
kind = "exact_answer"
weight = 1.0
[[reward]]
kind = "format"
weight = 0.1
[eval]
splits = ["train"]
max_new_tokens = 6
"#;

/// Rows of a picture, a sound and a question.
struct Memory {
    count: usize,
    picture: Vec<u8>,
    sound: std::path::PathBuf,
}

impl RowSource for Memory {
    fn rows(&self, split: &str) -> Result<Rows<Sample>, SourceError> {
        if split != "train" {
            return Err(format!("there is no {split}").into());
        }
        let row = |number: usize| {
            let name = format!("column picture, row {number}");
            let parts = vec![
                Part::Media(MediaRef::bytes(Modality::Image, name, self.picture.clone())),
                Part::Media(MediaRef::file(Modality::Audio, &self.sound)),
                Part::Text("How many?".to_owned()),
            ];
            Sample { id: "same".to_owned(), answer: Some("1".into()), ..Sample::asking(parts) }
        };
        Ok((0..self.count).map(row).collect::<Vec<_>>().into())
    }
}

/// A folder with what a policy from scratch and the rows need.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = include_bytes!("../../kyoka-text/tests/tiny_tokenizer.json");
    fs::write(folder.path().join("tokenizer.json"), tokenizer).unwrap();
    kyoka_testing::write_tone(&folder.path().join("tone.wav"), 0.3);
    kyoka_testing::write_grey_png(&folder.path().join("gradient.png"), 28, |x, y| (x * 9 + y) as u8);
    let recipe = RECIPE.replace("FOLDER", &folder.path().display().to_string());
    fs::write(folder.path().join("recipe.toml"), recipe).unwrap();
    folder
}

fn recipe(folder: &Path) -> Recipe {
    Recipe::named(&folder.join("recipe.toml").display().to_string()).unwrap()
}

/// A run that brings the source; its pictures are those of a file of now.
fn run(folder: &Path, recipe: Recipe, picture: &str) -> Run {
    let bytes = fs::read(folder.join(picture)).unwrap_or_else(|_| picture.as_bytes().to_vec());
    let sound = folder.join("tone.wav");
    Run::new(recipe).with_source("memory", move |settings| {
        let count = settings["count"].as_integer().ok_or("count: expected a number")?;
        Ok(Box::new(Memory { count: count as usize, picture: bytes.clone(), sound: sound.clone() }))
    })
}

fn options(folder: &Path, resume: bool) -> TrainOptions {
    let out = folder.join("run");
    let resume = resume.then(|| out.clone());
    TrainOptions { out: Some(out), resume, device: "cpu".to_owned(), ..TrainOptions::default() }
}

#[test]
fn rows_from_memory_train_are_planned_and_go_on() {
    let home = folder();
    let folder = home.path();
    let plan = run(folder, recipe(folder), "gradient.png").plan(&PlanOptions::default()).unwrap();
    assert!(plan.media_store_bytes > 28 * 28, "{}", plan.media_store_bytes);
    let train = |recipe: Recipe, picture: &str, resume: bool| {
        let run = run(folder, recipe, picture).with_options(options(folder, resume));
        run.train(&mut Quiet).map_err(|error| error.to_string())
    };
    assert_eq!(train(recipe(folder), "gradient.png", false).unwrap().summary.rl_steps, 2);
    let mut longer = recipe(folder);
    longer.set("rl.steps=3").unwrap();
    // Other bytes under the same name are other rows.
    kyoka_testing::write_grey_png(&folder.join("other.png"), 28, |_, _| 7);
    let said = train(longer.clone(), "other.png", true).err().unwrap();
    assert!(said.contains("split train: its media files are others"), "{said}");
    assert_eq!(train(longer, "gradient.png", true).unwrap().summary.rl_steps, 3);
}

#[test]
fn a_broken_picture_in_memory_is_named_before_anything_runs() {
    let home = folder();
    let folder = home.path();
    let run = |picture| run(folder, recipe(folder), picture).with_options(options(folder, false));
    let said = run("no picture at all").train(&mut Quiet).err().unwrap().to_string();
    assert!(said.contains("memory/train: row 1: images: row same: column picture, row 0: "), "{said}");
    let mut other = recipe(folder);
    other.set("rl.data=test").unwrap();
    let said = untrained(folder, other);
    assert!(said.contains("dataset memory/test: there is no test"), "{said}");
    let alone = recipe(folder).check().unwrap_err().to_string();
    assert!(alone.contains("data.source.name: this program brings no source called \"memory\""), "{alone}");
}

/// Why a recipe does not train.
fn untrained(folder: &Path, recipe: Recipe) -> String {
    let run = run(folder, recipe, "gradient.png").with_options(options(folder, false));
    run.train(&mut Quiet).err().unwrap().to_string()
}
