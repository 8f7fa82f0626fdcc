//! Comparisons, one line each, and the summary.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::json;

use super::case::Case;

/// Runs a case and adds its comparisons.
pub type Runner = fn(&Case<'_>, &mut Checks) -> Result<()>;

/// The precision of what is compared.
#[derive(Clone, Copy, PartialEq)]
pub enum Precision {
    /// Computed in f64: 1e-9 (1 + |b|).
    Double,
    /// Computed or handed over in f32: 1e-5 (1 + |b|), in extreme scenarios 1e-4 (1 + |b|).
    Single,
    /// Equal.
    Exact,
}

/// How near pixels must be, in levels of 0 to 255.
#[derive(Clone, Copy)]
pub struct Levels {
    /// Share of the values that must be within `typical`.
    pub share: f64,
    /// Bound of that share.
    pub typical: f64,
    /// Bound of all.
    pub most: f64,
    /// Bound of the mean difference.
    pub mean: f64,
}

/// One comparison.
struct Comparison {
    tensor: String,
    max_abs: f64,
    max_rel: f64,
    tolerance: String,
    pass: bool,
    note: String,
}

impl Comparison {
    fn new(tensor: &str, tolerance: String, (got, expected): (usize, usize)) -> Self {
        let pass = got == expected;
        let note = if pass { String::new() } else { format!("expected {expected} numbers, got {got}") };
        Self { tensor: tensor.to_owned(), max_abs: 0.0, max_rel: 0.0, tolerance, pass, note }
    }

    /// Takes a pair into account; its difference.
    fn add(&mut self, got: f64, expected: f64) -> f64 {
        let difference = (got - expected).abs();
        self.max_abs = worst(self.max_abs, difference);
        let relative = if difference == 0.0 { 0.0 } else { difference / expected.abs() };
        self.max_rel = worst(self.max_rel, relative);
        difference
    }
}

/// The comparisons of one case.
pub struct Checks {
    extreme: bool,
    comparisons: Vec<Comparison>,
}

impl Checks {
    /// Compares numbers one by one.
    pub fn compare(&mut self, tensor: &str, got: &[f64], expected: &[f64], precision: Precision) {
        let bound = match precision {
            Precision::Double => 1e-9,
            Precision::Single if self.extreme => 1e-4,
            Precision::Single => 1e-5,
            Precision::Exact => 0.0,
        };
        let tolerance = match precision {
            Precision::Exact => "exact".to_owned(),
            _ => format!("{bound:e}*(1+|b|)"),
        };
        let mut comparison = Comparison::new(tensor, tolerance, (got.len(), expected.len()));
        for (&a, &b) in got.iter().zip(expected) {
            let difference = comparison.add(a, b);
            // A difference that is no number fails.
            comparison.pass &= difference <= bound * (1.0 + b.abs());
        }
        self.comparisons.push(comparison);
    }

    /// Compares numbers one by one, each within `bound`.
    pub fn within(&mut self, tensor: &str, got: &[f32], expected: &[f32], bound: f64) {
        let mut comparison = Comparison::new(tensor, format!("{bound:e}"), (got.len(), expected.len()));
        for (&a, &b) in got.iter().zip(expected) {
            let difference = comparison.add(f64::from(a), f64::from(b));
            comparison.pass &= difference <= bound;
        }
        self.comparisons.push(comparison);
    }

    /// Compares numbers one by one, each within 1e-4 of the largest of them, or of 1.
    pub fn scaled(&mut self, tensor: &str, got: &[f32], expected: &[f32]) {
        let largest = expected.iter().fold(1.0_f64, |largest, &value| largest.max(f64::from(value.abs())));
        self.within(tensor, got, expected, 1e-4 * largest);
    }

    /// Compares all numbers together: the length of the difference over that of what was expected.
    pub fn relative_l2(&mut self, tensor: &str, got: &[f32], expected: &[f32], bound: f64) {
        let mut comparison = Comparison::new(tensor, format!("{bound:e} L2"), (got.len(), expected.len()));
        let (mut distance, mut length) = (0.0, 0.0);
        for (&a, &b) in got.iter().zip(expected) {
            let (a, b) = (f64::from(a), f64::from(b));
            comparison.max_abs = worst(comparison.max_abs, (a - b).abs());
            distance += (a - b) * (a - b);
            length += b * b;
        }
        comparison.max_rel = if distance == 0.0 { 0.0 } else { (distance / length).sqrt() };
        comparison.pass &= comparison.max_rel <= bound;
        self.comparisons.push(comparison);
    }

    /// Compares pixels, both in levels of 0 to 255.
    pub fn levels(&mut self, tensor: &str, got: &[f64], expected: &[f64], bound: Levels) {
        let Levels { share, typical, most, mean } = bound;
        let tolerance = format!("{typical} levels at {} %, {most} at all, mean {mean}", share * 100.0);
        let mut comparison = Comparison::new(tensor, tolerance, (got.len(), expected.len()));
        let (mut sum, mut far) = (0.0, 0_usize);
        for (&a, &b) in got.iter().zip(expected) {
            let difference = comparison.add(a, b);
            // Room for the rounding of values that were normalised; a difference that is no number is far.
            far += usize::from(difference.is_nan() || difference > typical + 1e-3);
            sum += difference;
            comparison.pass &= difference <= most + 1e-3;
        }
        let count = expected.len().max(1) as f64;
        comparison.pass &= far as f64 <= (1.0 - share) * count && sum <= (mean + 1e-3) * count;
        if comparison.note.is_empty() {
            comparison.note =
                format!("mean {:.3}, {far} of {} beyond {typical}", sum / count, expected.len());
        }
        self.comparisons.push(comparison);
    }

    /// Compares shapes.
    pub fn shape(&mut self, tensor: &str, got: &[usize], expected: &[usize]) {
        let wide = |shape: &[usize]| shape.iter().map(|&side| side as f64).collect::<Vec<_>>();
        self.compare(tensor, &wide(got), &wide(expected), Precision::Exact);
    }

    /// A share that must reach a bound.
    pub fn at_least(&mut self, tensor: &str, got: f64, bound: f64) {
        let mut comparison = Comparison::new(tensor, format!(">= {bound}"), (1, 1));
        comparison.add(got, bound);
        comparison.pass &= got >= bound;
        comparison.note = format!("{got:.4}");
        self.comparisons.push(comparison);
    }

    /// Compares single numbers.
    pub fn number(&mut self, tensor: &str, got: f64, expected: f64, precision: Precision) {
        self.compare(tensor, &[got], &[expected], precision);
    }
}

fn worst(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

#[derive(Default)]
struct Tally {
    cases: usize,
    comparisons: usize,
    failed: usize,
    unknown: usize,
}

/// All comparisons of a run.
pub struct Report {
    json: bool,
    kinds: BTreeMap<String, Tally>,
}

impl Report {
    pub fn new(json: bool) -> Self {
        Self { json, kinds: BTreeMap::new() }
    }

    /// Runs a case and prints its comparisons; an error or a panic is a failed comparison.
    pub fn case(&mut self, kind: &str, case: &Case<'_>, runner: Runner) {
        self.checks(kind, &case.id, case.is_extreme(), |checks| runner(case, checks));
    }

    /// Runs comparisons and prints them; an error or a panic is a failed comparison.
    pub fn checks(
        &mut self,
        kind: &str,
        id: &str,
        extreme: bool,
        runner: impl FnOnce(&mut Checks) -> Result<()>,
    ) {
        let mut checks = Checks { extreme, comparisons: Vec::new() };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runner(&mut checks)));
        let fault = match outcome {
            Ok(Ok(())) if checks.comparisons.is_empty() => Some("nothing to compare".to_owned()),
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some("panicked".to_owned()),
        };
        if let Some(fault) = fault.as_deref().filter(|fault| fault.starts_with("unknown ")) {
            self.line(kind, id, &failure("-", fault));
            self.tally(kind, |tally| tally.unknown += 1);
            return;
        }
        checks.comparisons.extend(fault.map(|fault| failure("-", &fault)));
        let failed = checks.comparisons.iter().filter(|comparison| !comparison.pass).count();
        for comparison in &checks.comparisons {
            self.line(kind, id, comparison);
        }
        let comparisons = checks.comparisons.len();
        self.tally(kind, |tally| {
            tally.cases += 1;
            tally.comparisons += comparisons;
            tally.failed += failed;
        });
    }

    /// Says something that counts neither way.
    pub fn note(&self, note: &str) {
        if self.json {
            println!("{}", json!({"note": note}));
        } else {
            println!("note: {note}");
        }
    }

    /// Counts something that nobody can run.
    pub fn unknown(&mut self, kind: &str, id: &str) {
        self.line(kind, id, &failure("-", "unknown kind"));
        self.tally(kind, |tally| tally.unknown += 1);
    }

    /// Counts something that could not be read.
    pub fn broken(&mut self, kind: &str, id: &str, note: &str) {
        self.line(kind, id, &failure("-", note));
        self.tally(kind, |tally| tally.failed += 1);
    }

    fn tally(&mut self, kind: &str, change: impl FnOnce(&mut Tally)) {
        change(self.kinds.entry(kind.to_owned()).or_default());
    }

    fn line(&self, kind: &str, id: &str, comparison: &Comparison) {
        let Comparison { tensor, max_abs, max_rel, tolerance, pass, note } = comparison;
        if self.json {
            let line = json!({
                "kind": kind, "case": id, "tensor": tensor, "max_abs": max_abs, "max_rel": max_rel,
                "tolerance": tolerance, "pass": pass, "note": note,
            });
            println!("{line}");
        } else {
            let verdict = if *pass { "pass" } else { "FAIL" };
            let note = if note.is_empty() { String::new() } else { format!("  {note}") };
            println!(
                "{verdict}  {id}  {tensor}  abs {max_abs:.1e}  rel {max_rel:.1e}  tol {tolerance}{note}"
            );
        }
    }

    /// Prints the summary by kind.
    pub fn finish(self) -> Result<()> {
        let sum = |count: fn(&Tally) -> usize| self.kinds.values().map(count).sum::<usize>();
        let (cases, comparisons) = (sum(|tally| tally.cases), sum(|tally| tally.comparisons));
        let (failed, unknown) = (sum(|tally| tally.failed), sum(|tally| tally.unknown));
        if self.json {
            let kind = |(kind, t): (&String, &Tally)| {
                let tally = json!({
                    "cases": t.cases, "comparisons": t.comparisons, "failed": t.failed, "unknown": t.unknown,
                });
                (kind.clone(), tally)
            };
            let kinds: serde_json::Map<_, _> = self.kinds.iter().map(kind).collect();
            let total = json!({
                "cases": cases, "comparisons": comparisons, "failed": failed, "unknown": unknown,
            });
            println!("{}", json!({ "summary": kinds, "total": total }));
        } else {
            println!(
                "\n{:<44} {:>6} {:>12} {:>7} {:>8}",
                "kind", "cases", "comparisons", "failed", "unknown"
            );
            for (kind, t) in &self.kinds {
                println!(
                    "{kind:<44.44} {:>6} {:>12} {:>7} {:>8}",
                    t.cases, t.comparisons, t.failed, t.unknown
                );
            }
            println!("{:<44} {cases:>6} {comparisons:>12} {failed:>7} {unknown:>8}", "total");
        }
        if cases == 0 && unknown == 0 {
            bail!("parity: no case found");
        }
        if failed + unknown > 0 {
            bail!("parity: {failed} comparison(s) failed, {unknown} case(s) of unknown kind");
        }
        Ok(())
    }
}

fn failure(tensor: &str, note: &str) -> Comparison {
    Comparison {
        tensor: tensor.to_owned(),
        max_abs: f64::NAN,
        max_rel: f64::NAN,
        tolerance: "-".to_owned(),
        pass: false,
        note: note.to_owned(),
    }
}
