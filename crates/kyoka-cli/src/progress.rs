//! What the user sees while training, and at the end.

use std::{
    fmt::Write as _,
    io::{IsTerminal, Write as _},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use kyoka::{
    Outcome,
    trainer::{EvalReport, EvalSummary, Observer, StepReport, TrainError},
};
use serde_json::json;

use crate::stopping::say;

/// The observer that fits the flags and the terminal.
pub fn observer(quiet: bool, as_json: bool) -> Box<dyn Observer> {
    match (quiet, as_json) {
        (true, _) => Box::new(WarningsAlone),
        (_, true) => Box::new(JsonLines),
        _ => Box::new(ProgressLine::new(std::io::stderr().is_terminal())),
    }
}

/// Warnings on standard error, and nothing else.
struct WarningsAlone;

impl Observer for WarningsAlone {
    fn on_step(&mut self, report: &StepReport) -> Result<(), TrainError> {
        if let Some(warning) = &report.warning {
            say(&format!("warning: step {}: {warning}", report.step));
        }
        Ok(())
    }

    fn on_eval(&mut self, _: &str, _: usize, _: &[EvalReport]) -> Result<(), TrainError> {
        Ok(())
    }

    fn on_warning(&mut self, warning: &str) -> Result<(), TrainError> {
        say(&format!("warning: {warning}"));
        Ok(())
    }
}

/// One JSON object a step or evaluation, on standard output.
struct JsonLines;

/// One line on standard output; a reader that went away stops the run as a full disk would.
fn json_line(value: &serde_json::Value) -> Result<(), TrainError> {
    let written = writeln!(std::io::stdout(), "{value}");
    written.map_err(|source| TrainError::Write { path: "standard output".into(), source })
}

impl Observer for JsonLines {
    fn on_step(&mut self, report: &StepReport) -> Result<(), TrainError> {
        if let Some(warning) = &report.warning {
            json_line(&json!({"warning": warning}))?;
        }
        json_line(&json!({"stage": report.stage, "step": report.step, "metrics": report.metrics}))
    }

    fn on_eval(&mut self, stage: &str, step: usize, splits: &[EvalReport]) -> Result<(), TrainError> {
        let summaries: Vec<&EvalSummary> = splits.iter().map(|split| &split.summary).collect();
        json_line(&json!({"stage": stage, "step": step, "eval": summaries}))
    }

    fn on_warning(&mut self, warning: &str) -> Result<(), TrainError> {
        json_line(&json!({"warning": warning}))
    }
}

/// A line that moves in a terminal; plain lines now and then elsewhere.
struct ProgressLine {
    terminal: bool,
    bar: Option<(String, ProgressBar)>,
    stage_began: Instant,
    first_step: usize,
    last_plain: Instant,
}

/// Time between plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

impl ProgressLine {
    fn new(terminal: bool) -> Self {
        let now = Instant::now();
        Self { terminal, bar: None, stage_began: now, first_step: 0, last_plain: now }
    }

    fn begin(&mut self, report: &StepReport) {
        self.stage_began = Instant::now();
        self.first_step = report.step;
        let bar =
            if self.terminal { ProgressBar::new(report.total_steps as u64) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{prefix:>13} {bar:24} {pos}/{len} {msg}");
        bar.set_style(style.expect("the template is valid"));
        bar.set_prefix(report.stage.clone());
        self.bar = Some((report.stage.clone(), bar));
    }

    fn print(&self, line: &str) {
        match &self.bar {
            Some((_, bar)) if self.terminal => bar.println(line),
            _ => say(line),
        }
    }

    fn message(&self, report: &StepReport) -> String {
        let metric = |name: &str| report.metrics.get(name);
        let mut text = String::new();
        for (label, name) in [("loss", "loss"), ("reward", "reward/total"), ("accuracy", "reward/accuracy")] {
            // A surrogate's value says nothing.
            let is_surrogate = label == "loss" && metric("reward/total").is_some();
            if let Some(value) = metric(name).filter(|_| !is_surrogate) {
                let _ = write!(text, "{label} {value:.3}  ");
            }
        }
        if let Some(value) = metric("completion_length") {
            let _ = write!(text, "length {value:.1}  ");
        }
        if let Some(value) = metric("truncated_share").filter(|value| *value > 0.0) {
            let _ = write!(text, "cut off {:.0} %  ", 100.0 * value);
        }
        if let Some(value) = metric("zero_variance_share") {
            let _ = write!(text, "no spread {:.0} %  ", 100.0 * value);
        }
        let done = report.step - self.first_step;
        if done > 0 {
            let per_step = self.stage_began.elapsed().as_secs_f64() / done as f64;
            let left = per_step * (report.total_steps - report.step) as f64;
            let _ = write!(text, "{per_step:.2} s/step  {} left", clock(left));
        }
        text
    }
}

fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

impl Observer for ProgressLine {
    fn on_step(&mut self, report: &StepReport) -> Result<(), TrainError> {
        if self.bar.as_ref().is_none_or(|(stage, _)| *stage != report.stage) {
            self.begin(report);
        }
        let message = self.message(report);
        if let Some((_, bar)) = &self.bar {
            bar.set_position(report.step as u64);
            bar.set_message(message.clone());
        }
        if let Some(warning) = &report.warning {
            self.print(&format!("warning: step {}: {warning}", report.step));
        }
        let last = report.step == report.total_steps;
        if !self.terminal && (last || self.last_plain.elapsed() >= PLAIN_EVERY) {
            self.last_plain = Instant::now();
            say(&format!("{:>13} {}/{}  {message}", report.stage, report.step, report.total_steps));
        }
        if let (true, Some((_, bar))) = (last, &self.bar) {
            bar.finish();
        }
        Ok(())
    }

    fn on_eval(&mut self, stage: &str, step: usize, splits: &[EvalReport]) -> Result<(), TrainError> {
        for EvalReport { summary, .. } in splits {
            let moment = if step == 0 { "at start".to_owned() } else { format!("{step}") };
            let mut line = format!("{stage:>13} {moment}: {:<11}", summary.split);
            for (name, value) in summary.parts.iter().filter(|(name, _)| name != "length") {
                let _ = write!(line, " {name} {value:.3}");
            }
            self.print(&line);
        }
        Ok(())
    }

    fn on_warning(&mut self, warning: &str) -> Result<(), TrainError> {
        self.print(&format!("warning: {warning}"));
        Ok(())
    }
}

/// Columns of the table at the end of a run, those that are there: the part and its heading.
const COLUMNS: [(&str, &str); 4] =
    [("accuracy", "accuracy"), ("format", "format"), ("total", "total"), ("truncated_share", "cut off")];

/// The end of a run: a table and where the files are.
pub fn results(outcome: &Outcome) -> String {
    let summary = &outcome.summary;
    let mut text = format!(
        "\n{}: {:.1} minutes, {:.2} M parameters, peak memory {:.0} MB\n\n",
        summary.recipe,
        summary.wall_s / 60.0,
        summary.params as f64 / 1e6,
        summary.peak_rss_mb,
    );
    let results = || summary.eval.values().flat_map(|moments| moments.values());
    // Of the chances to be right in so many tries, that of all.
    let tries = |name: &String| Some((name.strip_prefix("pass@")?.parse::<usize>().ok()?, name.clone()));
    let pass = results().flat_map(|means| means.keys()).filter_map(tries).max();
    let pass = pass.as_ref().map(|(_, name)| (name.as_str(), name.as_str()));
    let there = |(part, _): &(&str, &str)| results().any(|means| means.contains_key(*part));
    let columns: Vec<(&str, &str)> = COLUMNS.into_iter().chain(pass).filter(there).collect();
    let _ = write!(text, "  {:<12} {:<20}", "split", "moment");
    for (_, heading) in &columns {
        let _ = write!(text, " {heading:>8}");
    }
    text.push('\n');
    for (split, moments) in &summary.eval {
        for moment in summary.moments().into_iter().filter(|moment| moments.contains_key(*moment)) {
            let _ = write!(text, "  {split:<12} {:<20}", moment.replace('_', " "));
            for (part, _) in &columns {
                let cell = moments[moment].get(*part).map_or(String::new(), |mean| format!("{mean:.3}"));
                let _ = write!(text, " {cell:>8}");
            }
            text.push('\n');
        }
    }
    let folder = outcome.run_folder.display();
    let _ = writeln!(text, "\nresults: {folder}\nreport:  {folder}/report.html");
    text
}
