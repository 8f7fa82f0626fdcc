//! From a recipe to rows, task and sizes that are known to fit together, before anything runs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use kyoka_core::{Modality, Sample, Task};
use kyoka_data::{DataError, PreferenceRow, RowFault, Rows, UNREAD};
use kyoka_reward::lint;
use kyoka_trainer::{JudgementKind, check_judgement};
use rayon::prelude::*;

use crate::{
    Error, MultimodalTask,
    doors::Doors,
    environment::Environments,
    model::Opened,
    recipe::{DataSettings, Settings},
    reward_check::spread,
    rewards::Rewards,
    source::Dataset,
    stages::StageConfig,
};

/// Everything that is fixed before the first step.
pub(crate) struct Prepared {
    pub settings: Settings,
    pub task: MultimodalTask,
    /// Rows by split.
    pub splits: BTreeMap<String, Vec<Sample>>,
    /// Comparisons by split.
    pub pairs: BTreeMap<String, Vec<PreferenceRow>>,
    /// The policy before its weights are read.
    pub opened: Opened,
    /// What answers the policy between its turns.
    pub environments: Option<Environments>,
    /// What the user should know about the data.
    pub warnings: Vec<String>,
}

/// Reads the data of checked settings, checks every row, and builds the task.
pub(crate) fn prepare(
    settings: Settings,
    (rewards, doors): (&Rewards, &Doors),
    seed: u64,
) -> Result<Prepared, Error> {
    let dataset = Dataset::open(&settings.data, doors)?;
    let opened = settings.model.open(&settings.data.dataset, doors.image_encoder.as_ref())?;
    let config = &opened.config;
    if let Some(adapters) = &config.adapters {
        let refused = |reason| Error::file(settings.model.adapter.clone().unwrap_or_default(), reason);
        settings.check_dropout(adapters.lora.dropout).map_err(refused)?;
    }
    let environments = settings.environment.as_ref().map(|environment| environment.make(doors)).transpose();
    let environments =
        environments.map_err(|fault| Error::argument("environment", fault.message(&Default::default())))?;
    let task = MultimodalTask::new(opened.tokenizer.clone(), config.clone(), settings.augment, seed)
        .with_template(opened.template.clone())
        .with_tools(environments.as_ref().map_or(&[], Environments::tools));
    let room = Room { task: &task, limit: config.decoder.max_positions, data: &settings.data };
    let (mut splits, mut pairs) = (BTreeMap::new(), BTreeMap::new());
    let mut warnings = Vec::new();
    for (name, additions) in uses(&settings) {
        let Rows { rows, warnings: noted } = dataset.rows(name)?;
        // A program is handed all columns of a row.
        let hands_on = additions.iter().any(|addition| matches!(addition, Addition::Sampled(_)))
            && rewards.hand_rows_on();
        warnings.extend(noted.into_iter().filter(|warning| !(hands_on && warning.contains(UNREAD))));
        let rows = room.keep(rows, |row| row, |row| additions_to(row, &task, &additions), &mut warnings)?;
        if additions.iter().any(|addition| matches!(addition, Addition::Sampled(_))) {
            check_judged(rewards, &rows)?;
        }
        for stage in &settings.stage {
            let held_out = stage.held_out().is_some_and(|(split, _)| split == name);
            if let Some(kind) = stage.judgement().filter(|_| held_out || stage.rows() == Some(name)) {
                check_judgements(stage, kind, &rows)?;
                let first = rows.first().and_then(|row| row.label);
                if let Some(label) = first
                    .filter(|_| kind == JudgementKind::Labels && rows.iter().all(|row| row.label == first))
                {
                    warnings
                        .push(format!("{name}: all labels are {label}, and there is nothing to tell apart"));
                }
            }
        }
        if let Some(rl) = settings.rl().find(|rl| rl.data == name) {
            warnings.extend(quick_look(rewards, doors, (&rows, rl.sampling.max_new_tokens)));
        }
        splits.insert(name.to_owned(), rows);
    }
    let held_out = settings.stage.iter().filter_map(StageConfig::held_out);
    let held_out = held_out.filter(|(_, kind)| *kind == JudgementKind::Pairs).map(|(split, _)| split);
    for name in settings.stage.iter().filter_map(StageConfig::pairs).chain(held_out) {
        if pairs.contains_key(name) {
            continue;
        }
        let read = dataset.pairs(name)?;
        warnings.extend(read.warnings);
        let rows =
            room.keep(read.rows, |row| &row.sample, |row| completions_of(row, &task), &mut warnings)?;
        pairs.insert(name.to_owned(), rows);
    }
    Ok(Prepared { settings, task, splits, pairs, opened, environments, warnings })
}

