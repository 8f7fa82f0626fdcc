//! A recipe: everything that decides a run, as one TOML file.

use std::{fs, path::Path};

use kyoka_core::{RewardFn as _, Sample};
use kyoka_reward::WeightedSum;
use kyoka_trainer::{CheckpointPolicy, EvalRules, RlConfig};
use serde::{Deserialize, Serialize};
use toml::Table;

use crate::{
    Error, MediaAugment, PartConfig, Precision, RewardConfig,
    engine::EngineKind,
    environment::EnvironmentConfig,
    eval_settings::EvalSettings,
    model::ModelSettings,
    reading::{self, Fault, Places},
    run::config_of,
    stages::StageConfig,
};

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
    /// What messages call it: its file, or its name if it is bundled.
    shown: String,
    table: Table,
    places: Places,
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
    /// The stages in their order; read apart, each as its kind.
    #[serde(skip_deserializing)]
    pub stage: Vec<StageConfig>,
    /// Read apart, as its kind.
    #[serde(skip_deserializing, skip_serializing_if = "EngineKind::is_local")]
    pub engine: EngineKind,
    /// Read apart, as its kind; none where completions are one turn.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentConfig>,
    /// Read apart, each as its kind.
    #[serde(skip_deserializing)]
    pub reward: Vec<RewardConfig>,
    pub eval: EvalSettings,
    #[serde(default)]
    pub checkpoints: CheckpointPolicy,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataSettings {
    /// A bundled dataset or a folder with one `<split>.jsonl` a split, and the tokenizer of a policy from scratch.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dataset: String,
    /// What gives rows in the folder's place. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PartConfig>,
    /// Allow media outside the folder.
    #[serde(default)]
    pub allow_outside: bool,
    /// Leave rows out that are too long for the model, with a warning that counts them, instead of refusing the dataset.
    /// Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skip_long_rows: bool,
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
            let stem = path.file_stem().map_or_else(|| name.into(), |stem| stem.to_string_lossy());
            return Self::parse_as(&stem, name, &text);
        }
        let bundled: Vec<&str> = BUNDLED.iter().map(|(name, _)| *name).collect();
        Err(Error::UnknownRecipe { name: name.to_owned(), bundled: bundled.join(", ") })
    }

    /// The recipe and the seed that a run was started with.
    pub fn of_run(folder: &Path) -> Result<(Self, Option<u64>), Error> {
        let path = config_of(folder)?;
        let text = fs::read_to_string(&path).map_err(|error| Error::file(&path, error))?;
        let (mut table, places) = reading::parse(&text).map_err(|error| Error::file(&path, error))?;
        let seed = table.remove("seed").and_then(|seed| u64::try_from(seed.as_integer()?).ok());
        let name = table.remove("recipe").and_then(|name| Some(name.as_str()?.to_owned()));
        let name = name.unwrap_or_else(|| "recipe".to_owned());
        let recipe = Self { name, shown: path.display().to_string(), table, places };
        recipe.settings()?;
        Ok((recipe, seed))
    }

    /// A recipe from its text.
    ///
    /// # Errors
    /// Names the line, the key, what was expected there and what stands there.
    pub fn parse(name: &str, text: &str) -> Result<Self, Error> {
        Self::parse_as(name, name, text)
    }

    fn parse_as(name: &str, shown: &str, text: &str) -> Result<Self, Error> {
        let (table, places) = reading::parse(text)
            .map_err(|error| Error::Recipe { name: shown.to_owned(), reason: error.to_string() })?;
        let recipe = Self { name: name.to_owned(), shown: shown.to_owned(), table, places };
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

    /// The recipe as written.
    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// The name in run folders and summaries.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Changes one setting: `rl.steps=50`, `rl.algorithm.clip_high=0.3`, `reward.format.weight=0` (a reward by its name, or
    /// by its place from 0); a value that is no TOML is taken as text.
    ///
    /// # Errors
    /// If there is no `=`, the path runs through a value, or the recipe does not allow the result.
    pub fn set(&mut self, assignment: &str) -> Result<(), Error> {
        let fail = |reason: String| Error::Recipe { name: self.shown.clone(), reason };
        let (keys, value) =
            reading::assignment(assignment).map_err(|reason| fail(format!("--set {reason}")))?;
        let path = keys.join(".");
        let mut changed = self.clone();
        let written = reading::assign(&mut changed.table, &keys, value)
            .map_err(|reason| fail(format!("--set {path}: {reason}")))?;
        changed.places.write(&written, "--set".to_owned());
        changed.settings()?;
        *self = changed;
        Ok(())
    }

    /// The settings, defaults filled in.
    pub(crate) fn settings(&self) -> Result<Settings, Error> {
        Settings::read(self.table.clone()).map_err(|fault| self.refused(&fault))
    }

    /// An error that names the recipe, the place of the value and what is wrong with it.
    pub(crate) fn refused(&self, fault: &Fault) -> Error {
        Error::Recipe { name: self.shown.clone(), reason: fault.message(&self.places) }
    }
}

