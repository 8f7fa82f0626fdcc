//! Credit from rewards.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use kyoka_algorithms::advantage::{
    self, DrGrpo, Gdpo, Gpg, Grpo, LitePpo, MaxRl, Opo, PassAtK, PassAtKBest, ProcessGrpo, Reinforce,
    ReinforcePlusPlus, ReinforcePlusPlusBaseline, Remax, Rloo, Singleton, StepCredit, Whitening,
};
use kyoka_core::{AdvantageEstimator, CreditedStep, GroupRewards};

use super::{
    case::{Case, widen},
    report::{Checks, Precision},
    unknown,
};

/// The rewards of a case as groups, and where each of its rows went.
struct Batch {
    groups: Vec<GroupRewards>,
    /// Flat row of each row of the case.
    places: Vec<usize>,
}

impl Batch {
    fn new(case: &Case<'_>) -> Result<Self> {
        let parts = case.table("component_rewards").unwrap_or_default();
        let rewards = match case.list("rewards") {
            Ok(rewards) => rewards,
            Err(_) => parts.iter().map(|parts| parts.iter().sum()).collect(),
        };
        let lengths = case.counts("lens")?;
        let steps = steps(case)?;
        let weights: Vec<f32> = case
            .option("weights")
            .and_then(|weights| weights.as_array())
            .map(|weights| weights.iter().filter_map(|w| Some(w.as_f64()? as f32)).collect())
            .unwrap_or_default();
        let baselines = case.option("baselines").and_then(|list| list.as_array());
        let names = case.field("index")?.as_array().context("index: expected a list")?;
        let mut members: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (row, name) in names.iter().enumerate() {
            // A baseline of its own makes every completion a group.
            let name = if baselines.is_some() { format!("{row:06}") } else { name.to_string() };
            members.entry(name).or_default().push(row);
        }
        let mut places = vec![0; rewards.len()];
        let mut groups = Vec::new();
        let mut flat = 0;
        for rows in members.values() {
            let pick = |values: &[f64]| rows.iter().map(|&row| values[row] as f32).collect::<Vec<f32>>();
            let part = |&row: &usize| parts[row].iter().map(|&part| part as f32).collect();
            groups.push(GroupRewards {
                totals: pick(&rewards),
                lengths: rows.iter().map(|&row| lengths[row]).collect(),
                steps: rows.iter().filter_map(|&row| steps.get(row).cloned()).collect(),
                parts: if parts.is_empty() { Vec::new() } else { rows.iter().map(part).collect() },
                part_weights: weights.clone(),
                greedy_total: baselines.and_then(|list| Some(list.get(rows[0])?.as_f64()? as f32)),
                ..GroupRewards::default()
            });
            for &row in rows {
                places[row] = flat;
                flat += 1;
            }
        }
        Ok(Self { groups, places })
    }
}

/// Verdicts on the steps of every row, `[number, token, value]` each; none if the case has none.
fn steps(case: &Case<'_>) -> Result<Vec<Vec<CreditedStep>>> {
    if !case.has("steps") {
        return Ok(Vec::new());
    }
    let step = |numbers: Vec<f64>| match numbers[..] {
        [step, token, value] => {
            let tokens = token as usize..token as usize + 1;
            Ok(CreditedStep { step: (0, step as usize), tokens, value: value as f32 })
        }
        _ => bail!("steps: expected [number, token, value], got {numbers:?}"),
    };
    case.cube("steps")?.into_iter().map(|row| row.into_iter().map(step).collect()).collect()
}

