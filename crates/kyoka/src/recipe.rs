//! A recipe: everything that decides a run, as one TOML file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::Device;
use kyoka_core::{RewardFn, Sample, nearest};
use kyoka_reward::{
    ExactAnswer, Format, NumericAnswer, RunningCount, SoftOverlong, StepAccuracy, WeightedSum,
};
use kyoka_trainer::{CheckpointPolicy, PreferenceStageConfig, RewardModelConfig, RlConfig, SftConfig};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::{Error, MediaAugment, Precision, learned_reward::LearnedReward, model::ModelSettings};

/// Recipes that come with the program.
const BUNDLED: [(&str, &str); 5] = [
    ("spoken-count", include_str!("../recipes/spoken-count.toml")),
    ("spoken-count-outcome", include_str!("../recipes/spoken-count-outcome.toml")),
    ("spoken-count-sft", include_str!("../recipes/spoken-count-sft.toml")),
    ("tuxpaint", include_str!("../recipes/tuxpaint.toml")),
    ("tuxpaint-short", include_str!("../recipes/tuxpaint-short.toml")),
];

/// A recipe as written, with the settings a user changed.
#[derive(Debug, Clone)]
pub struct Recipe {
    name: String,
    table: Table,
}

/// A recipe's settings, all defaults filled in; `config.toml` of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// One line for `kyoka recipes`.
    #[serde(default)]
    pub description: String,
    /// Layers are computed again on the way back instead of kept: less memory, a forward pass more. Default false.
    #[serde(default)]
    pub gradient_checkpointing: bool,
    /// In which numbers the policy computes. Default f32.
    #[serde(default)]
    pub precision: Precision,
    pub data: DataSettings,
    pub model: ModelSettings,
    #[serde(default)]
    pub augment: MediaAugment,
    pub sft: Option<SftConfig>,
    pub sft_continued: Option<SftConfig>,
    pub preference: Option<PreferenceStageConfig>,
    pub reward_model: Option<RewardModelConfig>,
    pub rl: Option<RlConfig>,
    #[serde(default)]
    pub reward: Vec<RewardConfig>,
    pub eval: EvalSettings,
    #[serde(default)]
    pub checkpoints: CheckpointPolicy,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataSettings {
    /// A bundled dataset or a folder with one `<split>.jsonl` a split.
    pub dataset: String,
    /// Allow media outside the folder.
    #[serde(default)]
    pub allow_outside: bool,
    /// Leave rows out that are too long for the model, with a warning that counts them, instead of refusing the dataset.
    /// Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skip_long_rows: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EvalSettings {
    /// Splits; the first one decides which checkpoint is best.
    pub splits: Vec<String>,
    /// Rows of each split; 0 takes all.
    #[serde(default)]
    pub max_rows: usize,
    /// Longest completion.
    pub max_new_tokens: usize,
}

/// One reward of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardConfig {
    /// The rule.
    pub kind: RewardKind,
    /// Its weight in the total.
    pub weight: f32,
    /// Names of the parts of `step_accuracy`. Default `["steps"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Buffer of `soft_overlong` in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buffer_tokens: Option<usize>,
    /// Tolerance of `numeric_answer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative_tolerance: Option<f64>,
    /// Folder of the run (its newest checkpoint) or of the checkpoint with the model of `learned`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
}

/// The rules a recipe can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardKind {
    /// See [`ExactAnswer`].
    ExactAnswer,
    /// See [`NumericAnswer`].
    NumericAnswer,
    /// See [`Format`].
    Format,
    /// See [`StepAccuracy`].
    StepAccuracy,
    /// See [`RunningCount`].
    RunningCount,
    /// See [`SoftOverlong`].
    SoftOverlong,
    /// The score of a reward model that a stage `[reward_model]` trained.
    Learned,
}

impl RewardConfig {
    fn build(&self, device: &Device) -> Result<Box<dyn RewardFn>, Error> {
        if let Some(rule) = self.rule() {
            return Ok(rule);
        }
        let folder = self.model.as_deref().expect("checked when the recipe was read");
        Ok(Box::new(LearnedReward::load(folder, device)?))
    }

    /// The rule, unless it is a model that must be loaded.
    fn rule(&self) -> Option<Box<dyn RewardFn>> {
        Some(match self.kind {
            RewardKind::ExactAnswer => Box::new(ExactAnswer {}),
            RewardKind::NumericAnswer => {
                Box::new(self.relative_tolerance.map_or_else(NumericAnswer::default, |relative_tolerance| {
                    NumericAnswer { relative_tolerance }
                }))
            }
            RewardKind::Format => Box::new(Format {}),
            RewardKind::StepAccuracy if self.names.is_empty() => Box::new(StepAccuracy::default()),
            RewardKind::StepAccuracy => Box::new(StepAccuracy { names: self.names.clone() }),
            RewardKind::RunningCount => Box::new(RunningCount {}),
            RewardKind::SoftOverlong => Box::new(
                self.buffer_tokens
                    .map_or_else(SoftOverlong::default, |buffer_tokens| SoftOverlong { buffer_tokens }),
            ),
            RewardKind::Learned => return None,
        })
    }
}

