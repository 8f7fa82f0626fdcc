//! What one step does, and says that it does.

use kyoka_algorithms::{AlgorithmOverrides, Preset, Reduction};
use kyoka_core::{Completion, Metrics, Reward, RewardContext, RewardError, RewardFn, RolloutGroup};
use kyoka_trainer::{AdamWConfig, LearningRate, RlConfig};

use crate::words::{Altered, Policy, Repeats, config, engine, steps_of, steps_with, weights};

/// What the first step said.
fn first_step(config: &RlConfig) -> Metrics {
    steps_of(config).1.remove(0)
}

#[test]
fn a_step_is_the_same_however_it_is_split_into_micro_batches() {
    let first_step = |algorithm: &str, tokens_per_micro_batch| {
        let algorithm = toml::from_str(algorithm).unwrap();
        first_step(&RlConfig { tokens_per_micro_batch, ..config(algorithm, 1) })
    };
    for algorithm in [
        "preset = 'grpo'\nkl_coef = 0.1",
        "preset = 'dapo'\nentropy_coef = 0.01",
        "preset = 'cppo'\nkl_coef = 0.1\nkl_estimator = 'full'",
        "preset = 'ppo'",
        "preset = 'vapo'\ncritic = 'shared'\ncritic_pretrain_steps = 0",
    ] {
        // A micro-batch a completion, and one for all.
        let (apart, together) = (first_step(algorithm, 1), first_step(algorithm, 100_000));
        for name in ["loss", "grad_norm"] {
            let (apart, together) = (apart.get(name).unwrap(), together.get(name).unwrap());
            let close = (apart - together).abs() <= 1e-5 * (1.0 + together.abs());
            assert!(close, "{algorithm}: {name} {apart} apart, {together} together");
        }
    }
}

#[test]
fn what_learns_is_what_samples_at_every_temperature() {
    for temperature in [0.02, 0.3, 1.0, 3.0] {
        for algorithm in [
            "preset = 'grpo'\nkl_coef = 0.1",
            "preset = 'grpo'\nentropy_coef = 0.01\ncorrection = 'mask_token'",
            "preset = 'reinforce'",
        ] {
            let mut config = config(toml::from_str(algorithm).unwrap(), 1);
            config.sampling.temperature = temperature;
            let metrics = first_step(&config);
            if metrics.get("trained_tokens") == Some(0.0) {
                // The coldest policy repeats itself: nothing to learn, no update.
                continue;
            }
            let get = |name: &str| metrics.get(name).unwrap_or_else(|| panic!("{algorithm}: no {name}"));
            let drift = get("ratio/max_abs_log");
            // Rounding of the logits, divided by the temperature.
            let bound = if temperature < 0.1 { 1e-4 } else { 1e-5 };
            assert!(drift < bound, "{algorithm}, temperature {temperature}: |log ratio| up to {drift}");
            if algorithm.contains("kl_coef") {
                assert!(get("kl").abs() < 1e-6, "the reference is the policy: {}", get("kl"));
            }
            if algorithm.contains("correction") {
                assert!(get("mismatch/max_abs_log") < bound);
                let (sampled, trained) = (get("entropy"), get("entropy/policy"));
                assert!((sampled - trained).abs() < 1e-4, "{sampled} sampled, {trained} trained");
            }
            let entropy = get("entropy");
            assert!(
                (0.0..8.0_f64.ln() + 1e-6).contains(&entropy),
                "{temperature}: {entropy} nats of 8 words"
            );
            assert!(metrics.get("entropy_estimate").is_none());
        }
    }
}

#[test]
fn an_engine_that_cannot_tell_the_entropy_leaves_an_estimate() {
    let silent = |_: usize, group: &mut RolloutGroup| {
        group.rollouts.iter_mut().for_each(|rollout| rollout.entropies.clear());
    };
    let config = config(AlgorithmOverrides::default(), 1);
    let steps = steps_with(&config, (&Repeats, &Altered::new(silent))).unwrap().1;
    let estimate = steps[0].get("entropy_estimate").unwrap();
    assert!(steps[0].get("entropy").is_none());
    let exact = first_step(&config).get("entropy").unwrap();
    assert!((estimate - exact).abs() < 0.1, "{estimate} estimated, {exact} exactly");
}

/// As in the paper and in TRL, the tokens left out still count in the denominators.
#[test]
fn the_share_of_uncertain_tokens_changes_no_denominator() {
    let step = |share: f64| {
        let algorithm = format!("preset = 'dapo'\ndynamic_sampling = false\ntop_entropy_share = {share}");
        first_step(&config(toml::from_str(&algorithm).unwrap(), 1))
    };
    // Completions of a group share their first distribution, so that the most uncertain one is that of up to 8 tokens. A
    // mean over those alone would have 24 times their gradient.
    let [few, half, all] = [1e-6, 0.5, 1.0].map(step);
    let tokens = few.get("trained_tokens").unwrap();
    assert!((1.0..=8.0).contains(&tokens), "{tokens} tokens");
    let [few, half, all] = [few, half, all].map(|metrics| metrics.get("grad_norm").unwrap());
    assert!(few > 0.0 && few < 0.7 * all && half < 1.2 * all, "gradients of {few}, {half} and {all}");
}

/// How far every weight went from the start.
fn changes(policy: &Policy) -> Vec<f32> {
    let (after, before) = (weights(policy), weights(&crate::words::policy()));
    let both = after.iter().zip(&before).flat_map(|(after, before)| after.1.iter().zip(&before.1));
    both.map(|(after, before)| after - before).collect()
}