fn estimator(case: &Case<'_>) -> Result<Box<dyn AdvantageEstimator>> {
    if case.optional("ddof").is_some_and(|ddof| ddof != 1.0) {
        bail!("standard deviations divide by n - 1; expected ddof 1");
    }
    let singleton = if case.words("singleton") == "raw" { Singleton::Raw } else { Singleton::Zero };
    let epsilon = case.optional("eps").unwrap_or(1e-6);
    let by_sequence = case.words("whiten").contains("over sequences");
    let whitening = if by_sequence { Whitening::Sequences } else { Whitening::Tokens };
    Ok(match case.kind() {
        "grpo" => Box::new(Grpo { epsilon, singleton }),
        "dr_grpo" => Box::new(DrGrpo { singleton }),
        "grpo_batch_std" | "lite_ppo" => Box::new(LitePpo { epsilon, singleton }),
        "rloo" => Box::new(Rloo { singleton }),
        "opo" => Box::new(Opo { singleton }),
        "gpg" => Box::new(Gpg { f_norm: case.optional("f_norm").unwrap_or(1.0), singleton }),
        "maxrl" => Box::new(MaxRl),
        "reinforce" => Box::new(Reinforce),
        "passk_best_minus_second" => {
            let normalise = case.option("norm_by_std").and_then(|flag| flag.as_bool()).unwrap_or(true);
            Box::new(PassAtKBest { normalise, epsilon })
        }
        "passk_analytic" => Box::new(PassAtK { k: case.parameter("k")? as usize }),
        "reinforce_pp" => Box::new(ReinforcePlusPlus { gamma: case.optional("gamma").unwrap_or(1.0) }),
        "reinforce_pp_baseline" => Box::new(ReinforcePlusPlusBaseline { singleton }),
        "remax" => Box::new(Remax),
        "process_grpo" => Box::new(ProcessGrpo {
            outcome_weight: case.optional("outcome_weight").unwrap_or(1.0),
            step_weight: case.optional("step_weight").unwrap_or(1.0),
            step_credit: match case.words("form") {
                "to_go" => StepCredit::ToGo,
                "at_step" | "" => StepCredit::AtStep,
                other => return unknown("form", other),
            },
            epsilon,
        }),
        "gdpo" => Box::new(Gdpo { epsilon, whitening }),
        other => return unknown("algorithm", other),
    })
}

pub fn run(case: &Case<'_>, checks: &mut Checks) -> Result<()> {
    let estimator = estimator(case)?;
    let batch = Batch::new(case)?;
    let advantages = estimator.estimate(&batch.groups)?;
    let rows = batch.places.iter().map(|&place| widen(&advantages.per_token[place]));
    let (got, expected): (Vec<f64>, Vec<f64>) = if case.has("shape") {
        let table = case.table("advantages")?;
        let pairs = rows.zip(table).flat_map(|(row, golden)| row.into_iter().zip(golden));
        pairs.unzip()
    } else {
        // Constant in a completion; one without a token shows nothing.
        let golden = case.list("advantages")?;
        rows.zip(golden).filter_map(|(row, golden)| Some((*row.first()?, golden))).unzip()
    };
    checks.compare("advantages", &got, &expected, Precision::Single);
    if case.has("returns") {
        compare_returns(case, &batch, checks)?;
    }
    Ok(())
}

fn compare_returns(case: &Case<'_>, batch: &Batch, checks: &mut Checks) -> Result<()> {
    let gamma = case.optional("gamma").unwrap_or(1.0);
    let mut rows = Vec::new();
    for group in &batch.groups {
        for completion in 0..group.totals.len() {
            let mut returns = Vec::new();
            advantage::returns_to_go(group, completion, gamma, &mut returns);
            rows.push(returns);
        }
    }
    let table = case.table("returns")?;
    let pairs = batch.places.iter().zip(table).flat_map(|(&place, golden)| {
        let row: Vec<(f64, f64)> = rows[place].iter().copied().zip(golden).collect();
        row
    });
    let (got, expected): (Vec<f64>, Vec<f64>) = pairs.unzip();
    checks.compare("returns", &got, &expected, Precision::Single);
    Ok(())
}

/// The estimator of a chance, not of credit.
pub fn pass_at_k(case: &Case<'_>, checks: &mut Checks) -> Result<()> {
    let at = |name| Ok::<_, anyhow::Error>(case.number(name)? as usize);
    let got = advantage::pass_at_k(at("n")?, at("c")?, at("k")?);
    checks.number("value", got, case.number("value")?, Precision::Double);
    Ok(())
}
