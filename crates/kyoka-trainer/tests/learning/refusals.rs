//! What the trainer does not do, and what stops it.

use kyoka_algorithms::AlgorithmOverrides;
use kyoka_core::{
    Completion, Reward, RewardContext, RewardError, RewardFn, RolloutEngine, RolloutGroup, SamplingConfig,
};
use kyoka_trainer::RlConfig;

use crate::words::{Altered, Policy, Repeats, config, engine, samples, stage, steps_with};

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