/// Rows that the rewards are tried on before a run.
const TRIED_ROWS: usize = 8;

/// What the rules make of completions that everybody can judge, where that is odd; `kyoka reward check` says more.
fn quick_look(rewards: &Rewards, doors: &Doors, (rows, limit): (&[Sample], usize)) -> Vec<String> {
    let found = rewards.quick_sum(doors).map(|reward| lint(&reward, &spread(rows, TRIED_ROWS), limit));
    // A reward that fails is an error when its row is judged, and names it.
    let found = found.and_then(Result::ok).unwrap_or_default();
    found.warnings.iter().map(|warning| format!("rewards: {warning} (kyoka reward check)")).collect()
}

/// Refuses rows with media that are not there or have no readable head, before a step is lost to one of them.
///
/// # Errors
/// Lists every such row with file, line and field.
pub(crate) fn check_media(prepared: &Prepared) -> Result<(), Error> {
    let pairs = prepared.pairs.values().flatten().map(|row| &row.sample);
    let samples: Vec<&Sample> = prepared.splits.values().flatten().chain(pairs).collect();
    let faults_of = |sample: &&Sample| -> Vec<RowFault> {
        let media = sample.media().filter_map(|medium| Some((medium, prepared.task.fault_of(medium)?)));
        let named = media.map(|(medium, reason)| {
            let field = match medium.modality {
                Modality::Image => "images",
                Modality::Audio => "audios",
            };
            let message = format!("row {}: {}: {reason}", sample.id, medium.content);
            fault(sample, (field, message))
        });
        named.collect()
    };
    let faults: Vec<RowFault> = samples.par_iter().flat_map_iter(faults_of).collect();
    if faults.is_empty() { Ok(()) } else { Err(DataError::Rows(faults).into()) }
}

/// What follows a row's prompt.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Addition {
    /// The row's worked completion.
    Worked,
    /// Up to so many tokens of the policy, which are judged, and of what it reads between turns.
    Sampled(usize),
}

/// The splits that a recipe reads rows of, and what its stages and evaluations add to them.
fn uses(settings: &Settings) -> Vec<(&str, Vec<Addition>)> {
    let observed = settings.observation_tokens();
    let stages = settings.stage.iter().filter_map(|stage| {
        let addition = match stage.rl() {
            Some(rl) => Addition::Sampled(rl.sampling.max_new_tokens + observed),
            None => Addition::Worked,
        };
        Some((stage.rows()?, addition))
    });
    let held_out = settings.stage.iter().filter_map(StageConfig::held_out);
    let held_out = held_out.filter(|(_, kind)| *kind != JudgementKind::Pairs);
    let stages = stages.chain(held_out.map(|(split, _)| (split, Addition::Worked)));
    let longest = Addition::Sampled(settings.eval.max_new_tokens + observed);
    let eval = settings.eval.all_splits().map(|split| (split.as_str(), longest));
    let mut uses: Vec<(&str, Vec<Addition>)> = Vec::new();
    for (split, addition) in stages.chain(eval) {
        match uses.iter_mut().find(|(name, _)| *name == split) {
            Some((_, additions)) => additions.push(addition),
            None => uses.push((split, vec![addition])),
        }
    }
    uses
}

/// The file of a split, if there is one.
pub(crate) fn split_path(folder: &Path, split: &str) -> Result<PathBuf, Error> {
    let path = folder.join(format!("{split}.jsonl"));
    // A name, not a way out of the folder.
    if !path.is_file() || Path::new(split).components().count() != 1 {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let jsonl = entries.filter(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
        let mut known: Vec<String> =
            jsonl.filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned())).collect();
        known.sort();
        return Err(Error::UnknownSplit { name: split.to_owned(), path, known: known.join(", ") });
    }
    Ok(path)
}

