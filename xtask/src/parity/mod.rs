//! Golden cases: every case of the folders given, run through the crates' public API.
//!
//! A folder is walked for JSON files with `cases`; what a case is follows from the fields it has, not from the name of
//! its file. A folder with `config.json` is a checkpoint, one with `manifest.json` holds pictures and sounds.

mod advantages;
mod answers;
mod case;
mod correction;
mod gae;
mod hf;
mod kl;
mod policy_losses;
mod preference;
mod preprocess;
mod reduction;
mod report;
mod rewards;
mod sampling;
mod values;

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use case::Case;
use report::Report;

/// Runs all cases below `folders`; an error if one failed, is of an unknown kind, or if there was none.
pub fn run(folders: &[std::path::PathBuf], json: bool) -> Result<()> {
    let mut report = Report::new(json);
    for folder in folders {
        walk(folder, &mut report).with_context(|| folder.display().to_string())?;
    }
    report.finish()
}

fn walk(path: &Path, report: &mut Report) -> Result<()> {
    if path.is_file() {
        return file(path, report);
    }
    if path.join("adapter_config.json").is_file() {
        hf::adapter::run(path, report);
        return Ok(());
    }
    if path.join("config.json").is_file() {
        hf::run(path, report);
        return Ok(());
    }
    if path.join("manifest.json").is_file() {
        preprocess::run(path, report);
        return Ok(());
    }
    let mut entries = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    entries.sort();
    for entry in entries {
        if entry.is_dir() || entry.extension().is_some_and(|ending| ending == "json" || ending == "jsonl") {
            walk(&entry, report)?;
        }
    }
    Ok(())
}

fn file(path: &Path, report: &mut Report) -> Result<()> {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    if path.extension().is_some_and(|ending| ending == "jsonl") {
        answers::run(&stem, &text, report);
        return Ok(());
    }
    let content: Value = match serde_json::from_str(&text) {
        Ok(content) => content,
        Err(error) => {
            report.broken("file", &path.display().to_string(), &error.to_string());
            return Ok(());
        }
    };
    let Some(cases) = content["cases"].as_array() else {
        report.unknown("file without cases", &path.display().to_string());
        return Ok(());
    };
    for (index, value) in cases.iter().enumerate() {
        let case = Case::new(value, &content, format!("{stem}#{index}"));
        one(&case, report);
    }
    for (index, value) in content["pass_at_k_estimator"].as_array().into_iter().flatten().enumerate() {
        let case = Case::new(value, &content, format!("pass_at_k_estimator#{index}"));
        report.case("pass_at_k_estimator", &case, advantages::pass_at_k);
    }
    Ok(())
}

/// Runs a case by what it is.
fn one(case: &Case<'_>, report: &mut Report) {
    let has = |field: &str| case.has(field);
    let kind = case.kind().to_owned();
    let runner: Option<report::Runner> = if has("algorithm") && has("advantages") {
        Some(advantages::run)
    } else if has("algorithm") && has("loss") {
        Some(policy_losses::run)
    } else if has("mode") && has("per_token") {
        Some(reduction::run)
    } else if has("log_ratio") && has("mask") {
        Some(correction::run)
    } else if has("values") && has("returns") {
        Some(gae::run)
    } else if has("vpred") {
        Some(values::run_value_loss)
    } else if has("logits") && has("ref_logits") {
        Some(kl::run_full)
    } else if kind == "positive_nll" {
        Some(values::run_positive_nll)
    } else if has("logits") && has("entropy") {
        Some(values::run_entropy)
    } else if has("logits") && has("probs") {
        Some(sampling::run)
    } else if has("grad_logp") && kl::is_known(&kind) {
        Some(kl::run)
    } else if preference::is_known(&kind) {
        Some(preference::run)
    } else if rewards::is_known(&kind) {
        Some(rewards::run)
    } else {
        None
    };
    match runner {
        Some(runner) => report.case(&kind, case, runner),
        None => report.unknown(&kind, &case.id),
    }
}

/// An error that makes the case count as one of an unknown kind.
fn unknown<T>(what: &str, name: &str) -> Result<T> {
    bail!("unknown {what} {name:?}")
}