impl Recipe {
    /// A bundled recipe, or a TOML file.
    pub fn named(name: &str) -> Result<Self, Error> {
        let path = Path::new(name);
        if let Some((_, text)) = BUNDLED.iter().find(|(bundled, _)| *bundled == name) {
            return Self::parse(name, text);
        }
        if path.is_file() {
            let text = fs::read_to_string(path).map_err(|error| Error::file(path, error))?;
            let stem =
                path.file_stem().map_or_else(|| name.to_owned(), |stem| stem.to_string_lossy().into_owned());
            return Self::parse(&stem, &text);
        }
        let bundled: Vec<&str> = BUNDLED.iter().map(|(name, _)| *name).collect();
        Err(Error::UnknownRecipe { name: name.to_owned(), bundled: bundled.join(", ") })
    }

    /// The recipe and the seed that a run was started with.
    pub fn of_run(folder: &Path) -> Result<(Self, Option<u64>), Error> {
        let path = folder.join("config.toml");
        let text = fs::read_to_string(&path).map_err(|error| Error::file(&path, error))?;
        let mut table = text.parse::<Table>().map_err(|error| Error::file(&path, error))?;
        let seed = table.remove("seed").and_then(|seed| u64::try_from(seed.as_integer()?).ok());
        let name = table.remove("recipe").and_then(|name| Some(name.as_str()?.to_owned()));
        let recipe = Self { name: name.unwrap_or_else(|| "recipe".to_owned()), table };
        recipe.settings()?;
        Ok((recipe, seed))
    }

    /// A recipe from its text.
    pub fn parse(name: &str, text: &str) -> Result<Self, Error> {
        let table = text.parse::<Table>();
        let table =
            table.map_err(|error| Error::Recipe { name: name.to_owned(), reason: error.to_string() })?;
        let recipe = Self { name: name.to_owned(), table };
        recipe.settings()?;
        Ok(recipe)
    }

    /// Names and descriptions of the bundled recipes.
    pub fn bundled() -> Result<Vec<(&'static str, String)>, Error> {
        BUNDLED
            .iter()
            .map(|&(name, text)| Ok((name, Self::parse(name, text)?.settings()?.description)))
            .collect()
    }

    /// The name in run folders and summaries.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Changes one setting: `rl.steps=50`, `rl.algorithm.preset="dapo"`; a value that is no TOML is taken as text.
    ///
    /// # Errors
    /// If there is no `=`, the path runs through a value, or the recipe does not allow the result.
    pub fn set(&mut self, assignment: &str) -> Result<(), Error> {
        let fail = |reason: String| Error::Recipe { name: self.name.clone(), reason };
        let (path, value) = assignment
            .split_once('=')
            .ok_or_else(|| fail(format!("--set {assignment}: expected key=value")))?;
        let value = format!("v = {value}")
            .parse::<Table>()
            .ok()
            .and_then(|mut table| table.remove("v"))
            .unwrap_or_else(|| Value::String(value.to_owned()));
        let mut keys: Vec<&str> = path.trim().split('.').collect();
        let last = keys.pop().unwrap_or_default();
        let mut changed = self.table.clone();
        let mut table = &mut changed;
        for key in keys {
            let entry = table.entry(key).or_insert_with(|| Value::Table(Table::new()));
            table =
                entry.as_table_mut().ok_or_else(|| fail(format!("--set {path}: {key} is not a table")))?;
        }
        table.insert(last.to_owned(), value);
        let changed = Self { name: self.name.clone(), table: changed };
        changed.settings()?;
        *self = changed;
        Ok(())
    }

    /// The settings, defaults filled in.
    pub(crate) fn settings(&self) -> Result<Settings, Error> {
        let settings: Settings = self.table.clone().try_into().map_err(|error: toml::de::Error| {
            Error::Recipe { name: self.name.clone(), reason: with_nearest(error.message()) }
        })?;
        let stages = [
            settings.sft.is_some(),
            settings.preference.is_some(),
            settings.reward_model.is_some(),
            settings.rl.is_some(),
        ];
        if stages == [false; 4] {
            return Err(Error::Recipe {
                name: self.name.clone(),
                reason: "expected a stage: [sft], [preference], [reward_model] or [rl]".into(),
            });
        }
        if settings.reward.is_empty() {
            return Err(Error::Recipe {
                name: self.name.clone(),
                reason: "expected at least one [[reward]]".into(),
            });
        }
        settings.check_ranges().map_err(|reason| Error::Recipe { name: self.name.clone(), reason })?;
        if settings.eval.splits.is_empty() {
            return Err(Error::Recipe {
                name: self.name.clone(),
                reason: "eval.splits: expected a split".into(),
            });
        }
        Ok(settings)
    }
}

