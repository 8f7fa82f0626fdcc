//! `kyoka reward score`: what rewards make of completions that lie in a file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use kyoka_core::{
    Completion, Origin, Reward, RewardContext, RewardError, RewardFn, Sample, on_threads_at_most,
};
use kyoka_data::{DataError, ReadOptions, RowFault, Rows, read_jsonl};
use kyoka_reward::completion_of;
use serde_json::{Value, json};
use toml::Table;

use crate::{
    Error, Recipe, RewardConfig,
    doors::Doors,
    open_device,
    preparing::check_judged,
    reading::{self, Fault, Places},
    rewards::{Rewards, check_rewards},
};

/// What `kyoka reward score` is asked.
#[derive(Debug, Clone, Default)]
pub struct ScoreOptions {
    /// Kind of a reward.
    pub kind: Option<String>,
    /// Its settings.
    pub settings: Table,
    /// The recipe whose rewards are taken, instead of one by its kind.
    pub recipe: Option<Recipe>,
    /// A JSONL file of rows with a `completion` or a list of `completions` each. A prompt may be missing.
    pub rows: PathBuf,
    /// Allow media outside the file's folder.
    pub allow_outside: bool,
    /// The limit that the completions were sampled under, in tokens, which are words here.
    pub max_new_tokens: usize,
}

/// The rewards of a row's completions.
#[derive(Debug, Clone)]
pub struct ScoredRow {
    /// The row's name.
    pub id: String,
    /// Where it stands.
    pub origin: Origin,
    /// A reward a completion.
    pub rewards: Vec<Reward>,
}

impl ScoredRow {
    /// As a line of JSON: `{"id": .., "rewards": [{"total": .., "parts": {..}, ..}]}`.
    pub fn to_json(&self) -> Value {
        let reward = |reward: &Reward| {
            // As short as it is, not as its double.
            let short = |value: f32| value.to_string().parse::<f64>().unwrap_or(f64::from(value));
            let parts: serde_json::Map<String, Value> =
                reward.parts.iter().map(|(name, value)| (name.clone(), short(*value).into())).collect();
            let mut fields = json!({"total": reward.total.map(short), "parts": parts});
            if let Some(right) = reward.right {
                fields["right"] = right.into();
            }
            if let Some(fault) = &reward.fault {
                fields["fault"] = fault.clone().into();
            }
            fields
        };
        json!({"id": self.id, "rewards": self.rewards.iter().map(reward).collect::<Vec<_>>()})
    }
}

