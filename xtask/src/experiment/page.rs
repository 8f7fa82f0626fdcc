//! Table and plot of the comparison, written between two marks of its page.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::{
    algorithms::{ALGORITHMS, FOLDER},
    plot::{self, Row},
    results::{RunResult, mean_and_interval},
};

/// What stands between these lines is written by the command; the rest of the page by people.
const BEGIN: &str = "<!-- results: written by `cargo xtask experiment algorithms` -->";
const END: &str = "<!-- end of results -->";

/// Writes the plot, and the table into the page.
pub fn write(root: &Path, results: &[RunResult]) -> Result<()> {
    let rows: Vec<Row> = ALGORITHMS
        .iter()
        .map(|&(name, _)| Row { name: name.to_owned(), values: accuracies(results, name, "test") })
        .filter(|row| !row.values.is_empty())
        .collect();
    let start = accuracies(results, "sft", "test").first().copied();
    fs::write(root.join(FOLDER).join("accuracy.svg"), plot::svg(&rows, start))?;
    let path = root.join("docs/experiments/algorithms.md");
    let page = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    fs::write(&path, with_results(&page, &table(results))?).with_context(|| path.display().to_string())
}

fn of<'a>(results: &'a [RunResult], algorithm: &str) -> Vec<&'a RunResult> {
    let mut found: Vec<&RunResult> = results.iter().filter(|r| r.algorithm == algorithm).collect();
    found.sort_by_key(|result| result.seed);
    found
}

fn accuracies(results: &[RunResult], algorithm: &str, split: &str) -> Vec<f64> {
    of(results, algorithm).iter().map(|result| result.part(split, "accuracy")).collect()
}

fn with_results(page: &str, table: &str) -> Result<String> {
    let begin = page.find(BEGIN).context("algorithms.md: the mark before the results is missing")?;
    let end = page.find(END).context("algorithms.md: the mark after the results is missing")?;
    Ok(format!("{}{BEGIN}\n\n{table}\n{}", &page[..begin], &page[end..]))
}

fn with_interval(values: &[f64]) -> String {
    match mean_and_interval(values) {
        (mean, Some(half)) => format!("{mean:.3} ± {half:.3}"),
        (mean, None) => format!("{mean:.3}"),
    }
}

/// The table of all algorithms that have a result, and what is missing.
fn table(results: &[RunResult]) -> String {
    let mut lines = vec![
        "| algorithm | test, by seed | test | test_voice | total on test | steps | trained tokens | minutes | peak MB |"
            .to_owned(),
        "|---|---|---|---|---|---|---|---|---|".to_owned(),
    ];
    if let Some(start) = of(results, "sft").first() {
        let at = |split: &str| start.part(split, "accuracy");
        let (test, voice, total) = (at("test"), at("test_voice"), start.total("test"));
        lines.push(format!("| (SFT, the start) | | {test:.3} | {voice:.3} | {total:.3} | | | | |"));
    }
    let seeds = {
        let mut seeds: Vec<u64> =
            results.iter().filter(|r| r.algorithm != "sft").map(|r| r.seed).chain(1..=3).collect();
        seeds.sort_unstable();
        seeds.dedup();
        seeds
    };
    let mut missing = Vec::new();
    for (name, _) in ALGORITHMS {
        let runs = of(results, name);
        let absent = seeds.iter().filter(|&&seed| runs.iter().all(|run| run.seed != seed));
        missing.extend(absent.map(|seed| format!("{name} with seed {seed}")));
        if !runs.is_empty() {
            lines.push(row(name, &runs, results));
        }
    }
    let missing = match missing.is_empty() {
        true => "No run is missing.".to_owned(),
        false => format!("Missing: {}.", missing.join(", ")),
    };
    lines.extend([String::new(), missing, String::new()]);
    lines.push("![accuracy on test by algorithm](algorithms/accuracy.svg)".to_owned());
    lines.join("\n") + "\n"
}

fn row(name: &str, runs: &[&RunResult], results: &[RunResult]) -> String {
    let mean =
        |value: fn(&RunResult) -> f64| runs.iter().map(|run| value(run)).sum::<f64>() / runs.len() as f64;
    let test = accuracies(results, name, "test");
    let seeds: Vec<String> = test.iter().map(|value| format!("{value:.3}")).collect();
    format!(
        "| `{name}` | {} | {} | {} | {} | {:.0} | {:.0} k | {:.2} | {:.0} |",
        seeds.join(" / "),
        with_interval(&test),
        with_interval(&accuracies(results, name, "test_voice")),
        with_interval(&runs.iter().map(|run| run.total("test")).collect::<Vec<_>>()),
        mean(|run| run.steps as f64),
        mean(|run| run.trained_tokens as f64) / 1e3,
        mean(|run| run.wall_s) / 60.0,
        mean(|run| run.peak_rss_mb),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn result(algorithm: &str, seed: u64, test: f64) -> RunResult {
        let parts = ["accuracy", "format", "heard", "tile", "running_count"];
        let parts: BTreeMap<String, f64> = parts.map(|part| (part.to_owned(), test)).into();
        RunResult {
            algorithm: algorithm.to_owned(),
            seed,
            settings: Vec::new(),
            eval: ["test", "test_voice"].map(|split| (split.to_owned(), parts.clone())).into(),
            steps: 10,
            generated_tokens: 2000,
            trained_tokens: 1500,
            wall_s: 90.0,
            peak_rss_mb: 200.0,
        }
    }

    #[test]
    fn the_table_says_what_is_there_and_what_is_missing() {
        let results =
            [result("sft", 1, 0.3), result("grpo", 2, 0.5), result("grpo", 1, 0.4), result("rloo", 1, 0.6)];
        let table = table(&results);
        assert!(table.contains("| (SFT, the start) | | 0.300 | 0.300 | 0.930 |"), "{table}");
        assert!(table.contains("| `grpo` | 0.400 / 0.500 | 0.450 ± 0.635 |"), "{table}");
        assert!(
            table.contains("| `rloo` | 0.600 | 0.600 | 0.600 | 1.860 | 10 | 2 k | 1.50 | 200 |"),
            "{table}"
        );
        assert!(table.contains("grpo with seed 3") && table.contains("vapo with seed 1"), "{table}");
    }

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let page = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let written = with_results(&page, "new\n").unwrap();
        assert_eq!(written, format!("before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"));
        assert_eq!(with_results(&written, "new\n").unwrap(), written);
        assert!(with_results("no marks", "new").is_err());
    }
}