impl Settings {
    /// The sum of the recipe's rewards.
    ///
    /// # Errors
    /// If a reward model cannot be loaded.
    pub(crate) fn reward(&self, device: &Device) -> Result<WeightedSum, Error> {
        let rule = |reward: &RewardConfig| Ok((reward.weight, reward.build(device)?));
        Ok(WeightedSum::new(self.reward.iter().map(rule).collect::<Result<_, Error>>()?))
    }

    /// The recipe's rules, to check rows with; reward models take every row.
    pub(crate) fn rules(&self) -> Vec<Box<dyn RewardFn>> {
        self.reward.iter().filter_map(RewardConfig::rule).collect()
    }

    /// Texts that end a completion.
    pub(crate) fn stop_texts(&self) -> &[String] {
        self.rl.as_ref().map_or(&[], |rl| &rl.sampling.stop)
    }

    /// Refuses values that a rule or an augmentation cannot work with.
    fn check_ranges(&self) -> Result<(), String> {
        let audio = self.augment.audio;
        for (field, value) in [
            ("augment.audio.max_delay_s", audio.max_delay_s),
            ("augment.audio.max_gain_db", audio.max_gain_db),
            ("augment.audio.max_noise", audio.max_noise),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(format!("{field}: expected a finite number of at least 0, got {value}"));
            }
        }
        let dropout = self.model.lora.as_ref().map_or(0.0, |lora| lora.dropout);
        if self.gradient_checkpointing && dropout > 0.0 {
            let reason = "layers that are computed again would drop other values";
            return Err(format!(
                "gradient_checkpointing: expected model.lora.dropout = 0, got {dropout}: {reason}"
            ));
        }
        if let Some(reward) = self.reward.iter().find(|reward| !reward.weight.is_finite()) {
            return Err(format!("reward {:?}: expected a finite weight, got {}", reward.kind, reward.weight));
        }
        let homeless = |reward: &&RewardConfig| reward.kind == RewardKind::Learned && reward.model.is_none();
        if self.reward.iter().any(|reward| homeless(&reward)) {
            return Err("reward Learned: expected `model`, the folder of its run, got none".to_owned());
        }
        let measures_answer = |reward: &&RewardConfig| {
            matches!(reward.kind, RewardKind::ExactAnswer | RewardKind::NumericAnswer)
        };
        if self.reward.iter().filter(measures_answer).count() > 1 {
            return Err(
                "reward: exact_answer and numeric_answer both measure `accuracy`; keep one".to_owned()
            );
        }
        Ok(())
    }

    /// The settings as TOML.
    pub(crate) fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("settings are tables of plain values")
    }
}

/// Adds the nearest known key to serde's message about an unknown one.
fn with_nearest(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match quoted.split_first() {
        Some((unknown, known)) if message.contains("unknown") => {
            match nearest(unknown, known.iter().copied()) {
                Some(near) => format!("{message}; did you mean `{near}`?"),
                None => message.to_owned(),
            }
        }
        _ => message.to_owned(),
    }
}

/// The first `max_rows` rows; 0 takes all.
pub(crate) fn limited(samples: &[Sample], max_rows: usize) -> &[Sample] {
    if max_rows == 0 { samples } else { &samples[..samples.len().min(max_rows)] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bundled_recipe_is_valid_and_described() {
        for (name, description) in Recipe::bundled().unwrap() {
            assert!(!description.is_empty(), "{name}");
        }
    }

    #[test]
    fn settings_can_be_changed_and_unknown_ones_name_the_nearest() {
        let mut recipe = Recipe::named("spoken-count").unwrap();
        recipe.set("rl.steps=7").unwrap();
        recipe.set("rl.algorithm.preset=dapo").unwrap();
        let settings = recipe.settings().unwrap();
        let rl = settings.rl.unwrap();
        assert_eq!((rl.steps, rl.algorithm.preset), (7, Some(kyoka_algorithms::Preset::Dapo)));
        let error = recipe.set("rl.grop_size=4").unwrap_err().to_string();
        assert!(error.contains("`grop_size`") && error.ends_with("did you mean `group_size`?"), "{error}");
        assert!(recipe.set("rl.steps").is_err() && recipe.set("rl.steps.x=1").is_err());
    }

    #[test]
    fn layers_that_drop_at_random_are_not_computed_again() {
        let mut recipe = Recipe::named("spoken-count").unwrap();
        recipe.set("gradient_checkpointing=true").unwrap();
        recipe.set("model.lora={ rank = 4 }").unwrap();
        let error = recipe.set("model.lora.dropout=0.1").unwrap_err().to_string();
        assert!(error.contains("model.lora.dropout = 0, got 0.1"), "{error}");
    }

    #[test]
    fn settings_survive_being_written_and_read() {
        let settings = Recipe::named("spoken-count").unwrap().settings().unwrap();
        let again = Recipe::parse("again", &settings.to_toml()).unwrap().settings().unwrap();
        assert_eq!(settings, again);
    }

    #[test]
    fn an_unknown_recipe_lists_the_bundled_ones() {
        let error = Recipe::named("spoken").unwrap_err().to_string();
        assert!(error.contains("spoken-count-sft"), "{error}");
    }
}
