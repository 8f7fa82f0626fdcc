//! What a run came to, one JSON object a line.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write,
    path::Path,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// The preset, or `sft` for the start.
    pub algorithm: String,
    pub seed: u64,
    /// Settings that differ from the preset's.
    pub settings: Vec<String>,
    /// Means at the end, by split and reward part.
    pub eval: BTreeMap<String, BTreeMap<String, f64>>,
    pub steps: u64,
    pub generated_tokens: u64,
    pub trained_tokens: u64,
    pub wall_s: f64,
    pub peak_rss_mb: f64,
}

impl RunResult {
    /// The result of a finished run, from its `summary.json`.
    pub fn of_run(folder: &Path, algorithm: &str, seed: u64, settings: &[String]) -> Result<Self> {
        let path = folder.join("summary.json");
        let text = fs::read(&path).with_context(|| path.display().to_string())?;
        let summary: Value = serde_json::from_slice(&text)?;
        let moment = if algorithm == "sft" { "after_sft" } else { "after_rl" };
        let splits = summary["eval"].as_object().context("summary.json: no eval")?;
        let means = |(split, moments): (&String, &Value)| {
            let means = moments[moment].as_object();
            let means = means.with_context(|| format!("summary.json: {split}: nothing {moment}"))?.iter();
            let means = means.filter_map(|(part, mean)| Some((part.clone(), mean.as_f64()?)));
            Ok((split.clone(), means.collect()))
        };
        let count = |name: &str| summary[name].as_u64().unwrap_or(0);
        let number = |name: &str| summary[name].as_f64().unwrap_or(f64::NAN);
        Ok(Self {
            algorithm: algorithm.to_owned(),
            seed,
            settings: settings.to_vec(),
            eval: splits.iter().map(means).collect::<Result<_>>()?,
            steps: count("rl_steps"),
            generated_tokens: count("generated_tokens"),
            trained_tokens: count("trained_tokens"),
            wall_s: number("wall_s"),
            peak_rss_mb: number("peak_rss_mb"),
        })
    }

    /// A mean of the last evaluation; NaN if there is none.
    pub fn part(&self, split: &str, part: &str) -> f64 {
        self.eval.get(split).and_then(|parts| parts.get(part)).copied().unwrap_or(f64::NAN)
    }

    /// The total that `rl.toml` rewards, of greedy completions: one label of five is heard, four are seen.
    pub fn total(&self, split: &str) -> f64 {
        let part = |name| self.part(split, name);
        let words = (part("heard") + 4.0 * part("tile")) / 5.0;
        part("accuracy") + 0.1 * part("format") + words + part("running_count")
    }
}

/// All results of a file; none if there is no file.
pub fn read(path: &Path) -> Result<Vec<RunResult>> {
    let text = match path.is_file() {
        true => fs::read_to_string(path).with_context(|| path.display().to_string())?,
        false => String::new(),
    };
    let line = |(number, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("{}:{}", path.display(), number + 1))
    };
    text.lines().enumerate().map(line).collect()
}

/// Adds a result to the file.
pub fn append(path: &Path, result: &RunResult) -> Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    writeln!(file, "{}", serde_json::to_string(result)?).with_context(|| path.display().to_string())
}

/// Mean, and half of the 95 % interval by Student's t; no interval for a single value.
pub fn mean_and_interval(values: &[f64]) -> (f64, Option<f64>) {
    // 0.975 quantiles for 1 to 9 degrees of freedom.
    const T: [f64; 9] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262];
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let freedom = values.len().saturating_sub(1);
    if freedom == 0 {
        return (mean, None);
    }
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / freedom as f64;
    let t = T.get(freedom - 1).copied().unwrap_or(1.96);
    (mean, Some(t * (variance / count).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_by_hand() {
        assert_eq!(mean_and_interval(&[0.5]), (0.5, None));
        let (mean, half) = mean_and_interval(&[1.0, 2.0, 3.0]);
        assert_eq!(mean, 2.0);
        assert!((half.unwrap() - 4.303 / 3.0_f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn the_total_is_that_of_the_recipe() {
        let parts =
            [("accuracy", 0.5), ("format", 1.0), ("heard", 1.0), ("tile", 0.5), ("running_count", 0.9)];
        let parts = parts.map(|(part, mean)| (part.to_owned(), mean)).into();
        let result = RunResult { eval: [("test".to_owned(), parts)].into(), ..RunResult::default() };
        assert!((result.total("test") - (0.5 + 0.1 + 0.6 + 0.9)).abs() < 1e-12);
        assert!(result.total("other").is_nan());
    }

    #[test]
    fn results_are_kept_a_line_each() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        assert!(read(&path).unwrap().is_empty());
        fs::write(
            folder.path().join("summary.json"),
            r#"{"rl_steps": 4, "generated_tokens": 90, "trained_tokens": 80, "wall_s": 1.5, "peak_rss_mb": 200.0,
                "eval": {"test": {"after_rl": {"accuracy": 0.25}}}}"#,
        )
        .unwrap();
        let result = RunResult::of_run(folder.path(), "grpo", 2, &["clip_low=0.1".to_owned()]).unwrap();
        append(&path, &result).unwrap();
        append(&path, &result).unwrap();
        assert_eq!(read(&path).unwrap(), [result.clone(), result.clone()]);
        assert_eq!((result.part("test", "accuracy"), result.generated_tokens), (0.25, 90));
        assert!(RunResult::of_run(folder.path(), "sft", 1, &[]).is_err(), "nothing after_sft");
    }
}