impl Settings {
    /// Reads settings; rewards are read as their kinds.
    fn read(mut table: Table) -> Result<Self, Fault> {
        let rewards = match table.remove("reward") {
            None => Vec::new(),
            Some(rewards) => Fault::reading::<Vec<Table>>(rewards).map_err(|fault| fault.below("reward"))?,
        };
        let engine = EngineKind::take(&mut table)?;
        let environment = EnvironmentConfig::take(&mut table)?;
        let stages = StageConfig::take_all(&mut table)?;
        let mut settings: Self = Fault::reading(table.into())?;
        if settings.data.dataset.is_empty() && settings.data.source.is_none() {
            return Err(Fault::at("data.dataset", "missing"));
        }
        (settings.stage, settings.engine, settings.environment) = (stages, engine, environment);
        let read = |(index, table): (usize, Table)| {
            RewardConfig::read(table).map_err(|fault| fault.below(&index.to_string()).below("reward"))
        };
        settings.reward = rewards.into_iter().enumerate().map(read).collect::<Result<_, _>>()?;
        Ok(settings)
    }

    /// When the run is evaluated and what is best; `reward` is the sum of its rewards.
    ///
    /// # Errors
    /// If no reward reports what is to decide.
    pub(crate) fn eval_rules(&self, reward: &WeightedSum) -> Result<EvalRules, Fault> {
        let parts = reward.part_names();
        let has_learned = self.model.checkpoint.is_some() || self.model.start.is_some();
        self.eval.rules(&parts, has_learned)
    }

    /// The stages of reinforcement learning.
    pub(crate) fn rl(&self) -> impl Iterator<Item = &RlConfig> {
        self.stage.iter().filter_map(StageConfig::rl)
    }

    /// Most tokens that a completion reads between its turns.
    pub(crate) fn observation_tokens(&self) -> usize {
        self.environment.as_ref().map_or(0, |environment| environment.max_observation_tokens)
    }

    /// Texts that end a completion.
    pub(crate) fn stop_texts(&self) -> &[String] {
        self.rl().last().map_or(&[], |rl| &rl.sampling.stop)
    }

    /// The settings as TOML.
    pub(crate) fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("settings are tables of plain values")
    }
}

/// Whether a name is that of a table of a recipe, and so none for a stage.
pub(crate) fn is_table(name: &str) -> bool {
    const TABLES: [&str; 14] = [
        "recipe",
        "seed",
        "description",
        "gradient_checkpointing",
        "precision",
        "data",
        "model",
        "augment",
        "stage",
        "reward",
        "engine",
        "environment",
        "eval",
        "checkpoints",
    ];
    TABLES.contains(&name)
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
        let rl = settings.rl().next().unwrap();
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
        recipe.set("model.lora.dropout=0.1").unwrap();
        let error = recipe.check().unwrap_err().to_string();
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
