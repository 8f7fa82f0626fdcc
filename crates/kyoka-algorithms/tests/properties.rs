//! What must hold for any batch: credit, reductions, losses.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use burn::tensor::{Bool, Device, Tensor, TensorData};
use kyoka_algorithms::{
    AlgorithmConfig, Preset, Reduction,
    advantage::{DecoupledGae, DrGrpo, Gae, Grpo, LitePpo, Opo, ReinforcePlusPlusBaseline, Rloo},
};
use kyoka_core::{AdvantageEstimator, GroupRewards, PolicyLossInput};
use proptest::prelude::*;

/// A token: its log-probability now and when drawn, its advantage, and whether it counts.
type TokenRow = (f32, f32, f32, bool);

/// Groups of two to six completions of one to seven tokens, with values of a critic.
fn batch() -> impl Strategy<Value = Vec<GroupRewards>> {
    let completion = (-3.0_f32..3.0, prop::collection::vec(-2.0_f32..2.0, 1..8));
    let group = prop::collection::vec(completion, 2..7).prop_map(|completions| GroupRewards {
        totals: completions.iter().map(|(total, _)| *total).collect(),
        lengths: completions.iter().map(|(_, values)| values.len()).collect(),
        parts: completions.iter().map(|(total, _)| vec![*total]).collect(),
        values: completions.iter().map(|(_, values)| values.clone()).collect(),
        greedy_total: Some(0.0),
        ..GroupRewards::default()
    });
    prop::collection::vec(group, 1..5)
}

fn credit(estimator: &dyn AdvantageEstimator, groups: &[GroupRewards]) -> Vec<Vec<f32>> {
    estimator.estimate(groups).unwrap().per_token
}

/// The credit of each completion of each group, for estimators that give all its tokens the same.
fn by_group(estimator: &dyn AdvantageEstimator, groups: &[GroupRewards]) -> Vec<Vec<f64>> {
    let mut rows = credit(estimator, groups).into_iter().map(|row| f64::from(row[0]));
    groups.iter().map(|group| rows.by_ref().take(group.totals.len()).collect()).collect()
}

fn close(a: f64, b: f64, scale: f64) -> bool {
    (a - b).abs() <= 1e-4 * (1.0 + scale)
}

