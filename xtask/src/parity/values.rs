//! The critic's loss, and entropy.

use anyhow::{Context, Result};
use burn::tensor::{Bool, Device, Tensor, TensorData};
use kyoka_algorithms::{Reduction, ValueLossInput, entropy, positive_nll, value_loss};

use super::{
    case::{Case, kept, lengths, mask_tensor, numbers_of, tensor, tensor_3d},
    policy_losses::{compare_gradient, rows},
    reduction::{reduction, weighted_sum},
    report::{Checks, Precision},
};

pub fn run_value_loss(case: &Case<'_>, checks: &mut Checks) -> Result<()> {
    let mask = case.mask("mask")?;
    let values = tensor(&case.table("vpred")?).autodiff().require_grad();
    let input = ValueLossInput {
        values: values.clone(),
        old_values: tensor(&case.table("old_values")?),
        targets: tensor(&case.table("returns")?),
        loss_mask: mask_tensor(&mask),
    };
    let per_token = value_loss(input, case.optional("clip"));
    let name = case.option("agg").and_then(|name| name.as_str()).context("no field \"agg\"")?;
    let weights = reduction(name)?.weights_f64(&lengths(&mask), case.optional("agg_const").unwrap_or(1.0));
    let total = weighted_sum(per_token, &weights);
    checks.compare("loss", &numbers_of(total.clone()), &[case.number("loss")?], Precision::Double);
    let gradient = numbers_of(values.grad(&total.backward()).context("the loss has no gradient")?);
    checks.compare("grad_vpred", &gradient, &case.table("grad_vpred")?.concat(), Precision::Double);
    Ok(())
}

/// The likelihood of positive completions: a mean over their tokens.
pub fn run_positive_nll(case: &Case<'_>, checks: &mut Checks) -> Result<()> {
    let mask = case.mask("mask")?;
    let flags: Vec<bool> = case.list("positive")?.into_iter().map(|flag| flag > 0.5).collect();
    let counted = lengths(&mask).into_iter().zip(&flags).filter(|(_, flag)| **flag);
    let tokens: usize = counted.map(|(length, _)| length).sum();
    let count = flags.len();
    let positive = Tensor::<1, Bool>::from_data(TensorData::new(flags, [count]), &Device::default());
    let logprobs = tensor(&case.table("logp")?).autodiff().require_grad();
    let nll = positive_nll(logprobs.clone(), mask_tensor(&mask), positive);
    let total = nll.sum() * (1.0 / tokens.max(1) as f64);
    compare_gradient(case, (total, logprobs), &mask, checks)
}

pub fn run_entropy(case: &Case<'_>, checks: &mut Checks) -> Result<()> {
    let mask = case.mask("mask")?;
    let logits = tensor_3d(&case.cube("logits")?).autodiff().require_grad();
    let got = entropy(logits.clone(), mask_tensor(&mask), case.optional("temperature").unwrap_or(1.0));
    let flat = kept(&rows(numbers_of(got.clone()), &mask), &mask).concat();
    checks.compare("entropy", &flat, &kept(&case.table("entropy")?, &mask).concat(), Precision::Double);
    let weights = Reduction::TokenMean.weights_f64(&lengths(&mask), 1.0);
    let total = weighted_sum(got, &weights).neg() * case.parameter("coef")?;
    checks.compare("loss", &numbers_of(total.clone()), &[case.number("loss")?], Precision::Double);
    let gradient = numbers_of(logits.grad(&total.backward()).context("the loss has no gradient")?);
    let expected: Vec<f64> = case.cube("grad_logits")?.into_iter().flatten().flatten().collect();
    checks.compare("grad_logits", &gradient, &expected, Precision::Double);
    Ok(())
}
