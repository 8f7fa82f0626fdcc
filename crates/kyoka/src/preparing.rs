//! From a recipe to rows, task and sizes that are known to fit together, before anything runs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use kyoka_core::Sample;
use kyoka_data::{DataError, PreferenceRow, ReadOptions, RowFault, read_jsonl, read_pairs};
use kyoka_trainer::Task;

use crate::{Error, MultimodalTask, dataset_folder, model::Opened, recipe::Settings};

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
}

/// Checks the settings, reads the data, checks every row, and builds the task.
pub(crate) fn prepare(settings: Settings, seed: u64) -> Result<Prepared, Error> {
    settings.check()?;
    let folder = dataset_folder(&settings.data.dataset)?;
    let opened = settings.model.open(&folder)?;
    let config = &opened.config;
    if let Some(adapters) = &config.adapters {
        let refused = |reason| Error::file(settings.model.adapter.clone().unwrap_or_default(), reason);
        settings.check_dropout(adapters.lora.dropout).map_err(refused)?;
    }
    let task = MultimodalTask::new(opened.tokenizer.clone(), config.clone(), settings.augment, seed)
        .with_template(opened.template.clone());
    let mut splits = BTreeMap::new();
    let sft = [&settings.sft, &settings.sft_continued].into_iter().flatten().map(|stage| stage.data.as_str());
    let names = sft.chain(settings.rl.iter().map(|rl| rl.data.as_str()));
    for name in names.chain(settings.eval.splits.iter().map(String::as_str)) {
        if !splits.contains_key(name) {
            splits.insert(name.to_owned(), read_split(&folder, name, settings.data.allow_outside)?);
        }
    }
    check_rows(&settings, &task, &splits, config.decoder.max_positions)?;
    let mut pairs = BTreeMap::new();
    let compared = settings.preference.iter().map(|stage| &stage.data);
    for name in compared.chain(settings.reward_model.iter().map(|stage| &stage.data)) {
        let path = split_path(&folder, name)?;
        let rows = read_pairs(&path, ReadOptions { allow_outside: settings.data.allow_outside })?;
        check_pairs(&task, &rows, config.decoder.max_positions)?;
        pairs.insert(name.clone(), rows);
    }
    Ok(Prepared { settings, task, splits, pairs, opened })
}

/// Refuses comparisons that cannot be encoded or do not fit the model.
fn check_pairs(task: &MultimodalTask, rows: &[PreferenceRow], limit: usize) -> Result<(), Error> {
    for (field, text) in
        [("chosen", (|row| &row.chosen) as fn(&PreferenceRow) -> &String), ("rejected", |row| &row.rejected)]
    {
        let fault = |row: &PreferenceRow| match (task.encode(text(row)), task.prompt_len(&row.sample)) {
            (Err(error), _) => Some((field, error.to_string())),
            (_, Err(error)) => Some(("prompt", error.to_string())),
            (Ok(ids), Ok(prompt)) => too_long(prompt, ids.len(), limit).map(|message| (field, message)),
        };
        refuse_faults(rows.iter().map(|row| (&row.sample, fault(row))))?;
    }
    Ok(())
}

/// The rows of `<folder>/<split>.jsonl`.
pub(crate) fn read_split(folder: &Path, split: &str, allow_outside: bool) -> Result<Vec<Sample>, Error> {
    Ok(read_jsonl(&split_path(folder, split)?, ReadOptions { allow_outside })?)
}

/// The file of a split, if there is one.
fn split_path(folder: &Path, split: &str) -> Result<PathBuf, Error> {
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

/// Refuses rows that lack what a stage needs or cannot fit the model, before anything runs.
fn check_rows(
    settings: &Settings,
    task: &MultimodalTask,
    splits: &BTreeMap<String, Vec<Sample>>,
    limit: usize,
) -> Result<(), Error> {
    for config in [&settings.sft, &settings.sft_continued].into_iter().flatten() {
        let fault = |sample: &Sample| match (task.target(sample), task.prompt_len(sample)) {
            (Err(error), _) => Some(("completion", error.to_string())),
            (_, Err(error)) => Some(("prompt", error.to_string())),
            (Ok(target), Ok(prompt)) => {
                too_long(prompt, target.len(), limit).map(|message| ("completion", message))
            }
        };
        refuse_faults(splits[&config.data].iter().map(|sample| (sample, fault(sample))))?;
    }
    let judged = settings.rl.iter().map(|rl| (&rl.data, rl.sampling.max_new_tokens));
    let judged = judged.chain(settings.eval.splits.iter().map(|split| (split, settings.eval.max_new_tokens)));
    for (split, new_tokens) in judged {
        check_lengths(task, &splits[split], new_tokens, limit)?;
        let fault = |sample: &Sample| {
            let missing = settings.reward.iter().find_map(|reward| reward.missing_field(sample));
            missing.map(|(field, reward)| (field, format!("missing, which the reward {reward} needs")))
        };
        refuse_faults(splits[split].iter().map(|sample| (sample, fault(sample))))?;
    }
    Ok(())
}

fn too_long(prompt: usize, new_tokens: usize, limit: usize) -> Option<String> {
    let fits = prompt + new_tokens <= limit;
    (!fits).then(|| format!("{prompt} tokens and {new_tokens} new ones exceed the model's {limit} positions"))
}

/// Refuses rows whose prompt and completion cannot fit the model.
pub(crate) fn check_lengths(
    task: &MultimodalTask,
    samples: &[Sample],
    new_tokens: usize,
    limit: usize,
) -> Result<(), Error> {
    let fault = |sample: &Sample| match task.prompt_len(sample) {
        Ok(prompt) => too_long(prompt, new_tokens, limit).map(|message| ("prompt", message)),
        Err(error) => Some(("prompt", error.to_string())),
    };
    refuse_faults(samples.iter().map(|sample| (sample, fault(sample))))
}

/// A row, and what is wrong with it, if anything: the field and the fault.
type Examined<'a> = (&'a Sample, Option<(&'static str, String)>);

/// Lists every row that has a fault.
fn refuse_faults<'a>(rows: impl Iterator<Item = Examined<'a>>) -> Result<(), Error> {
    let faults: Vec<RowFault> = rows
        .filter_map(|(sample, fault)| {
            let (field, message) = fault?;
            let (file, line) = sample.origin.clone();
            Some(RowFault { file, line, field: Some(field.to_owned()), message })
        })
        .collect();
    if faults.is_empty() { Ok(()) } else { Err(DataError::Rows(faults).into()) }
}
