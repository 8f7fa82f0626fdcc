//! `report.html`: one page that needs nothing else.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::embed::Embedder;
use crate::Error;

const TEMPLATE: &str = include_str!("report.html");

/// Rows of the table of samples.
const MAX_SAMPLES: usize = 40;

/// Makes the page from `summary.json`, `metrics.jsonl` and `samples.jsonl` of a run's folder.
///
/// # Errors
/// If one of them cannot be read, or the page cannot be written.
pub fn write_report(folder: &Path) -> Result<PathBuf, Error> {
    let summary_path = folder.join("summary.json");
    let summary = fs::read(&summary_path).map_err(|error| Error::file(&summary_path, error))?;
    let summary: Value =
        serde_json::from_slice(&summary).map_err(|error| Error::file(&summary_path, error))?;
    let metrics = read_lines(&folder.join("metrics.jsonl"))?;
    let samples = pick(read_lines(&folder.join("samples.jsonl"))?);
    let mut embedder = Embedder::default();
    let samples: Vec<Value> = samples.into_iter().map(|line| with_media(line, &mut embedder)).collect();
    let data = json!({"summary": summary, "metrics": metrics, "samples": samples});
    // A tag inside a text must not act on the page that holds the data.
    let page = TEMPLATE.replace("__DATA__", &data.to_string().replace('<', "\\u003c"));
    let (path, aside) = (folder.join("report.html"), folder.join("report.html.tmp"));
    fs::write(&aside, page)
        .and_then(|()| fs::rename(&aside, &path))
        .map_err(|error| Error::file(&path, error))?;
    Ok(path)
}

fn read_lines(path: &Path) -> Result<Vec<Value>, Error> {
    let file = fs::File::open(path).map_err(|error| Error::file(path, error))?;
    let mut values = Vec::new();
    for line in BufReader::new(file).lines() {
        let line = line.map_err(|error| Error::file(path, error))?;
        values.push(serde_json::from_str(&line).map_err(|error| Error::file(path, error))?);
    }
    Ok(values)
}

/// Half from the last evaluations, half spread over training, newest first.
fn pick(lines: Vec<Value>) -> Vec<Value> {
    let (evaluated, sampled): (Vec<Value>, Vec<Value>) =
        lines.into_iter().partition(|line| !line["split"].is_null());
    let spread = |lines: Vec<Value>, count: usize| -> Vec<Value> {
        let stride = lines.len().div_ceil(count).max(1);
        lines.into_iter().rev().step_by(stride).collect()
    };
    let last = evaluated.last().map(|line| (line["stage"].clone(), line["step"].clone()));
    let newest: Vec<Value> = evaluated
        .into_iter()
        .filter(|line| {
            last.as_ref().is_some_and(|(stage, step)| line["stage"] == *stage && line["step"] == *step)
        })
        .collect();
    let mut picked = spread(newest, MAX_SAMPLES / 2);
    picked.extend(spread(sampled, MAX_SAMPLES / 2));
    picked
}

fn with_media(mut line: Value, embedder: &mut Embedder) -> Value {
    for field in ["images", "audios"] {
        let Some(paths) = line["sample"][field].as_array() else { continue };
        let media: Vec<Value> = paths
            .iter()
            .map(|path| {
                let path = Path::new(path.as_str().unwrap_or_default());
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
                json!({"name": name, "url": embedder.data_url(path)})
            })
            .collect();
        line["sample"][field] = Value::Array(media);
    }
    line
}
