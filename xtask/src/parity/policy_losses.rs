//! Per-token losses, reduced, with the gradient for the log-probabilities.

use anyhow::{Result, bail};
use burn::tensor::Tensor;
use kyoka_algorithms::{
    Correction, KlEstimator, KlInput, Reduction, WeightBound, WeightLevel,
    policy_loss::{
        Cispo, ClipCov, ClippedLoss, Dppo, Gmpo, Gspo, GspoToken, KlCov, Opmd, PolicyDivergence,
        ReinforceLoss, Sapo,
    },
};
use kyoka_core::{PolicyLoss, PolicyLossInput};

use super::{
    case::{Case, kept, lengths, mask_tensor, numbers_of, tensor},
    reduction::{reduction, weighted_sum},
    report::{Checks, Precision},
    unknown,
};

fn loss(case: &Case<'_>) -> Result<Box<dyn PolicyLoss>> {
    let log_ratio_bound = case.optional("log_ratio_clamp").unwrap_or(f64::INFINITY);
    let clipped = || -> Result<ClippedLoss> {
        Ok(ClippedLoss {
            clip_low: case.parameter("clip_low")?,
            clip_high: case.parameter("clip_high")?,
            dual_clip: case.optional("dual_clip_c"),
            ratio_ceiling: case.optional("delta"),
            log_ratio_bound,
        })
    };
    let dppo = |divergence, low: &str, high: &str| -> Result<Dppo> {
        Ok(Dppo {
            divergence,
            low: case.parameter(low)?,
            high: case.parameter(high)?,
            ratio_max: case.optional("ratio_max").unwrap_or(f64::INFINITY),
            log_ratio_bound,
        })
    };
    Ok(match case.kind() {
        "ppo_clip" | "ppo_clip_higher" | "ppo_dual_clip" | "ppo_two_sided" | "ppo_clip_plus_kl"
        | "ppo_clip_times_tis" => Box::new(clipped()?),
        "cispo" => Box::new(Cispo {
            ratio_min: case.parameter("ratio_min")?,
            ratio_max: case.parameter("ratio_max")?,
            log_ratio_bound,
        }),
        "sapo" => Box::new(Sapo {
            tau_positive: case.parameter("tau_pos")?,
            tau_negative: case.parameter("tau_neg")?,
            log_ratio_bound,
        }),
        "dppo_tv" => Box::new(dppo(PolicyDivergence::TotalVariation, "tv_low", "tv_high")?),
        "dppo_kl" => Box::new(dppo(PolicyDivergence::Kl, "kl_low", "kl_high")?),
        "gspo" => Box::new(Gspo {
            clip_low: case.parameter("clip_low")?,
            clip_high: case.parameter("clip_high")?,
            log_ratio_bound,
        }),
        "gspo_token" => Box::new(GspoToken {
            clip_low: case.parameter("clip_low")?,
            clip_high: case.parameter("clip_high")?,
            log_ratio_max: case.optional("log_ratio_max").unwrap_or(f64::INFINITY),
        }),
        "gpg" | "reinforce" => Box::new(ReinforceLoss),
        "gmpo" => Box::new(Gmpo {
            log_clip_low: case.parameter("log_clip_low")?,
            log_clip_high: case.parameter("log_clip_high")?,
            log_ratio_bound,
        }),
        "clip_cov" => Box::new(ClipCov {
            clipped: clipped()?,
            // The golden cases drop all candidates, so that no draw plays a part.
            share: case.optional("clip_cov_ratio").unwrap_or(1.0),
            cov_low: case.parameter("cov_lb")?,
            cov_high: case.parameter("cov_ub")?,
            seed: 0,
        }),
        "kl_cov" => Box::new(KlCov {
            share: case.parameter("kl_cov_ratio")?,
            coef: case.parameter("ppo_kl_coef")?,
            log_ratio_bound,
        }),
        "opmd" => Box::new(Opmd { tau: case.parameter("tau")? }),
        other => return unknown("algorithm", other),
    })
}

