//! Per-token losses to one number, whole and in micro-batches.

use anyhow::{Context, Result};
use burn::tensor::Tensor;
use kyoka_algorithms::{Reduction, policy_loss::ClippedLoss};
use kyoka_core::{PolicyLoss, PolicyLossInput};

use super::{
    case::{Case, kept, lengths, mask_tensor, numbers_of, tensor},
    policy_losses::{compare_gradient, rows},
    report::{Checks, Precision},
    unknown,
};

/// A reduction by its name in the cases.
pub fn reduction(name: &str) -> Result<Reduction> {
    Ok(match name {
        "token-mean" => Reduction::TokenMean,
        "token-sum" => Reduction::TokenSum,
        "seq-mean-token-sum" => Reduction::SequenceMeanTokenSum,
        "seq-mean-token-mean" => Reduction::SequenceMeanTokenMean,
        "seq-mean-token-mean-all-rows" => Reduction::AllRowsTokenMean,
        "seq-mean-token-sum-norm" => Reduction::SequenceMeanTokenSumNorm,
        "dr_grpo" => Reduction::AllRowsTokenSumNorm,
        other => return unknown("reduction", other),
    })
}

/// The sum of weight times value, as a trainer does it.
pub fn weighted_sum(per_token: Tensor<2>, weights: &[f64]) -> Tensor<1> {
    let column: Vec<Vec<f64>> = weights.iter().map(|&weight| vec![weight]).collect();
    (per_token * tensor(&column)).sum()
}

/// The per-token values of these cases are PPO's with the bounds 0.2 and 0.28.
pub fn run(case: &Case<'_>, checks: &mut Checks) -> Result<()> {
    let mask = case.mask("mask")?;
    let golden = case.table("per_token")?;
    let constant = case.optional("const").unwrap_or(1.0);
    let weights = reduction(case.kind())?.weights_f64(&lengths(&mask), constant);
    let policy_logprobs = tensor(&case.table("logp")?).autodiff().require_grad();
    let loss = ClippedLoss { clip_high: 0.28, log_ratio_bound: f64::INFINITY, ..ClippedLoss::default() };
    let per_token = loss
        .evaluate(PolicyLossInput {
            policy_logprobs: policy_logprobs.clone(),
            old_logprobs: tensor(&case.table("old_logp")?),
            advantages: tensor(&case.table("adv")?),
            loss_mask: mask_tensor(&mask),
        })
        .per_token;
    let got = kept(&rows(numbers_of(per_token.clone()), &mask), &mask).concat();
    checks.compare("per_token", &got, &kept(&golden, &mask).concat(), Precision::Double);
    compare_gradient(case, (weighted_sum(per_token, &weights), policy_logprobs), &mask, checks)?;
    if case.has("micro_batches") {
        let bounds = case.table("micro_batches")?;
        let part = |bounds: &Vec<f64>| -> Result<f64> {
            let [first, end] = bounds[..] else { anyhow::bail!("micro_batches: expected pairs") };
            let span = first as usize..end as usize;
            let tokens = golden.get(span.clone()).context("micro_batches: out of range")?;
            Ok(numbers_of(weighted_sum(tensor(tokens), &weights[span])).iter().sum())
        };
        let got = bounds.iter().map(part).collect::<Result<Vec<f64>>>()?;
        checks.compare("micro_losses", &got, &case.list("micro_losses")?, Precision::Double);
    }
    Ok(())
}
