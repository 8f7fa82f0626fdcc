//! What the trainer does not do, and what stops it.

use burn::tensor::{Device, Tensor};
use kyoka_algorithms::{AlgorithmOverrides, PartNames};
use kyoka_core::{
    AdvantageError, AdvantageEstimator, Advantages, Completion, GroupRewards, PolicyLoss, PolicyLossInput,
    PolicyLossOutput, Reward, RewardContext, RewardError, RewardFn, RolloutEngine, RolloutGroup,
    SamplingConfig,
};
use kyoka_testing::Echo;
use kyoka_trainer::{RlConfig, RlParts, RlStage};

use crate::words::{Altered, Policy, Repeats, config, engine, policy, run_stage, samples, stage, steps_with};

const BARE: &str =
    "data = 'words'\nsteps = 1\nprompts_per_step = 1\ngroup_size = 4\nlearning_rate = { peak = 1e-3 }";

#[test]
fn what_the_trainer_cannot_do_is_refused() {
    let refused = |text: &str| {
        let config = RlConfig { algorithm: toml::from_str(text).unwrap(), ..toml::from_str(BARE).unwrap() };
        let (samples, engine) = (samples(), engine());
        stage(&config, (&Repeats, &engine), &samples).err().unwrap().to_string()
    };
    assert!(refused("preset = 'ppo'\nreplay_share = 0.5").contains("value targets"));
    assert!(refused("preset = 'remax'\nreplay_share = 0.5").contains("no ratio"));
    assert!(refused("advantage = 'gae'").contains("needs a critic"));
    let refused = |sampling: SamplingConfig| {
        let config = RlConfig { sampling, ..toml::from_str(BARE).unwrap() };
        let (samples, engine) = (samples(), engine());
        stage(&config, (&Repeats, &engine), &samples).err().unwrap().to_string()
    };
    let base = SamplingConfig::default();
    assert!(refused(SamplingConfig { top_k: 5, ..base.clone() }).starts_with("rl.sampling.top_k"));
    assert!(refused(SamplingConfig { top_p: 0.5, ..base.clone() }).starts_with("rl.sampling.top_p"));
    assert!(refused(SamplingConfig { min_p: 0.5, ..base }).starts_with("rl.sampling.min_p"));
    assert!(refused(SamplingConfig::greedy(4)).starts_with("rl.sampling.temperature"));
}

/// One step of GRPO with another judge and another engine; what stopped it.
fn stopped(reward: &dyn RewardFn, engine: &dyn RolloutEngine<Policy>) -> String {
    let config = config(AlgorithmOverrides::default(), 1);
    steps_with(&config, (reward, engine)).err().unwrap().to_string()
}

#[test]
fn a_reward_that_is_no_number_stops_the_run_and_names_the_row() {
    struct Broken(f32);
    impl RewardFn for Broken {
        fn name(&self) -> &str {
            "broken"
        }
        fn score(&self, context: &RewardContext<'_>, _: &Completion) -> Result<Reward, RewardError> {
            let bad = context.sample.id == "5";
            Ok(Reward { total: Some(if bad { self.0 } else { 1.0 }), ..Reward::default() })
        }
    }
    for value in [f32::NAN, f32::INFINITY] {
        let message = stopped(&Broken(value), &engine());
        let expected = format!(
            "reward broken: row 5: expected a finite number, got {value}; there is no checkpoint yet"
        );
        assert_eq!(message, expected);
    }
}

#[test]
fn an_engine_without_logprobs_is_refused() {
    let silent = |index: usize, group: &mut RolloutGroup| {
        if index == 2 {
            group.rollouts[1].logprobs.clear();
        }
    };
    let message = stopped(&Repeats, &Altered::new(silent));
    assert!(message.contains("prompt 2: expected 3 log-probabilities"), "{message}");
}

/// One step with an estimator and a loss of someone else's; what stopped it.
fn stopped_by_part(advantage: Option<Advantages>, loss: Option<PolicyLossOutput>) -> String {
    struct Canned<T>(Option<T>);
    impl AdvantageEstimator for Canned<Advantages> {
        fn min_group_size(&self) -> usize {
            1
        }
        fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
            let row = |&length: &usize| vec![1.0; length];
            let ones = groups.iter().flat_map(|group| group.lengths.iter().map(row)).collect();
            Ok(self.0.clone().unwrap_or(Advantages { per_token: ones, ..Advantages::default() }))
        }
    }
    impl PolicyLoss for Canned<PolicyLossOutput> {
        fn evaluate(&self, input: PolicyLossInput) -> PolicyLossOutput {
            let own = || PolicyLossOutput {
                per_token: input.policy_logprobs.neg(),
                clipped: input.loss_mask.clone().bool_not(),
            };
            self.0.clone().unwrap_or_else(own)
        }
    }
    let config = config(AlgorithmOverrides::default(), 1);
    let mut algorithm = config.algorithm.build(config.group_size).unwrap();
    algorithm.names = PartNames { advantage: "mine".to_owned(), loss: "ours".to_owned() };
    (algorithm.advantage, algorithm.loss) = (Box::new(Canned(advantage)), Box::new(Canned(loss)));
    let (samples, engine, folder) = (samples(), engine(), tempfile::tempdir().unwrap());
    let parts = RlParts {
        algorithm,
        task: &Echo,
        reward: &Repeats,
        engine: &engine,
        episodes: None,
        samples: &samples,
    };
    let mut stage = RlStage::new("rl", &config, parts, 1).unwrap();
    let ran = run_stage((folder.path(), 0), policy(), &mut stage, 1);
    ran.err().map_or("nothing".to_owned(), |error| error.to_string())
}

#[test]
fn what_parts_of_others_give_is_looked_at_and_they_are_named() {
    assert_eq!(stopped_by_part(None, None), "nothing");
    let one = Advantages { per_token: vec![vec![1.0]], ..Advantages::default() };
    let said = stopped_by_part(Some(one), None);
    assert!(said.starts_with("rl, step 1: mine: expected advantages of "), "{said}");
    let device = Device::flex();
    let narrow = PolicyLossOutput {
        per_token: Tensor::zeros([1, 1], &device),
        clipped: Tensor::<2>::zeros([1, 1], &device).bool(),
    };
    let said = stopped_by_part(None, Some(narrow));
    let expected = "rl, step 1: policy loss ours: per_token: expected the shape of the log-probabilities, [";
    assert!(said.starts_with(expected) && said.contains("], got [1, 1]"), "{said}");
}
