//! Writes a run's files as training goes on.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use kyoka_trainer::{EvalReport, EvalSummary, Observer, SampleRecord, StepReport, TrainError};
use serde_json::{Value, json};

use super::tensorboard::EventWriter;

/// The observer that keeps everything, and passes it on to the user's.
pub(crate) struct RunLog<'a> {
    folder: PathBuf,
    metrics: File,
    samples: File,
    events: EventWriter,
    /// Steps of the stages before the one under way, for a common axis.
    steps_before: usize,
    stage_total: usize,
    pub(crate) inner: &'a mut dyn Observer,
}

/// Completions kept of a split at the end of a stage.
const SAMPLES_OF_A_SPLIT: usize = 24;

fn write_error(path: &Path) -> impl FnOnce(std::io::Error) -> TrainError + '_ {
    move |source| TrainError::Write { path: path.to_owned(), source }
}

impl<'a> RunLog<'a> {
    /// Opens the files of `folder`. Lines after the place the run resumes from (stage index, step) are dropped.
    pub(crate) fn open(
        folder: &Path,
        resume_from: Option<(usize, usize)>,
        stage_names: &[&str],
        inner: &'a mut dyn Observer,
    ) -> Result<Self, TrainError> {
        let open = |name: &str| -> Result<File, TrainError> {
            let path = folder.join(name);
            let kept = match resume_from {
                Some(place) => lines_before(&path, place, stage_names).map_err(write_error(&path))?,
                None => Vec::new(),
            };
            let aside = folder.join(format!("{name}.tmp"));
            fs::write(&aside, kept).and_then(|()| fs::rename(&aside, &path)).map_err(write_error(&path))?;
            OpenOptions::new().append(true).open(&path).map_err(write_error(&path))
        };
        let (metrics, samples) = (open("metrics.jsonl")?, open("samples.jsonl")?);
        let events = EventWriter::create(&folder.join("tensorboard")).map_err(write_error(folder))?;
        Ok(Self {
            folder: folder.to_owned(),
            metrics,
            samples,
            events,
            steps_before: 0,
            stage_total: 0,
            inner,
        })
    }

    /// Says that the next stage begins.
    pub(crate) fn begin_stage(&mut self, total_steps: usize) {
        self.steps_before += self.stage_total;
        self.stage_total = total_steps;
    }

    /// Adds completions to the samples; `split` is none for those of training.
    fn sample_lines(
        &mut self,
        (stage, step): (&str, usize),
        split: Option<&str>,
        records: &[SampleRecord],
    ) -> Result<(), TrainError> {
        let path = self.folder.join("samples.jsonl");
        for record in records {
            let line = json!({"stage": stage, "step": step, "split": split, "sample": record});
            writeln!(self.samples, "{line}").map_err(write_error(&path))?;
        }
        Ok(())
    }

    fn metric_line(&mut self, line: &Value) -> Result<(), TrainError> {
        writeln!(self.metrics, "{line}").map_err(write_error(&self.folder.join("metrics.jsonl")))
    }
}

/// The lines of a log that were written up to a place of the run.
fn lines_before(path: &Path, place: (usize, usize), stage_names: &[&str]) -> std::io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let Ok(file) = File::open(path) else { return Ok(kept) };
    for line in BufReader::new(file).lines() {
        let line = line?;
        let Ok(value) = serde_json::from_str::<Value>(&line) else { continue };
        let stage = stage_names.iter().position(|name| value["stage"] == **name).unwrap_or(usize::MAX);
        let step = value["step"].as_u64().unwrap_or(u64::MAX) as usize;
        if (stage, step) <= place {
            kept.extend_from_slice(line.as_bytes());
            kept.push(b'\n');
        }
    }
    Ok(kept)
}

impl Observer for RunLog<'_> {
    fn on_step(&mut self, report: &StepReport) -> Result<(), TrainError> {
        self.metric_line(&json!({"stage": report.stage, "step": report.step, "metrics": report.metrics}))?;
        self.sample_lines((report.stage, report.step), None, &report.samples)?;
        let tags: Vec<(String, f64)> = report
            .metrics
            .0
            .iter()
            .map(|(name, value)| (format!("{}/{name}", report.stage), *value))
            .collect();
        let values = tags.iter().map(|(tag, value)| (tag.as_str(), *value));
        self.events.scalars(self.steps_before + report.step, values).map_err(write_error(&self.folder))?;
        self.inner.on_step(report)
    }

    fn on_eval(&mut self, stage: &'static str, step: usize, splits: &[EvalReport]) -> Result<(), TrainError> {
        // Completions of the stage's last evaluation are kept, for the report.
        let last = step == self.stage_total;
        for split in splits.iter().filter(|_| last) {
            let kept = &split.samples[..split.samples.len().min(SAMPLES_OF_A_SPLIT)];
            self.sample_lines((stage, step), Some(&split.summary.split), kept)?;
        }
        let summaries: Vec<&EvalSummary> = splits.iter().map(|split| &split.summary).collect();
        self.metric_line(&json!({"stage": stage, "step": step, "eval": summaries}))?;
        let tags: Vec<(String, f64)> = summaries
            .iter()
            .flat_map(|summary| {
                summary.parts.iter().map(|(part, value)| (format!("eval/{}/{part}", summary.split), *value))
            })
            .collect();
        let values = tags.iter().map(|(tag, value)| (tag.as_str(), *value));
        self.events.scalars(self.steps_before + step, values).map_err(write_error(&self.folder))?;
        self.inner.on_eval(stage, step, splits)
    }

    fn on_warning(&mut self, warning: &str) -> Result<(), TrainError> {
        self.inner.on_warning(warning)
    }
}
