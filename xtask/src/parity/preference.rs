//! Losses over chosen and rejected completions.

use anyhow::{Context, Result};
use burn::tensor::{Bool, Device, Tensor, TensorData};
use kyoka_algorithms::preference::{
    Bco, BradleyTerry, Dpo, DpoForm, Ipo, Kto, KtoInput, Mpo, Pairs, PreferenceLoss, Simpo, reward_metrics,
};

use super::{
    case::{Case, numbers_of, vector},
    report::{Checks, Precision},
    unknown,
};

pub fn is_known(kind: &str) -> bool {
    ["dpo_", "ipo_", "simpo", "kto", "bco", "bradley_terry", "mpo"]
        .iter()
        .any(|start| kind.starts_with(start))
}

pub fn run(case: &Case<'_>, checks: &mut Checks) -> Result<()> {
    match case.kind() {
        "bradley_terry" => bradley_terry(case, checks),
        "kto" => kto(case, checks),
        "bco" => bco(case, checks),
        _ => pairwise(case, checks),
    }
}

fn pairwise_loss(case: &Case<'_>, pairs: Pairs) -> Result<Tensor<1>> {
    let beta = case.parameter("beta")?;
    let dpo = Dpo { beta, ..Dpo::default() };
    let label_smoothing = case.optional("eps").unwrap_or(0.0);
    Ok(match case.kind() {
        "dpo_sigmoid" => dpo.evaluate(pairs),
        "dpo_sigmoid_label_smoothing" => Dpo { label_smoothing, ..dpo }.evaluate(pairs),
        "dpo_robust" => Dpo { form: DpoForm::Robust, label_smoothing, ..dpo }.evaluate(pairs),
        "dpo_hinge" => Dpo { form: DpoForm::Hinge, ..dpo }.evaluate(pairs),
        "dpo_sigmoid_length_normalised" => Dpo { length_normalised: true, ..dpo }.evaluate(pairs),
        "dpo_reference_free" => Dpo { reference_free: true, ..dpo }.evaluate(pairs),
        "ipo_sum" => Ipo { beta, length_normalised: false }.evaluate(pairs),
        "ipo_length_normalised" => Ipo { beta, length_normalised: true }.evaluate(pairs),
        "simpo" => Simpo { beta, gamma: case.parameter("gamma")? }.evaluate(pairs),
        "mpo" => Mpo {
            beta,
            preference_weight: case.parameter("preference_weight")?,
            quality_weight: case.parameter("quality_weight")?,
            generation_weight: case.parameter("generation_weight")?,
            reward_shift: case.optional("reward_shift").unwrap_or(0.0),
        }
        .evaluate(pairs),
        other => return unknown("kind", other),
    })
}

fn pairwise(case: &Case<'_>, checks: &mut Checks) -> Result<()> {
    let at = |name: &str| Ok::<_, anyhow::Error>(vector(&case.list(name)?));
    let chosen_logprobs = at("chosen_logp")?.autodiff().require_grad();
    let rejected_logprobs = at("rejected_logp")?.autodiff().require_grad();
    let pairs = Pairs {
        chosen_logprobs: chosen_logprobs.clone(),
        rejected_logprobs: rejected_logprobs.clone(),
        reference_chosen: at("ref_chosen_logp")?,
        reference_rejected: at("ref_rejected_logp")?,
        chosen_lengths: at("chosen_len")?,
        rejected_lengths: at("rejected_len")?,
    };
    if case.has("reward_accuracy") {
        let dpo = PreferenceLoss::Dpo(Dpo { beta: case.parameter("beta")?, ..Dpo::default() });
        let (chosen, rejected) = dpo.rewards(&pairs);
        let (accuracy, margin) = reward_metrics(&numbers_of(chosen), &numbers_of(rejected));
        checks.number("reward_accuracy", accuracy, case.number("reward_accuracy")?, Precision::Double);
        checks.number("reward_margin_mean", margin, case.number("reward_margin_mean")?, Precision::Double);
    }
    let losses = pairwise_loss(case, pairs)?;
    let inputs = [("grad_chosen_logp", chosen_logprobs), ("grad_rejected_logp", rejected_logprobs)];
    compare(case, losses, &inputs, checks)
}

fn bradley_terry(case: &Case<'_>, checks: &mut Checks) -> Result<()> {
    let chosen = vector(&case.list("chosen")?).autodiff().require_grad();
    let rejected = vector(&case.list("rejected")?).autodiff().require_grad();
    let with_margin = case.option("margin").and_then(|flag| flag.as_bool()).unwrap_or(false);
    let margins = if with_margin { Some(vector(&case.list("margins")?)) } else { None };
    let loss = BradleyTerry { center_coef: case.optional("center_coef").unwrap_or(0.0) };
    let losses = loss.evaluate(chosen.clone(), rejected.clone(), margins);
    compare(case, losses, &[("grad_chosen", chosen), ("grad_rejected", rejected)], checks)
}

fn kto(case: &Case<'_>, checks: &mut Checks) -> Result<()> {
    let log_ratios = vector(&case.list("log_ratio")?).autodiff().require_grad();
    let labels: Vec<bool> = case.list("label")?.into_iter().map(|label| label > 0.5).collect();
    let count = labels.len();
    let desirable = Tensor::<1, Bool>::from_data(TensorData::new(labels, [count]), &Device::default());
    let mismatched_log_ratios = vector(&case.list("kl_log_ratio")?);
    let kto = Kto {
        beta: case.parameter("beta")?,
        desirable_weight: case.optional("desirable_weight").unwrap_or(1.0),
        undesirable_weight: case.optional("undesirable_weight").unwrap_or(1.0),
    };
    let point = numbers_of(kto.reference_point(mismatched_log_ratios.clone()));
    checks.compare("z0", &point, &[case.number("z0")?], Precision::Double);
    let losses = kto.evaluate(KtoInput { log_ratios: log_ratios.clone(), desirable, mismatched_log_ratios });
    compare(case, losses, &[("grad_log_ratio", log_ratios)], checks)
}

fn bco(case: &Case<'_>, checks: &mut Checks) -> Result<()> {
    let log_ratios = vector(&case.list("log_ratio")?).autodiff().require_grad();
    let labels: Vec<bool> = case.list("label")?.into_iter().map(|label| label > 0.5).collect();
    let count = labels.len();
    let desirable = Tensor::<1, Bool>::from_data(TensorData::new(labels, [count]), &Device::default());
    let bco = Bco {
        beta: case.parameter("beta")?,
        desirable_weight: case.optional("desirable_weight").unwrap_or(1.0),
        undesirable_weight: case.optional("undesirable_weight").unwrap_or(1.0),
        reward_shift: case.optional("reward_shift").unwrap_or(0.0),
    };
    compare(case, bco.evaluate(log_ratios.clone(), desirable), &[("grad_log_ratio", log_ratios)], checks)
}

/// Losses, their mean, and its gradients.
fn compare(
    case: &Case<'_>,
    losses: Tensor<1>,
    inputs: &[(&str, Tensor<1>)],
    checks: &mut Checks,
) -> Result<()> {
    if case.has("per_example") {
        let expected = case.list("per_example")?;
        checks.compare("per_example", &numbers_of(losses.clone()), &expected, Precision::Double);
    }
    let mean = losses.mean();
    checks.compare("loss", &numbers_of(mean.clone()), &[case.number("loss")?], Precision::Double);
    let gradients = mean.backward();
    for (name, input) in inputs {
        let gradient = numbers_of(input.grad(&gradients).context("the loss has no gradient")?);
        checks.compare(name, &gradient, &case.list(name)?, Precision::Double);
    }
    Ok(())
}
