//! Credit from rewards and values.

use anyhow::Result;
use kyoka_algorithms::advantage::{DecoupledGae, Gae, LengthAdaptiveGae};
use kyoka_core::{AdvantageEstimator, GroupRewards};

use super::{
    case::{Case, kept, widen},
    report::{Checks, Precision},
    unknown,
};

fn estimator(case: &Case<'_>, whiten: bool) -> Result<Box<dyn AdvantageEstimator>> {
    let gamma = case.optional("gamma").unwrap_or(1.0);
    let kind = case.kind();
    Ok(if kind.starts_with("vapo") {
        Box::new(LengthAdaptiveGae { gamma, alpha: case.parameter("alpha")?, whiten })
    } else if kind.starts_with("decoupled") {
        Box::new(DecoupledGae {
            gamma,
            lambda_actor: case.parameter("lam_policy")?,
            lambda_critic: case.parameter("lam_critic")?,
            whiten,
        })
    } else if kind == "gae" {
        Box::new(Gae { gamma, lambda: case.parameter("lam")?, whiten })
    } else {
        return unknown("kind", kind);
    })
}

/// Tokens outside the mask are left out, as the API asks; every completion is a group of its own.
pub fn run(case: &Case<'_>, checks: &mut Checks) -> Result<()> {
    let mask = case.mask("mask")?;
    let narrow = |table: Vec<Vec<f64>>| -> Vec<Vec<f32>> {
        kept(&table, &mask)
            .into_iter()
            .map(|row| row.into_iter().map(|value| value as f32).collect())
            .collect()
    };
    let (rewards, values) = (narrow(case.table("rewards")?), narrow(case.table("values")?));
    let group = |(rewards, values): (Vec<f32>, Vec<f32>)| GroupRewards {
        totals: vec![0.0],
        lengths: vec![values.len()],
        token_rewards: vec![rewards],
        values: vec![values],
        ..GroupRewards::default()
    };
    let lengths: Vec<usize> = values.iter().map(Vec::len).collect();
    let groups: Vec<GroupRewards> = rewards.into_iter().zip(values).map(group).collect();
    let plain = estimator(case, false)?.estimate(&groups)?;
    let mut compare = |name: &str, got: &[Vec<f32>]| -> Result<()> {
        let expected = kept(&case.table(name)?, &mask).concat();
        checks.compare(name, &widen(&got.concat()), &expected, Precision::Single);
        Ok(())
    };
    compare("advantages", &plain.per_token)?;
    compare("returns", &plain.value_targets)?;
    if case.has("whitened") {
        compare("whitened", &estimator(case, true)?.estimate(&groups)?.per_token)?;
    }
    if case.kind().starts_with("vapo") && case.has("lam_policy") {
        let vapo = LengthAdaptiveGae { alpha: case.parameter("alpha")?, ..LengthAdaptiveGae::default() };
        let (got, expected): (Vec<f64>, Vec<f64>) = lengths
            .iter()
            .zip(case.list("lam_policy")?)
            .filter(|(length, _)| **length > 0)
            .map(|(&length, golden)| (vapo.lambda(length), golden))
            .unzip();
        checks.compare("lam_policy", &got, &expected, Precision::Double);
    }
    Ok(())
}