/// With the same denominators, the gradients of the mini-batches add up to that of the batch. An optimizer without memory
/// and with an epsilon far above any gradient takes steps in proportion to its gradients, here so small ones that the policy
/// hardly moves in between.
#[test]
fn mini_batches_with_the_denominators_of_the_batch_add_up_to_the_batch() {
    let optimizer = AdamWConfig {
        beta_1: 0.0,
        beta_2: 0.0,
        epsilon: 1e5,
        weight_decay: 0.0,
        max_grad_norm: f64::INFINITY,
    };
    // The step is so small that the gradients of the later parts are those of the same policy: a thirtieth of the rate leaves
    // a thirtieth of the difference.
    let moved = |mini_batches: usize| {
        // `token_sum` has no denominator.
        let algorithm = AlgorithmOverrides {
            reduction: Some(Reduction::TokenSum),
            mini_batches: Some(mini_batches),
            ..AlgorithmOverrides::default()
        };
        let mut config = RlConfig { optimizer, ..config(algorithm, 1) };
        config.learning_rate.peak = 0.1;
        changes(&steps_of(&config).0)
    };
    let (whole, norm) = (moved(1), |values: &[f32]| values.iter().map(|v| v * v).sum::<f32>().sqrt());
    assert!(norm(&whole) > 0.0);
    for mini_batches in [2, 3, 8] {
        let apart: Vec<f32> = moved(mini_batches).iter().zip(&whole).map(|(a, b)| a - b).collect();
        let share = norm(&apart) / norm(&whole);
        assert!(share < 0.01, "{mini_batches} mini-batches move {share} of the batch's step elsewhere");
    }
}

#[test]
fn a_critic_is_pre_trained_before_the_steps_of_the_policy() {
    let algorithm = AlgorithmOverrides { preset: Some(Preset::Vapo), ..AlgorithmOverrides::default() };
    // 50 steps of the critic alone is the preset's.
    let few = RlConfig {
        learning_rate: LearningRate { warmup_steps: 2, ..config(algorithm.clone(), 3).learning_rate },
        ..config(AlgorithmOverrides { critic_pretrain_steps: Some(4), ..algorithm.clone() }, 3)
    };
    assert_eq!(config(algorithm, 3).total_steps(), 53);
    let (policy, steps) = steps_of(&few);
    let of = |name: &str| steps.iter().map(|step| step.get(name).unwrap()).collect::<Vec<f64>>();
    assert_eq!(of("learning_rate"), [0.0, 0.0, 0.0, 0.0, 1.5e-3, 3e-3, 3e-3]);
    assert_eq!(of("critic_learning_rate"), [1.5e-3, 3e-3, 3e-3, 3e-3, 3e-3, 3e-3, 3e-3]);
    assert!(changes(&policy).iter().any(|change| *change != 0.0), "the policy must learn");
}

#[test]
fn a_critic_learns_beside_a_policy_that_stands_still() {
    let algorithm = toml::from_str("preset = 'ppo'\ncritic_learning_rate = 1e-2").unwrap();
    let mut config = config(algorithm, 12);
    config.learning_rate.peak = 0.0;
    let (policy, steps) = steps_of(&config);
    assert!(changes(&policy).iter().all(|change| *change == 0.0));
    let last = steps.last().unwrap();
    assert_eq!((last.get("learning_rate"), last.get("critic_learning_rate")), (Some(0.0), Some(1e-2)));
    // A critic that says 0 explains nothing; one that learned says something else.
    let explained = |step: &Metrics| step.get("explained_variance").unwrap();
    assert_eq!(explained(&steps[0]), 0.0);
    assert!(explained(last) != 0.0 && explained(last).is_finite(), "{}", explained(last));
}

/// Repetition counts for even words; all completions of an odd word are right.
struct OddAreRight;

impl RewardFn for OddAreRight {
    fn name(&self) -> &str {
        "odd"
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let odd = context.sample.answers()[0].parse::<u32>().unwrap() % 2 == 1;
        if odd {
            Ok(Reward { total: Some(1.0), ..Reward::default() })
        } else {
            Repeats.score(context, completion)
        }
    }
}

#[test]
fn groups_without_credit_are_replaced_with_every_kind_of_baseline() {
    for algorithm in [
        "preset = 'dapo'",
        "preset = 'ppo'\ndynamic_sampling = true",
        "preset = 'vapo'\ncritic_pretrain_steps = 0\ndynamic_sampling = true",
    ] {
        let config = config(toml::from_str(algorithm).unwrap(), 1);
        let steps = steps_with(&config, (&OddAreRight, &engine())).unwrap().1;
        assert!(
            steps[0].get("refills").unwrap() > 0.0,
            "{algorithm}: half of the prompts earn the same throughout"
        );
        // 8 groups of 8 completions of 3 tokens, none of them of an odd word.
        assert_eq!(steps[0].get("trained_tokens"), Some(8.0 * 8.0 * 3.0), "{algorithm}");
    }
}

#[test]
fn replayed_completions_keep_their_ratio_beside_a_correction() {
    let algorithm = toml::from_str("replay_share = 0.5\ncorrection = 'truncate_token'").unwrap();
    let steps = steps_of(&config(algorithm, 5)).1;
    let last = steps.last().unwrap();
    assert!(last.get("replayed").unwrap() > 0.0);
    // The sampler is the trainer here; the policy of some steps ago is not.
    assert!(last.get("mismatch/max_abs_log").unwrap() < 1e-4, "{last:?}");
    assert!(last.get("ratio/max_abs_log").unwrap() > 1e-3, "{last:?}");
}