proptest! {
    #[test]
    fn credit_relative_to_the_group_sums_to_zero(groups in batch()) {
        let estimators: [&dyn AdvantageEstimator; 4] =
            [&Grpo::default(), &DrGrpo::default(), &Rloo::default(), &LitePpo::default()];
        for (number, estimator) in estimators.iter().enumerate() {
            for group in by_group(*estimator, &groups) {
                let largest = group.iter().fold(0.0, |most: f64, a| most.max(a.abs()));
                prop_assert!(close(group.iter().sum(), 0.0, largest), "{number}: {group:?}");
            }
        }
        // OPO's sums weigh each completion by its length, those of REINFORCE++-baseline over the whole batch.
        for (group, credits) in groups.iter().zip(by_group(&Opo::default(), &groups)) {
            let weighted = credits.iter().zip(&group.lengths).map(|(a, &length)| a * length as f64);
            prop_assert!(close(weighted.sum(), 0.0, 10.0));
        }
        let white = credit(&ReinforcePlusPlusBaseline::default(), &groups).concat();
        prop_assert!(close(white.iter().map(|&a| f64::from(a)).sum(), 0.0, white.len() as f64));
    }

    #[test]
    fn a_shift_of_all_rewards_changes_nothing(groups in batch(), shift in -4.0_f32..4.0) {
        let mut shifted = groups.clone();
        for group in &mut shifted {
            group.totals.iter_mut().for_each(|total| *total += shift);
            group.parts.iter_mut().flatten().for_each(|part| *part += shift);
            group.greedy_total = group.greedy_total.map(|total| total + shift);
        }
        for preset in [
            Preset::Reinforce, Preset::Grpo, Preset::DrGrpo, Preset::Rloo, Preset::ReinforcePlusPlus,
            Preset::ReinforcePlusPlusBaseline, Preset::Remax, Preset::LitePpo, Preset::Opo, Preset::Gdpo,
        ] {
            // Rounding a shifted reward matters to a spread near zero only.
            let spread = |group: &GroupRewards| {
                let most = group.totals.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
                most - group.totals.iter().fold(f32::INFINITY, |a, &b| a.min(b))
            };
            prop_assume!(groups.iter().all(|group| spread(group) > 0.05));
            let algorithm = AlgorithmConfig::preset(preset).build(2).unwrap();
            let (before, after) = (credit(&*algorithm.advantage, &groups), credit(&*algorithm.advantage, &shifted));
            for (a, b) in before.concat().iter().zip(after.concat()) {
                prop_assert!((a - b).abs() <= 1e-3 * (1.0 + b.abs()), "{preset:?}: {a} {b}");
            }
        }
    }

    #[test]
    fn credit_follows_its_completion(groups in batch()) {
        let mut turned = groups.clone();
        for group in &mut turned {
            group.totals.reverse();
            group.lengths.reverse();
            group.parts.reverse();
            group.values.reverse();
        }
        for preset in Preset::ALL {
            let algorithm = AlgorithmConfig::preset(preset).build(8).unwrap();
            let of = |groups: &[GroupRewards]| {
                let mut rows = credit(&*algorithm.advantage, groups).into_iter();
                let of_group = |group: &GroupRewards| rows.by_ref().take(group.totals.len()).collect::<Vec<_>>();
                groups.iter().map(of_group).collect::<Vec<_>>()
            };
            for (mut group, same) in of(&turned).into_iter().zip(of(&groups)) {
                group.reverse();
                for (a, b) in group.concat().iter().zip(same.concat()) {
                    prop_assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "{preset:?}: {a} {b}");
                }
            }
        }
    }

    #[test]
    fn the_ends_of_lambda_are_the_return_and_the_next_value(groups in batch(), gamma in 0.5_f64..1.0) {
        let gae = |lambda| Gae { gamma, lambda, whiten: false }.estimate(&groups).unwrap();
        let (whole, step) = (gae(1.0), gae(0.0));
        let rows = groups.iter().flat_map(|group| group.totals.iter().zip(&group.values));
        for (row, (&total, values)) in rows.enumerate() {
            let length = values.len();
            for t in 0..length {
                let discounted = f64::from(total) * gamma.powi((length - 1 - t) as i32);
                let value = f64::from(values[t]);
                prop_assert!(close(f64::from(whole.per_token[row][t]), discounted - value, 3.0));
                let next = values.get(t + 1).map_or(f64::from(total), |&next| gamma * f64::from(next));
                prop_assert!(close(f64::from(step.per_token[row][t]), next - value, 3.0));
                prop_assert!(close(f64::from(step.value_targets[row][t]), next, 3.0));
            }
        }
    }

    #[test]
    fn one_lambda_for_both_is_plain_gae(groups in batch(), lambda in 0.0_f64..1.0) {
        let decoupled = DecoupledGae { gamma: 0.9, lambda_actor: lambda, lambda_critic: lambda, whiten: true };
        let plain = Gae { gamma: 0.9, lambda, whiten: true };
        let (decoupled, plain) = (decoupled.estimate(&groups).unwrap(), plain.estimate(&groups).unwrap());
        for (a, b) in decoupled.per_token.concat().iter().zip(plain.per_token.concat()) {
            prop_assert!((a - b).abs() <= 1e-5 * (1.0 + b.abs()));
        }
        prop_assert_eq!(decoupled.value_targets.concat().len(), plain.value_targets.concat().len());
    }

    #[test]
    fn reductions_are_means_of_what_they_say(lengths in prop::collection::vec(0_usize..9, 1..9)) {
        let filled = lengths.iter().filter(|&&length| length > 0).count() as f64;
        let tokens = lengths.iter().sum::<usize>() as f64;
        let total = |reduction: Reduction| -> f64 {
            let weights = reduction.weights_f64(&lengths, 10.0);
            weights.iter().zip(&lengths).map(|(weight, &length)| weight * length as f64).sum()
        };
        let any = f64::from(filled > 0.0);
        prop_assert!(close(total(Reduction::TokenMean), any, 1.0));
        prop_assert!(close(total(Reduction::SequenceMeanTokenMean), any, 1.0));
        prop_assert!(close(total(Reduction::TokenSum), tokens, tokens));
        prop_assert!(close(total(Reduction::SequenceMeanTokenSum) * filled, tokens, tokens));
        prop_assert!(close(total(Reduction::SequenceMeanTokenSumNorm) * filled * 10.0, tokens, tokens));
    }

    #[test]
    fn no_loss_leaks_through_the_mask_or_leaves_the_finite(
        tokens in prop::collection::vec((-60.0_f32..0.0, -60.0_f32..0.0, -3.0_f32..3.0, any::<bool>()), 12),
        garbage in prop::sample::select(vec![0.0, f32::NAN, f32::INFINITY, -1e30]),
    ) {
        let evaluate = |preset: Preset, outside: f32| {
            let device = Device::default();
            let table = |value: &dyn Fn(&TokenRow) -> f32| {
                let values: Vec<f32> = tokens.iter().map(|t| if t.3 { value(t) } else { outside }).collect();
                Tensor::<2>::from_data(TensorData::new(values, [3, 4]), &device)
            };
            let mask: Vec<bool> = tokens.iter().map(|t| t.3).collect();
            let policy_logprobs = table(&|t| t.0).autodiff().require_grad();
            let output = AlgorithmConfig::preset(preset).build(8).unwrap().loss.evaluate(PolicyLossInput {
                policy_logprobs: policy_logprobs.clone(),
                old_logprobs: table(&|t| t.1),
                advantages: table(&|t| t.2),
                loss_mask: Tensor::<2, Bool>::from_data(TensorData::new(mask, [3, 4]), &device),
            });
            let gradients = output.per_token.clone().sum().backward();
            let numbers = |tensor: Tensor<2>| tensor.into_data().try_to_vec::<f32>().unwrap();
            (numbers(output.per_token), numbers(policy_logprobs.grad(&gradients).unwrap()))
        };
        for preset in
            [Preset::Reinforce, Preset::Grpo, Preset::Gspo, Preset::Gmpo, Preset::Cispo, Preset::Sapo, Preset::Opmd]
        {
            let (loss, gradient) = evaluate(preset, 0.0);
            prop_assert_eq!(&evaluate(preset, garbage), &(loss.clone(), gradient.clone()), "{:?}", preset);
            for ((loss, gradient), token) in loss.iter().zip(&gradient).zip(&tokens) {
                prop_assert!(loss.is_finite() && gradient.is_finite(), "{:?}", preset);
                prop_assert!(token.3 || (*loss, *gradient) == (0.0, 0.0), "{:?}", preset);
            }
        }
    }
}