/// A field of a row and what is wrong with it.
type Problem = (&'static str, String);

/// How many tokens each addition to a row's prompt has, and which field they are of.
pub(crate) fn additions_to(
    row: &Sample,
    task: &MultimodalTask,
    additions: &[Addition],
) -> Result<Vec<(&'static str, usize)>, Problem> {
    let tokens = |addition: &Addition| match addition {
        Addition::Sampled(tokens) => Ok(("prompt", *tokens)),
        Addition::Worked => match task.target(row) {
            Ok(target) => Ok(("completion", target.len())),
            Err(error) => Err(("completion", error.to_string())),
        },
    };
    additions.iter().map(tokens).collect()
}

fn completions_of(row: &PreferenceRow, task: &MultimodalTask) -> Result<Vec<(&'static str, usize)>, Problem> {
    let tokens = |(field, text): (&'static str, &str)| match task.encode(text) {
        Ok(ids) => Ok((field, ids.len())),
        Err(error) => Err((field, error.to_string())),
    };
    [("chosen", row.chosen.as_str()), ("rejected", row.rejected.as_str())].into_iter().map(tokens).collect()
}

/// What the model holds.
pub(crate) struct Room<'a> {
    pub task: &'a MultimodalTask,
    /// Positions of the model.
    pub limit: usize,
    pub data: &'a DataSettings,
}

impl Room<'_> {
    /// The rows that fit. Rows that are too long are refused or, where the recipe says so, left out with a warning that
    /// counts them; rows that cannot be laid out are refused.
    pub fn keep<T: Sync>(
        &self,
        rows: Vec<T>,
        sample: impl Fn(&T) -> &Sample + Sync,
        additions: impl Fn(&T) -> Result<Vec<(&'static str, usize)>, Problem> + Sync,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<T>, Error> {
        let (mut kept, mut long, mut faults) = (Vec::with_capacity(rows.len()), Vec::new(), Vec::new());
        let fits = |row: &T| self.too_long(sample(row), additions(row));
        let fitting: Vec<_> = rows.par_iter().map(fits).collect();
        for (row, fit) in rows.into_iter().zip(fitting) {
            match fit {
                Err(problem) => faults.push(fault(sample(&row), problem)),
                Ok(Some(problem)) => long.push(fault(sample(&row), problem)),
                Ok(None) => kept.push(row),
            }
        }
        match long.first() {
            Some(first) if self.data.skip_long_rows && !kept.is_empty() => {
                let count = long.len();
                warnings.push(format!("{first}; {count} row(s) that are too long are left out"));
            }
            _ => faults.extend(long),
        }
        if faults.is_empty() { Ok(kept) } else { Err(DataError::Rows(faults).into()) }
    }

    /// Whether prompt and longest addition exceed the model's positions.
    fn too_long(
        &self,
        sample: &Sample,
        additions: Result<Vec<(&'static str, usize)>, Problem>,
    ) -> Result<Option<Problem>, Problem> {
        let longest = additions?.into_iter().max_by_key(|&(_, tokens)| tokens);
        let prompt = self.task.prompt_len(sample).map_err(|error| ("prompt", error.to_string()))?;
        let Some((field, new)) = longest.filter(|(_, new)| prompt + new > self.limit) else {
            return Ok(None);
        };
        let limit = self.limit;
        Ok(Some((field, format!("{prompt} tokens and {new} new ones exceed the model's {limit} positions"))))
    }
}

/// Refuses rows that do not say what a stage learns from.
fn check_judgements(stage: &StageConfig, kind: JudgementKind, rows: &[Sample]) -> Result<(), Error> {
    let unfit = |row: &Sample| {
        let reason = check_judgement(row, kind).err()?;
        let (field, reason) =
            reason.split_once(": ").map(|(field, reason)| (field.to_owned(), reason.to_owned()))?;
        let message = format!("{reason}, which the stage {} needs", stage.name);
        Some(RowFault { origin: row.origin.clone(), field: Some(field), message })
    };
    let faults: Vec<RowFault> = rows.iter().filter_map(unfit).collect();
    if faults.is_empty() { Ok(()) } else { Err(DataError::Rows(faults).into()) }
}

/// Refuses rows that one of the rewards could never judge.
pub(crate) fn check_judged(rewards: &Rewards, rows: &[Sample]) -> Result<(), Error> {
    let unfit = |row: &Sample| rewards.unfit(row);
    let faults: Vec<RowFault> = rows
        .iter()
        .filter_map(|row| Some((row, unfit(row)?)))
        .map(|(row, unfit)| fault(row, (unfit.field, unfit.reason)))
        .collect();
    if faults.is_empty() { Ok(()) } else { Err(DataError::Rows(faults).into()) }
}

fn fault(sample: &Sample, (field, message): Problem) -> RowFault {
    RowFault { origin: sample.origin.clone(), field: Some(field.to_owned()), message }
}
