//! Rewards of answers, a case a line: mathematics, boxes, transcripts, and answers in whole completions.

use anyhow::{Context, Result, bail};
use kyoka_core::{Completion, Reward, RewardContext, RewardFn, Sample};
use kyoka_reward::{
    AnswerPlace, BoxMatch, BoxMeasure, ChoiceAnswer, ErrorRates, Format, MathAnswer, NumericAnswer, PixelBox,
    answer, boxes_of,
};
use serde_json::Value;

use super::report::{Checks, Precision, Report};

/// Least share of pairs on which the rule for mathematics must agree.
const AGREEMENT: f64 = 0.95;

/// Runs the cases of a file.
pub fn run(name: &str, text: &str, report: &mut Report) {
    let (mut pairs, mut agreed) = (0, 0);
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let row: Value = match serde_json::from_str(line) {
            Ok(row) => row,
            Err(error) => {
                report.broken("line", &format!("{name}:{}", number + 1), &error.to_string());
                continue;
            }
        };
        let id = row["id"].as_str().map_or_else(|| format!("{name}:{}", number + 1), str::to_owned);
        if row.get("pred").is_some() {
            if row.get("quirk").is_some_and(|quirk| *quirk != Value::Bool(false))
                || row.get("human_expected").is_some()
            {
                continue;
            }
            let (told, expected) = (mathematics(&row), row["expected"].as_bool());
            pairs += 1;
            agreed += usize::from(told == expected);
            if told != expected {
                let word = if told == Some(true) { "right here only" } else { "right there only" };
                report.note(&format!("{name} {id}: {word}: gold {}, given {}", row["gold"], row["pred"]));
            }
            continue;
        }
        let kind = match () {
            () if row.get("a_xyxy").is_some() => "overlap",
            () if row.get("reference").is_some() || row.get("references").is_some() => "error_rates",
            () if row.get("prediction").is_some() => "extraction",
            () => {
                report.unknown("line", &id);
                continue;
            }
        };
        if row["certainty"] == "policy" && !policy_holds(&row) {
            report.note(&format!(
                "{name} {id}: a matter of policy, told otherwise here: {}",
                row["prediction"]
            ));
            continue;
        }
        report.checks(kind, &id, false, |checks| match kind {
            "overlap" => overlap(&row, checks),
            "error_rates" => error_rates(&row, checks),
            _ => extraction(&row, checks),
        });
    }
    if pairs > 0 {
        report.checks("mathematics", name, false, |checks| {
            let share = f64::from(agreed as u32) / f64::from(pairs);
            checks.at_least("agreement", share, AGREEMENT);
            Ok(())
        });
    }
}

/// What the rule for mathematics says of a pair.
fn mathematics(row: &Value) -> Option<bool> {
    let decimals = row["precision"].as_u64().map_or(6, |decimals| decimals.min(12) as u32);
    let rule = MathAnswer { decimals, ..MathAnswer::default() };
    Some(rule.same(row["gold"].as_str()?, row["pred"].as_str()?) == Some(true))
}

fn numbers(value: &Value) -> Option<[f64; 4]> {
    let numbers: Vec<f64> = value.as_array()?.iter().map(Value::as_f64).collect::<Option<_>>()?;
    numbers.try_into().ok()
}

fn overlap(row: &Value, checks: &mut Checks) -> Result<()> {
    let of = |corners: &str, sides: &str| {
        let from_sides = |[x, y, w, h]: [f64; 4]| [x, y, x + w, y + h];
        [numbers(&row[corners]), numbers(&row[sides]).map(from_sides)].map(|corners| PixelBox::new(corners?))
    };
    let (a, b) = (of("a_xyxy", "a_xywh"), of("b_xyxy", "b_xywh"));
    if row.get("must").is_some() {
        // A box that is none is refused before it is measured; what is one has a value in range.
        let value = a[0].zip(b[0]).map_or(0.0, |(a, b)| a.iou(b));
        checks.number("in range", f64::from(u8::from((0.0..=1.0).contains(&value))), 1.0, Precision::Exact);
        return Ok(());
    }
    for (a, b) in a.into_iter().zip(b) {
        let (a, b) = a.zip(b).context("expected two boxes")?;
        for (name, got) in [("iou", a.iou(b)), ("giou", a.giou(b))] {
            checks.number(name, got, row[name].as_f64().context("no value")?, Precision::Single);
        }
    }
    Ok(())
}

