//! Importance weights and keep masks.

use anyhow::Result;
use kyoka_algorithms::{
    Correction, WeightBound, WeightLevel,
    correction::{RejectionLevel, RejectionRule, keep_mask},
};

use super::{
    case::{Case, kept},
    policy_losses::scatter,
    report::{Checks, Precision},
    unknown,
};

pub fn run(case: &Case<'_>, checks: &mut Checks) -> Result<()> {
    let mask = case.mask("mask")?;
    let log_ratios = kept(&case.table("log_ratio")?, &mask);
    if let Some(name) = case.kind().strip_prefix("keep_mask:") {
        let (level, rule) = rejection(case, name)?;
        let keep = keep_mask(rule, level, &log_ratios);
        let numbers: Vec<Vec<f64>> =
            keep.iter().map(|row| row.iter().map(|&keep| f64::from(u8::from(keep))).collect()).collect();
        let expected = case.table("keep")?.concat();
        checks.compare("keep", &scatter(&numbers, &mask).concat(), &expected, Precision::Exact);
    } else {
        let weights = correction(case)?.weights(&log_ratios);
        let expected = case.table("weights")?.concat();
        checks.compare("weights", &scatter(&weights, &mask).concat(), &expected, Precision::Double);
    }
    Ok(())
}

fn correction(case: &Case<'_>) -> Result<Correction> {
    let (name, normalise) = match case.kind().strip_suffix("_batch_normalised") {
        Some(name) => (name, true),
        None => (case.kind(), false),
    };
    let truncate = || Ok::<_, anyhow::Error>(WeightBound::Truncate { cap: case.parameter("cap")? });
    let masked = || -> Result<WeightBound> {
        Ok(WeightBound::Mask { low: case.parameter("low")?, high: case.parameter("high")? })
    };
    let (level, bound) = match name {
        "tis_token" => (WeightLevel::Token, truncate()?),
        "tis_sequence" => (WeightLevel::Sequence, truncate()?),
        "tis_geometric" => (WeightLevel::Geometric, truncate()?),
        "mis_token" => (WeightLevel::Token, masked()?),
        "mis_sequence" => (WeightLevel::Sequence, masked()?),
        "mis_geometric" => (WeightLevel::Geometric, masked()?),
        other => return unknown("kind", other),
    };
    Ok(Correction { level, bound, normalise })
}

fn rejection(case: &Case<'_>, name: &str) -> Result<(RejectionLevel, RejectionRule)> {
    let Some((level, estimator)) = name.rsplit_once('_') else { return unknown("kind", name) };
    let level = match level {
        "token" => RejectionLevel::Token,
        "seq_sum" => RejectionLevel::SequenceSum,
        "seq_mean" => RejectionLevel::SequenceMean,
        "seq_max" => RejectionLevel::SequenceMax,
        other => return unknown("kind", other),
    };
    let rule = match estimator {
        "k1" => RejectionRule::K1 { low: case.parameter("ratio_low")?, high: case.parameter("ratio_high")? },
        "k2" => RejectionRule::K2 { max: case.parameter("max")? },
        "k3" => RejectionRule::K3 { max: case.parameter("max")? },
        other => return unknown("kind", other),
    };
    Ok((level, rule))
}
