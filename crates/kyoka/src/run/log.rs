//! Writes a run's files as training goes on.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
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
    /// Whether evaluations are those after the last step, of splits that nothing is chosen on.
    pub(crate) at_end: bool,
    pub(crate) inner: &'a mut dyn Observer,
}

/// Where a run goes on, and which evaluations it has had there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LogPlace {
    /// Stage index and steps done in it.
    pub place: (usize, usize),
    /// Whether the watched splits were evaluated there.
    pub evaluated: bool,
    /// Whether the final splits were.
    pub evaluated_at_end: bool,
}

/// Completions kept of a split at an evaluation.
const SAMPLES_OF_A_SPLIT: usize = 24;

fn write_error(path: &Path) -> impl FnOnce(std::io::Error) -> TrainError + '_ {
    move |source| TrainError::Write { path: path.to_owned(), source }
}

impl<'a> RunLog<'a> {
    /// Opens the files of `folder`. Lines after the place the run resumes from, and lines cut by a crash, are dropped.
    pub(crate) fn open(
        folder: &Path,
        resume_from: Option<LogPlace>,
        stage_names: &[String],
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
            at_end: false,
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
            let mut line = json!({"stage": stage, "step": step, "split": split, "sample": record});
            self.mark(&mut line);
            writeln!(self.samples, "{line}").map_err(write_error(&path))?;
        }
        Ok(())
    }

    /// Tells the lines of the evaluation at the end from others of the same step.
    fn mark(&self, line: &mut Value) {
        if self.at_end {
            line["final"] = true.into();
        }
    }

    fn metric_line(&mut self, mut line: Value) -> Result<(), TrainError> {
        self.mark(&mut line);
        writeln!(self.metrics, "{line}").map_err(write_error(&self.folder.join("metrics.jsonl")))
    }
}

/// The lines of a log that were written up to a place of the run; an evaluation there that the run does not know of will
/// be made again.
fn lines_before(path: &Path, from: LogPlace, stage_names: &[String]) -> std::io::Result<Vec<u8>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read?,
    };
    let mut kept = Vec::with_capacity(bytes.len());
    for line in bytes.split(|&byte| byte == b'\n') {
        // A line that is no JSON was cut when the run ended, perhaps within a character.
        let Ok(value) = serde_json::from_slice::<Value>(line) else { continue };
        let stage = stage_names.iter().position(|name| value["stage"] == **name).unwrap_or(usize::MAX);
        let step = value["step"].as_u64().unwrap_or(u64::MAX) as usize;
        let of_evaluation = !value["eval"].is_null() || !value["split"].is_null();
        let known = match value["final"].is_null() {
            true => from.evaluated,
            false => from.evaluated_at_end,
        };
        if (stage, step) < from.place || ((stage, step) == from.place && (known || !of_evaluation)) {
            kept.extend_from_slice(line);
            kept.push(b'\n');
        }
    }
    Ok(kept)
}

impl Observer for RunLog<'_> {
    fn on_step(&mut self, report: &StepReport) -> Result<(), TrainError> {
        self.metric_line(json!({"stage": report.stage, "step": report.step, "metrics": report.metrics}))?;
        self.sample_lines((&report.stage, report.step), None, &report.samples)?;
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

    fn on_eval(&mut self, stage: &str, step: usize, splits: &[EvalReport]) -> Result<(), TrainError> {
        for split in splits {
            let kept = &split.samples[..split.samples.len().min(SAMPLES_OF_A_SPLIT)];
            self.sample_lines((stage, step), Some(&split.summary.split), kept)?;
        }
        let summaries: Vec<&EvalSummary> = splits.iter().map(|split| &split.summary).collect();
        self.metric_line(json!({"stage": stage, "step": step, "eval": summaries}))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_cut_to_where_the_run_goes_on_and_mended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let lines = [
            r#"{"stage":"sft","step":2,"eval":[]}"#,
            r#"{"stage":"rl","step":1,"metrics":{}}"#,
            r#"{"stage":"rl","step":2,"metrics":{}}"#,
            r#"{"stage":"rl","step":2,"eval":[]}"#,
            r#"{"stage":"rl","step":2,"split":"test","sample":{}}"#,
            r#"{"stage":"rl","step":2,"eval":[],"final":true}"#,
            r#"{"stage":"rl","step":3,"metrics":{}}"#,
        ];
        let cut =
            [lines.join("\n").as_bytes(), b"\n{\"stage\":\"rl\",\"step\":1,\"sample\":\"\xe7\x8c"].concat();
        fs::write(&path, cut).unwrap();
        let kept = |evaluated, evaluated_at_end| {
            let place = LogPlace { place: (1, 2), evaluated, evaluated_at_end };
            let kept = lines_before(&path, place, &["sft".to_owned(), "rl".to_owned()]).unwrap();
            String::from_utf8(kept).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(kept(false, false), lines[..3]);
        assert_eq!(kept(true, false), lines[..5]);
        assert_eq!(kept(true, true), lines[..6]);
    }
}