/// Judges the completions of a file, row by row. `warn` hears what the user should know about the file.
///
/// # Errors
/// If a reward cannot be made, the file cannot be read, a row has no completion, or one can never be judged.
pub fn score_file(options: &ScoreOptions, warn: &mut dyn FnMut(&str)) -> Result<Vec<ScoredRow>, Error> {
    let configs = options.rewards()?;
    let refused = |fault: Fault| Error::argument("reward", fault.message(&Places::default()));
    let rewards = Rewards::make(&configs, &Doors::default()).map_err(refused)?;
    let reading = ReadOptions { allow_outside: options.allow_outside, judged: true };
    let Rows { rows, warnings } = read_jsonl(&options.rows, reading)?;
    warnings.iter().for_each(|warning| warn(warning));
    let (mut samples, mut completions, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    for mut row in rows {
        match texts(&mut row) {
            Ok(texts) => {
                completions.push(texts);
                samples.push(row);
            }
            Err(message) => {
                faults.push(RowFault { origin: row.origin, field: Some("completions".to_owned()), message })
            }
        }
    }
    if !faults.is_empty() {
        return Err(DataError::Rows(faults).into());
    }
    check_judged(&rewards, &samples)?;
    let reward = rewards.sum(&open_device("cpu")?)?;
    let judge = |(sample, texts): (Sample, Vec<String>)| -> Result<ScoredRow, RewardError> {
        let completions: Vec<Completion> =
            texts.iter().map(|text| completion_of(text, options.max_new_tokens)).collect();
        let rewards = reward.judge(&RewardContext::of(&sample), &completions)?;
        Ok(ScoredRow { id: sample.id, origin: sample.origin, rewards })
    };
    let asked = samples.into_iter().zip(completions).collect();
    let scored = on_threads_at_most(reward.concurrency(), asked, judge);
    Ok(scored.into_iter().collect::<Result<_, _>>().map_err(kyoka_trainer::TrainError::from)?)
}

impl ScoreOptions {
    /// Changes a setting of the reward: `relative_tolerance=0.01`; a value that is no TOML is taken as text.
    ///
    /// # Errors
    /// If there is no `=`, or the path runs through a value.
    pub fn set(&mut self, assignment: &str) -> Result<(), Error> {
        let (keys, value) =
            reading::assignment(assignment).map_err(|reason| Error::argument("--set", reason))?;
        let written = reading::assign(&mut self.settings, &keys, value);
        written.map(drop).map_err(|reason| Error::argument("--set", format!("{}: {reason}", keys.join("."))))
    }

    fn rewards(&self) -> Result<Vec<RewardConfig>, Error> {
        let refused = |reason| Error::argument("--kind", reason);
        let rewards = match (&self.kind, &self.recipe) {
            (Some(kind), None) => {
                vec![RewardConfig::of_kind_with(kind, self.settings.clone()).map_err(refused)?]
            }
            (None, Some(recipe)) => recipe.settings()?.reward,
            _ => return Err(refused("expected either a kind of reward or a recipe".to_owned())),
        };
        check_rewards(&rewards, &[])
            .map_err(|fault| Error::argument("reward", fault.message(&Places::default())))?;
        Ok(rewards)
    }
}

/// The completions of a row, taken out of it.
fn texts(row: &mut Sample) -> Result<Vec<String>, String> {
    let list = row.extra.remove("completions");
    match (row.completion.take(), list) {
        (Some(text), None) => Ok(vec![text]),
        (None, Some(Value::Array(list))) => {
            let text = |value: &Value| {
                value.as_str().map(str::to_owned).ok_or_else(|| format!("expected texts, got {value}"))
            };
            list.iter().map(text).collect()
        }
        (None, Some(other)) => Err(format!("expected a list of texts, got {other}")),
        (Some(_), Some(_)) => Err("stands beside completion; expected one of both".to_owned()),
        (None, None) => Err("expected a completion, or a list of completions, got none".to_owned()),
    }
}

/// Refuses a file for rewards that cannot be written, before anything is judged.
///
/// # Errors
/// If it is the file with the rows, a folder, or in a folder that is not there.
pub fn check_scores_path(path: &Path, rows: &Path) -> Result<(), Error> {
    let refused = |reason: &str| Err(Error::file(path, reason));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (path.canonicalize(), rows.canonicalize()) {
        (Ok(out), Ok(rows)) if out == rows => {
            refused("is the file with the rows; expected another one for the rewards")
        }
        (Ok(out), _) if out.is_dir() => refused("expected a file for the rewards, got a folder"),
        _ if !folder.is_dir() => refused("expected a folder that is there"),
        _ => Ok(()),
    }
}

/// Writes scored rows as JSONL: all of the file, or nothing of it. What is no plain file (a pipe, a device) is written into.
///
/// # Errors
/// If it cannot be written.
pub fn write_scores(path: &Path, rows: &[ScoredRow]) -> Result<(), Error> {
    let lines: String = rows.iter().map(|row| format!("{}\n", row.to_json())).collect();
    // A link stays a link, and what it leads to is written.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let written = match fs::metadata(&target) {
        Ok(there) if !there.is_file() => fs::write(&target, lines),
        _ => {
            let name = target.file_name().unwrap_or_default().to_string_lossy();
            let unfinished = target.with_file_name(format!(".{name}.{}.unfinished", std::process::id()));
            let written = fs::write(&unfinished, lines).and_then(|()| fs::rename(&unfinished, &target));
            written.inspect_err(|_| drop(fs::remove_file(&unfinished)))
        }
    };
    written.map_err(|error| Error::file(path, error))
}