pub fn run(case: &Case<'_>, checks: &mut Checks) -> Result<()> {
    let loss = loss(case)?;
    let mask = case.mask("mask")?;
    let loss_mask = mask_tensor(&mask);
    let policy_logprobs = tensor(&case.table("logp")?).autodiff().require_grad();
    let old_logprobs = tensor(&case.table("old_logp")?);
    let output = loss.evaluate(PolicyLossInput {
        policy_logprobs: policy_logprobs.clone(),
        old_logprobs: old_logprobs.clone(),
        advantages: tensor(&case.table("adv")?),
        loss_mask: loss_mask.clone(),
    });
    let mut per_token = output.per_token;
    if case.kind() == "ppo_clip_plus_kl" {
        let (estimator, bound) = divergence(case)?;
        let input = KlInput {
            policy_logprobs: policy_logprobs.clone(),
            reference_logprobs: tensor(&case.table("ref_logp")?),
            old_logprobs,
            loss_mask,
        };
        per_token = per_token + estimator.evaluate_bounded(input, bound) * case.parameter("kl_beta")?;
    }
    if case.kind() == "ppo_clip_times_tis" {
        per_token = per_token * truncated_weights(case, &mask, checks)?;
    }
    if case.has("per_token") {
        let got = kept(&rows(numbers_of(per_token.clone()), &mask), &mask).concat();
        checks.compare(
            "per_token",
            &got,
            &kept(&case.table("per_token")?, &mask).concat(),
            Precision::Double,
        );
    }
    let reduction = match case.option("agg").and_then(|name| name.as_str()) {
        Some(name) => reduction(name)?,
        None => Reduction::AllRowsTokenMean,
    };
    let constant = case.optional("agg_const").unwrap_or(1.0);
    let total = weighted_sum(per_token, &reduction.weights_f64(&lengths(&mask), constant));
    compare_gradient(case, (total, policy_logprobs), &mask, checks)
}

/// Loss, gradient, and that masked slots have none at all.
pub fn compare_gradient(
    case: &Case<'_>,
    (total, policy_logprobs): (Tensor<1>, Tensor<2>),
    mask: &[Vec<bool>],
    checks: &mut Checks,
) -> Result<()> {
    checks.compare("loss", &numbers_of(total.clone()), &[case.number("loss")?], Precision::Double);
    let gradients = total.backward();
    let Some(gradient) = policy_logprobs.grad(&gradients) else { bail!("the loss has no gradient") };
    let gradient = numbers_of(gradient);
    checks.compare("grad_logp", &gradient, &case.table("grad_logp")?.concat(), Precision::Double);
    let outside: Vec<f64> =
        gradient.iter().zip(mask.concat()).filter(|(_, keep)| !keep).map(|(&value, _)| value).collect();
    if !outside.is_empty() {
        checks.compare("grad_logp outside the mask", &outside, &vec![0.0; outside.len()], Precision::Exact);
    }
    Ok(())
}

fn divergence(case: &Case<'_>) -> Result<(KlEstimator, f64)> {
    let words = case.words("kl_kind");
    let clamped = words.contains("clamped") && !words.contains("unclamped");
    Ok(match words.split([' ', ',']).next().unwrap_or_default() {
        "k1" => (KlEstimator::K1, f64::INFINITY),
        "k2" => (KlEstimator::K2, f64::INFINITY),
        "k3" if clamped => (KlEstimator::K3Clamped, 20.0),
        "k3" => (KlEstimator::K3, f64::INFINITY),
        "abs" => (KlEstimator::Absolute, f64::INFINITY),
        other => return unknown("kl_kind", other),
    })
}

/// Weights from the trainer's old and the sampler's log-probabilities.
fn truncated_weights(case: &Case<'_>, mask: &[Vec<bool>], checks: &mut Checks) -> Result<Tensor<2>> {
    let (old, sampler) = (case.table("old_logp")?, case.table("rollout_logp")?);
    let difference = |(old, sampler): (&Vec<f64>, &Vec<f64>)| -> Vec<f64> {
        old.iter().zip(sampler).map(|(a, b)| a - b).collect()
    };
    let log_ratios: Vec<Vec<f64>> = old.iter().zip(&sampler).map(difference).collect();
    let correction = Correction {
        level: WeightLevel::Token,
        bound: WeightBound::Truncate { cap: case.parameter("tis_cap")? },
        normalise: false,
    };
    let weights = correction.weights(&kept(&log_ratios, mask));
    if case.has("weights") {
        let expected = kept(&case.table("weights")?, mask).concat();
        checks.compare("weights", &weights.concat(), &expected, Precision::Double);
    }
    Ok(tensor(&scatter(&weights, mask)))
}

/// Values of the tokens that count, back at their places; 0 elsewhere.
pub fn scatter(values: &[Vec<f64>], mask: &[Vec<bool>]) -> Vec<Vec<f64>> {
    let row = |(values, mask): (&Vec<f64>, &Vec<bool>)| {
        let mut values = values.iter();
        let slot = |&keep: &bool| if keep { values.next().copied().unwrap_or(f64::NAN) } else { 0.0 };
        mask.iter().map(slot).collect()
    };
    values.iter().zip(mask).map(row).collect()
}

/// Flat numbers as rows of the mask's shape.
pub fn rows(flat: Vec<f64>, mask: &[Vec<bool>]) -> Vec<Vec<f64>> {
    let columns = mask.first().map_or(1, Vec::len).max(1);
    flat.chunks(columns).map(<[f64]>::to_vec).collect()
}
