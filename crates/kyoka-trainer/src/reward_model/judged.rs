//! Judgements as token ids.

use kyoka_core::{PackedGroup, Prompt, Sample, Task, TaskError};
use kyoka_data::PreferenceRow;
use serde_json::Value;

use super::JudgementKind;
use crate::{PackItem, TrainError, plan_micro_batches};

/// The rows of a split of judgements.
#[derive(Debug, Clone, Copy)]
pub enum Judgements<'a> {
    /// Comparisons.
    Pairs(&'a [PreferenceRow]),
    /// Completions with a `label` or a `score` each.
    Single(&'a [Sample]),
}

impl<'a> Judgements<'a> {
    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Pairs(rows) => rows.len(),
            Self::Single(rows) => rows.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A row's prompt, and whatever else it says.
    pub fn sample(&self, row: usize) -> &'a Sample {
        match self {
            Self::Pairs(rows) => &rows[row].sample,
            Self::Single(rows) => &rows[row],
        }
    }

    /// A row with its tokens.
    pub(super) fn judged(
        &self,
        task: &dyn Task,
        row: usize,
        kind: JudgementKind,
    ) -> Result<Judged, TrainError> {
        let sample = self.sample(row);
        let unfit = TrainError::row(sample);
        let prompt = task.prompt(sample, None).map_err(&unfit)?;
        let (completions, target) = match (self, kind) {
            (Self::Pairs(rows), JudgementKind::Pairs) => {
                let PreferenceRow { chosen, rejected, margin, tie, .. } = &rows[row];
                let encode = |text: &str| task.encode(text).map_err(&unfit);
                (vec![encode(chosen)?, encode(rejected)?], Target::Pair { margin: *margin, tie: *tie })
            }
            (Self::Single(_), JudgementKind::Labels | JudgementKind::Scores) => {
                let target = Target::of(sample, kind).map_err(|reason| unfit(reason.into()))?;
                (vec![task.target(sample).map_err(&unfit)?], target)
            }
            (Self::Single(_), JudgementKind::Pairs) => {
                return Err(unfit(TaskError::from("expected a comparison, got a single completion")));
            }
            (Self::Pairs(_), _) => {
                return Err(unfit(TaskError::from("expected a single completion, got a comparison")));
            }
        };
        let tag = sample.extra.get("tag").and_then(Value::as_str).map(str::to_owned);
        Ok(Judged { prompt, completions, target, tag })
    }
}

/// A judgement with its tokens.
pub(super) struct Judged {
    pub prompt: Prompt,
    /// One, or the chosen and the rejected one.
    pub completions: Vec<Vec<u32>>,
    pub target: Target,
    /// What the row is about, for accuracies by it.
    pub tag: Option<String>,
}

/// What people have said of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Target {
    Pair { margin: Option<f32>, tie: bool },
    Label(bool),
    Score(f32),
}

impl Target {
    /// What a row of a single completion says.
    ///
    /// # Errors
    /// If it does not say it.
    pub fn of(sample: &Sample, kind: JudgementKind) -> Result<Self, String> {
        if kind == JudgementKind::Labels {
            let got = || sample.extra.get("label").map_or_else(|| "none".to_owned(), Value::to_string);
            let none = || format!("label: expected true or false, got {}", got());
            return sample.label.map(Self::Label).ok_or_else(none);
        }
        match sample.extra.get("score").map(|value| (value, value.as_f64())) {
            Some((_, Some(score))) if score.is_finite() => Ok(Self::Score(score as f32)),
            Some((value, _)) => Err(format!("score: expected a finite number, got {value}")),
            None => Err("score: expected a number, got none".to_owned()),
        }
    }
}

/// Refuses rows that do not say what a kind of judgement needs.
///
/// # Errors
/// Says which field is missing or no such thing.
pub fn check_judgement(sample: &Sample, kind: JudgementKind) -> Result<(), String> {
    if kind == JudgementKind::Pairs { Ok(()) } else { Target::of(sample, kind).map(drop) }
}

impl Judged {
    pub fn group(&self) -> PackedGroup<'_> {
        let completions = self.completions.iter().map(|ids| ids.into()).collect();
        PackedGroup { prompt: &self.prompt, completions }
    }
}

/// Places of a batch as micro-batches; both completions of a pair stay together.
pub(super) fn micro_batches(batch: &[Judged], token_budget: usize) -> Vec<Vec<usize>> {
    let item = |judged: &Judged| PackItem {
        prompt_len: judged.prompt.len(),
        completion_lens: vec![judged.completions.iter().map(Vec::len).sum()],
    };
    let items: Vec<PackItem> = batch.iter().map(item).collect();
    let planned = plan_micro_batches(&items, token_budget);
    planned.into_iter().map(|batch| batch.into_iter().map(|(place, _)| place).collect()).collect()
}
