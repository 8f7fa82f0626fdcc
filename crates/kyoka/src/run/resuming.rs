//! What a run that goes on may do otherwise, and what it may not.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use kyoka_data::{Fingerprint, MediaNames};
use kyoka_trainer::{CheckpointStore, Progress};
use toml::{Table, Value};

use crate::{
    Error, Recipe,
    preparing::Prepared,
    recipe::Settings,
    stages::{STAGE, StageConfig},
};

/// Settings that may differ when a run is resumed. A star stands for any name.
pub const RESUMABLE: [&str; 6] = [
    "checkpoints.*",
    "eval.*",
    "<stage>.steps",
    "<stage>.eval_every",
    "<stage>.max_generated_tokens",
    "description",
];

/// `config.toml`: recipe name, seed and settings.
pub(crate) fn config_text(recipe: &str, settings: &Settings, seed: u64) -> String {
    let mut head = Table::new();
    head.insert("recipe".to_owned(), recipe.into());
    head.insert("seed".to_owned(), Value::Integer(seed as i64));
    format!("{head}{}", settings.to_toml())
}

/// Refuses to go on with a run under other settings, but for those of [`RESUMABLE`].
///
/// # Errors
/// Names every setting that differs, or that would come too late.
pub(crate) fn check_settings(
    folder: &Path,
    recipe: &str,
    settings: &Settings,
    seed: u64,
) -> Result<(), Error> {
    let (old, old_seed) = Recipe::of_run(folder)?;
    // Written anew, an old file has the defaults of settings that it does not know yet.
    let old_text = config_text(old.name(), &old.settings()?, old_seed.unwrap_or(seed));
    let new_text = config_text(recipe, settings, seed);
    let table = |text: &str| Value::Table(by_name(text.parse().expect("settings are valid TOML")));
    let mut changes = Vec::new();
    differences("", &table(&old_text), &table(&new_text), &mut changes);
    let stages: Vec<&str> = settings.stage.iter().map(|stage| stage.name.as_str()).collect();
    let refused: Vec<&Change> = changes.iter().filter(|change| !change.is_resumable(&stages)).collect();
    if !refused.is_empty() {
        return Err(Error::OtherRecipe { path: folder.to_owned(), fields: list(&refused) });
    }
    let store = CheckpointStore::new(folder.join("checkpoints"), settings.checkpoints, Vec::new());
    let newest = store.list().into_iter().rev().find_map(|path| Progress::of_checkpoint(&path).ok());
    let Some(progress) = newest else { return Ok(()) };
    // Steps in which only the critic learns come before those of `rl.steps`.
    let rl = settings.stage.get(progress.stage).and_then(StageConfig::rl);
    let taken = progress.step.saturating_sub(rl.map_or(0, |rl| rl.total_steps() - rl.steps));
    let place = (progress.stage, taken);
    let late: Vec<&Change> = changes.iter().filter(|change| change.is_late(&stages, place)).collect();
    if !late.is_empty() {
        let place = format!("{}, step {}", stages.get(progress.stage).unwrap_or(&"its end"), progress.step);
        return Err(Error::TooLate { path: folder.to_owned(), fields: list(&late), place });
    }
    Ok(())
}

/// Settings with each stage as a table of its name, and the order of the names.
fn by_name(mut settings: Table) -> Table {
    let Some(Value::Array(stages)) = settings.remove(STAGE) else { return settings };
    let mut order = Vec::new();
    for stage in stages {
        let name = stage.get("name").or_else(|| stage.get("kind")).and_then(Value::as_str);
        let name = name.unwrap_or_default().to_owned();
        settings.insert(name.clone(), stage);
        order.push(name);
    }
    settings.insert("the order of stages".to_owned(), order.join(", ").into());
    settings
}

fn list(changes: &[&Change]) -> String {
    changes.iter().map(|change| change.said.as_str()).collect::<Vec<_>>().join(", ")
}

/// A setting that is not as it was.
struct Change {
    /// Its keys, outermost first.
    path: Vec<String>,
    new: Value,
    /// With both values, for the user.
    said: String,
}

impl Change {
    fn is_resumable(&self, stages: &[&str]) -> bool {
        match self.path.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["checkpoints" | "eval", ..] | ["description"] => true,
            [stage, "steps" | "eval_every" | "max_generated_tokens"] => stages.contains(stage),
            _ => false,
        }
    }

    /// Whether it concerns a stage that the run has left, or steps that it has taken.
    fn is_late(&self, stages: &[&str], (stage, taken): (usize, usize)) -> bool {
        let Some(index) = stages.iter().position(|stage| self.path[0] == *stage) else { return false };
        let steps = self.new.as_integer().filter(|_| self.path.last().is_some_and(|key| key == "steps"));
        index < stage || (index == stage && steps.is_some_and(|steps| steps < taken as i64))
    }
}