fn error_rates(row: &Value, checks: &mut Checks) -> Result<()> {
    let texts = |one: &str, several: &str| -> Result<Vec<String>> {
        match (row[one].as_str(), row[several].as_array()) {
            (Some(text), _) => Ok(vec![text.to_owned()]),
            (None, Some(texts)) => {
                texts.iter().map(|text| Ok(text.as_str().context("expected a text")?.to_owned())).collect()
            }
            (None, None) => bail!("no {one}"),
        }
    };
    let mut rates = ErrorRates::default();
    let (references, hypotheses) = (texts("reference", "references")?, texts("hypothesis", "hypotheses")?);
    references.iter().zip(&hypotheses).for_each(|(reference, hypothesis)| rates.add(reference, hypothesis));
    let got = [("wer", rates.word_rate()), ("cer", rates.character_rate())];
    if row.get("must").is_some() {
        let finite = got.iter().all(|(_, rate)| rate.is_none_or(f64::is_finite));
        checks.number("a number or none", f64::from(u8::from(finite)), 1.0, Precision::Exact);
        return Ok(());
    }
    for (name, rate) in got {
        let (rate, expected) = (rate.context("no rate")?, row[name].as_f64().context("no value")?);
        let other = row["alt"][name].as_f64().filter(|other| (other - rate).abs() <= 1e-9);
        checks.number(name, rate, other.unwrap_or(expected), Precision::Double);
    }
    Ok(())
}

/// The completion of a case, finished.
fn completion(row: &Value) -> Result<Completion> {
    let text = row["prediction"].as_str().context("prediction: expected a text")?.to_owned();
    Ok(Completion { text, finished: true, ..Completion::default() })
}

/// Where the answer of a whole completion is looked for: in its section or box where there is one, else in all of it.
fn place(completion: &Completion, otherwise: AnswerPlace) -> AnswerPlace {
    let begun = completion.text.contains("<answer>");
    if begun || answer(completion).is_some() { AnswerPlace::Tag } else { otherwise }
}

fn judged(row: &Value) -> Result<Option<bool>> {
    let completion = completion(row)?;
    let mut sample = Sample { answer: Some(row["gold"].clone()), ..Sample::default() };
    if let Some(options) = row.get("options").filter(|options| !options.is_null()) {
        sample.extra.insert("options".to_owned(), options.clone());
    }
    let score =
        |rule: &dyn RewardFn| -> Result<Reward> { Ok(rule.score(&RewardContext::of(&sample), &completion)?) };
    let reward = match row["kind"].as_str() {
        Some("choice") => score(&ChoiceAnswer { answer: place(&completion, AnswerPlace::Whole) })?,
        Some("numeric") => {
            let relative_tolerance = row["rel_tol"].as_f64().unwrap_or(1e-6);
            score(&NumericAnswer { relative_tolerance, answer: place(&completion, AnswerPlace::LastNumber) })?
        }
        other => bail!("unknown kind {other:?}"),
    };
    Ok(reward.right)
}

fn extraction(row: &Value, checks: &mut Checks) -> Result<()> {
    let completion = completion(row)?;
    if let Some(ok) = row["format_ok"].as_bool() {
        let form = Format::default().score(&RewardContext::of(&Sample::default()), &completion)?;
        checks.number(
            "format",
            f64::from(form.total.unwrap_or(0.0)),
            f64::from(u8::from(ok)),
            Precision::Exact,
        );
    }
    if row["kind"] == "box" {
        let found =
            place(&completion, AnswerPlace::Whole).find(&completion).map(boxes_of).unwrap_or_default();
        let got = found.first().map_or(Vec::new(), |found| found.0.to_vec());
        checks.compare(
            "box",
            &got,
            &numbers(&row["expected_box"]).map_or(Vec::new(), Vec::from),
            Precision::Single,
        );
        // A reward is a number in range whatever was marked.
        let rule = BoxMatch { measure: BoxMeasure::Giou, ..BoxMatch::default() };
        let sample = Sample { answer: Some(row["gold"].clone()), ..Sample::default() };
        if rule.check_sample(&sample).is_ok() {
            let total = rule.score(&RewardContext::of(&sample), &completion)?.total.unwrap_or(0.0);
            checks.number(
                "reward in range",
                f64::from(u8::from((0.0..=1.0).contains(&total))),
                1.0,
                Precision::Exact,
            );
        }
        return Ok(());
    }
    let expected = row["expected_correct"].as_bool().context("expected_correct: expected true or false")?;
    let got = judged(row)? == Some(true);
    checks.number("correct", f64::from(u8::from(got)), f64::from(u8::from(expected)), Precision::Exact);
    Ok(())
}

/// Whether a case that is a matter of policy is told as expected.
fn policy_holds(row: &Value) -> bool {
    match row["expected_correct"].as_bool() {
        Some(expected) => judged(row).is_ok_and(|got| (got == Some(true)) == expected),
        None => true,
    }
}
