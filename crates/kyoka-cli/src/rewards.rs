//! `kyoka reward`: rewards on completions that lie in files, or that everybody can judge.

use kyoka::{CheckedRewards, Error, Recipe, ScoreOptions, ScoredRow};
use serde_json::json;

use crate::{
    arguments::{RewardCommand, ScoreArguments},
    stopping,
};

pub fn run(command: &RewardCommand) -> Result<(), Error> {
    match command {
        RewardCommand::Score(score) => run_score(score),
        RewardCommand::Check { recipe, set, rows, json } => {
            let mut recipe = Recipe::named(recipe)?;
            for assignment in set {
                recipe.set(assignment)?;
            }
            let checked = kyoka::check_recipe_rewards(&recipe, *rows)?;
            if *json {
                print_line!("{}", as_json(&checked));
            } else {
                crate::output::show(&table(&checked));
            }
            Ok(())
        }
    }
}

fn run_score(arguments: &ScoreArguments) -> Result<(), Error> {
    let mut options = ScoreOptions {
        kind: arguments.kind.clone(),
        recipe: arguments.recipe.as_deref().map(Recipe::named).transpose()?,
        rows: arguments.rows.clone(),
        allow_outside: arguments.allow_outside,
        max_new_tokens: arguments.max_new_tokens,
        ..ScoreOptions::default()
    };
    for assignment in &arguments.set {
        match &mut options.recipe {
            Some(recipe) => recipe.set(assignment)?,
            None => options.set(assignment)?,
        }
    }
    if let Some(path) = &arguments.out {
        kyoka::check_scores_path(path, &arguments.rows)?;
    }
    let scored = kyoka::score_file(&options, &mut |warning| stopping::say(&format!("warning: {warning}")))?;
    match &arguments.out {
        Some(path) => kyoka::write_scores(path, &scored)?,
        None => scored.iter().for_each(|row| print_line!("{}", row.to_json())),
    }
    stopping::say(&summary(&scored));
    // Where all of it failed, nothing was scored.
    let mut rewards = scored.iter().flat_map(|row| &row.rewards);
    match scored.iter().flat_map(|row| &row.rewards).find_map(|reward| reward.fault.clone()) {
        Some(fault) if rewards.all(|reward| reward.fault.is_some()) => {
            Err(Error::Unanswered { what: "reward", reason: fault })
        }
        _ => Ok(()),
    }
}

/// How many completions there were, what they earned on average, and what went wrong.
fn summary(scored: &[ScoredRow]) -> String {
    let rewards = || scored.iter().flat_map(|row| &row.rewards);
    let graded: Vec<f64> = rewards().filter_map(|reward| reward.total).map(f64::from).collect();
    let (count, ungraded) = (rewards().count(), rewards().count() - graded.len());
    let mean = match graded.len() {
        0 => "none".to_owned(),
        count => format!("{:.4}", graded.iter().sum::<f64>() / count as f64),
    };
    let fault = rewards().find_map(|reward| reward.fault.as_ref());
    let fault = fault.map_or_else(String::new, |fault| format!("; the first failure: {fault}"));
    format!("{} rows, {count} completions, mean reward {mean}, {ungraded} ungraded{fault}", scored.len())
}

fn as_json(checked: &CheckedRewards) -> serde_json::Value {
    let lint = &checked.lint;
    let probes: Vec<_> = lint
        .table
        .iter()
        .map(|(probe, means, count)| {
            let means: serde_json::Map<_, _> =
                lint.parts.iter().zip(means).map(|(part, mean)| (part.clone(), json!(mean))).collect();
            json!({"completion": probe.name(), "count": count, "means": means})
        })
        .collect();
    json!({"split": checked.split, "rows": checked.num_rows, "probes": probes, "warnings": lint.warnings})
}

fn table(checked: &CheckedRewards) -> String {
    let lint = &checked.lint;
    let mut text = format!("{} rows of {}\n\n{:<16}", checked.num_rows, checked.split, "completion");
    let width = |part: &str| part.chars().count().max(8) + 2;
    for part in &lint.parts {
        text.push_str(&format!("{part:>width$}", width = width(part)));
    }
    text.push('\n');
    for (probe, means, _) in &lint.table {
        text.push_str(&format!("{:<16}", probe.name()));
        for (part, mean) in lint.parts.iter().zip(means) {
            let shown = mean.map_or_else(|| "ungraded".to_owned(), |mean| format!("{mean:.3}"));
            text.push_str(&format!("{shown:>width$}", width = width(part)));
        }
        text.push('\n');
    }
    match lint.warnings.is_empty() {
        true => text.push_str("\nnothing odd\n"),
        false => lint.warnings.iter().for_each(|warning| text.push_str(&format!("\nwarning: {warning}\n"))),
    }
    text
}