fn differences(path: &str, old: &Value, new: &Value, changes: &mut Vec<Change>) {
    match (old, new) {
        (Value::Table(old), Value::Table(new)) => {
            let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            let none = Value::String("(not set)".to_owned());
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                differences(&path, old.get(key).unwrap_or(&none), new.get(key).unwrap_or(&none), changes);
            }
        }
        _ if old != new => changes.push(Change {
            path: path.split('.').map(str::to_owned).collect(),
            new: new.clone(),
            said: format!("{path} ({old} then, {new} now)"),
        }),
        _ => {}
    }
}

/// Fingerprints of the splits that a run uses, `data.json` of its folder.
pub(crate) type DataPrints = BTreeMap<String, Fingerprint>;

/// The file of a run's folder.
const DATA: &str = "data.json";

pub(crate) fn data_prints(prepared: &Prepared) -> DataPrints {
    let names = match prepared.settings.data.source {
        Some(_) => MediaNames::LeftOut,
        None => MediaNames::Counted,
    };
    let rows = prepared.splits.iter().map(|(name, rows)| (name.clone(), Fingerprint::of(rows, names)));
    let pairs = prepared.pairs.iter().map(|(name, rows)| (name.clone(), Fingerprint::of_pairs(rows, names)));
    rows.chain(pairs).collect()
}

/// Refuses to go on with other rows or media than the run was made with; gives all prints, to be written.
///
/// # Errors
/// Names every split that is not as it was, and how.
pub(crate) fn check_data(folder: &Path, now: DataPrints) -> Result<DataPrints, Error> {
    let path = data_path(folder);
    // A run of a version that kept no prints.
    let Ok(bytes) = fs::read(&path) else { return Ok(now) };
    let mut prints: DataPrints = serde_json::from_slice(&bytes).map_err(|error| Error::file(&path, error))?;
    let change = |(name, now): (&String, &Fingerprint)| {
        let said = prints.get(name)?.difference(now)?;
        Some(format!("split {name}: {said}"))
    };
    let changes: Vec<String> = now.iter().filter_map(change).collect();
    if !changes.is_empty() {
        return Err(Error::OtherData { path: folder.to_owned(), changes: changes.join("; ") });
    }
    // Splits that were used before and are not now are remembered.
    prints.extend(now);
    Ok(prints)
}

/// Where the prints of a run lie.
pub(crate) fn data_path(folder: &Path) -> PathBuf {
    folder.join(DATA)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_change_is_told_from_what_may_not_and_from_what_comes_too_late() {
        let home = tempfile::tempdir().unwrap();
        let recipe = Recipe::named("spoken-count").unwrap();
        let text = config_text("spoken-count", &recipe.settings().unwrap(), 1);
        fs::write(home.path().join("config.toml"), text).unwrap();
        let check = |assignments: &[&str], seed: u64| {
            let mut recipe = recipe.clone();
            assignments.iter().for_each(|assignment| recipe.set(assignment).unwrap());
            let checked = check_settings(home.path(), "spoken-count", &recipe.settings().unwrap(), seed);
            checked.map_err(|error| error.to_string())
        };
        let free =
            ["rl.steps=900", "sft.eval_every=3", "eval.max_rows=7", "checkpoints.every=1", "eval.samples=2"];
        assert_eq!(check(&free, 1), Ok(()));
        let error = check(&["rl.group_size=4", "rl.steps=900"], 2).unwrap_err();
        assert!(error.contains("rl.group_size (8 then, 4 now), seed (1 then, 2 now)"), "{error}");
        assert!(!error.contains("rl.steps (") && error.contains("checkpoints.*, eval.*"), "{error}");

        let checkpoint = home.path().join("checkpoints/1-rl-000050");
        fs::create_dir_all(&checkpoint).unwrap();
        let progress = Progress { stage: 1, step: 50, ..Progress::default() };
        let state = serde_json::json!({"progress": progress, "optimizer_steps": 50});
        fs::write(checkpoint.join("state.json"), state.to_string()).unwrap();
        assert_eq!(check(&["rl.steps=50"], 1), Ok(()));
        let error = check(&["rl.steps=49", "sft.steps=900"], 1).unwrap_err();
        assert!(error.contains("rl, step 50") && error.contains("rl.steps (400 then, 49 now)"), "{error}");
        assert!(error.contains("sft.steps (270 then, 900 now)"), "{error}");
    }
}
