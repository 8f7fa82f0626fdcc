//! Estimates of the divergence.

use anyhow::{Context, Result};
use burn::tensor::activation::log_softmax;
use kyoka_algorithms::{KlEstimator, KlInput, Reduction, full_kl};

use super::{
    case::{Case, kept, lengths, mask_tensor, numbers_of, tensor, tensor_3d},
    policy_losses::{compare_gradient, rows},
    reduction::weighted_sum,
    report::{Checks, Precision},
    unknown,
};

fn estimator(kind: &str) -> Option<(KlEstimator, f64)> {
    let unbounded = f64::INFINITY;
    Some(match kind {
        "k1" => (KlEstimator::K1, unbounded),
        "k2" => (KlEstimator::K2, unbounded),
        "k3" => (KlEstimator::K3, unbounded),
        "k3_clamped" => (KlEstimator::K3Clamped, 20.0),
        "abs" => (KlEstimator::Absolute, unbounded),
        "k3_value_k2_grad" => (KlEstimator::StraightThrough, unbounded),
        "k1_value_k2_grad" => (KlEstimator::StraightThroughK1, unbounded),
        "k3_importance_weighted" => (KlEstimator::ImportanceWeighted, unbounded),
        _ => return None,
    })
}

pub fn is_known(kind: &str) -> bool {
    estimator(kind).is_some()
}

pub fn run(case: &Case<'_>, checks: &mut Checks) -> Result<()> {
    let Some((estimator, bound)) = estimator(case.kind()) else { return unknown("kind", case.kind()) };
    let mask = case.mask("mask")?;
    let policy_logprobs = tensor(&case.table("logp")?).autodiff().require_grad();
    let input = KlInput {
        policy_logprobs: policy_logprobs.clone(),
        reference_logprobs: tensor(&case.table("ref_logp")?),
        old_logprobs: tensor(&case.table("old_logp").or_else(|_| case.table("logp"))?),
        loss_mask: mask_tensor(&mask),
    };
    let per_token = estimator.evaluate_bounded(input, bound);
    let got = kept(&rows(numbers_of(per_token.clone()), &mask), &mask).concat();
    checks.compare("per_token", &got, &kept(&case.table("per_token")?, &mask).concat(), Precision::Double);
    let weights = Reduction::TokenMean.weights_f64(&lengths(&mask), 1.0);
    compare_gradient(case, (weighted_sum(per_token, &weights), policy_logprobs), &mask, checks)
}

/// The whole vocabulary, from logits.
pub fn run_full(case: &Case<'_>, checks: &mut Checks) -> Result<()> {
    let mask = case.mask("mask")?;
    let logits = tensor_3d(&case.cube("logits")?).autodiff().require_grad();
    let reference = log_softmax(tensor_3d(&case.cube("ref_logits")?), 2);
    let per_token = full_kl(log_softmax(logits.clone(), 2), reference, mask_tensor(&mask));
    let got = kept(&rows(numbers_of(per_token.clone()), &mask), &mask).concat();
    checks.compare("per_token", &got, &kept(&case.table("per_token")?, &mask).concat(), Precision::Double);
    let weights = Reduction::TokenMean.weights_f64(&lengths(&mask), 1.0);
    let total = weighted_sum(per_token, &weights);
    checks.compare("loss", &numbers_of(total.clone()), &[case.number("loss")?], Precision::Double);
    let gradient = numbers_of(logits.grad(&total.backward()).context("the loss has no gradient")?);
    let expected: Vec<f64> = case.cube("grad_logits")?.into_iter().flatten().flatten().collect();
    checks.compare("grad_logits", &gradient, &expected, Precision::Double);
    Ok(())
}
