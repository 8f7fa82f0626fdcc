//! A policy learns from what it sees between its turns.

use std::path::Path;

use kyoka_core::{Completion, Metrics, Reward, RewardContext, RewardError, RewardFn, SamplingConfig};
use kyoka_rollout::LocalEngine;
use kyoka_testing::{Echo, Tells};
use kyoka_trainer::{EpisodeRules, Evaluation, LearningRate, RlConfig, RlParts, RlStage, evaluate};

use crate::words::{
    BANNED, Policy, WORDS, config, curve, keep_only_step_3, mean, policy, run_stage, samples, weights,
};

/// What the environment gave.
struct Given;

impl RewardFn for Given {
    fn name(&self) -> &str {
        "given"
    }

    fn score(&self, _: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let turns = completion.turns.iter();
        let given: Vec<f32> = turns.filter_map(|turn| turn.reward).collect();
        assert!(given.len() <= 1, "the first turn has no reward of its own");
        Ok(match given.first() {
            Some(&value) => Reward::answered(self.name(), value == 1.0),
            None => Reward::ungraded(),
        })
    }
}

/// Every word ends a turn.
fn engine() -> LocalEngine<Policy> {
    let mut engine = LocalEngine::new(0, BANNED.to_vec());
    engine.end_ids = (0..WORDS).collect();
    engine
}

fn rules(max_turns: usize) -> Option<EpisodeRules<'static>> {
    const TELLS: &Tells = &Tells { words: WORDS as u64 };
    Some(EpisodeRules { environments: TELLS, max_turns, max_observation_tokens: 4 })
}

fn settings(algorithm: &str, steps: usize) -> RlConfig {
    RlConfig {
        sampling: SamplingConfig { max_new_tokens: 2, ..SamplingConfig::default() },
        learning_rate: LearningRate::fixed(3e-3),
        ..config(toml::from_str(algorithm).unwrap(), steps)
    }
}

fn run(folder: &Path, config: &RlConfig, max_turns: usize) -> (Policy, Vec<Metrics>) {
    let (samples, engine) = (samples(), engine());
    let algorithm = config.algorithm.build(config.group_size).unwrap();
    let episodes = rules(max_turns);
    let parts =
        RlParts { algorithm, task: &Echo, reward: &Given, engine: &engine, episodes, samples: &samples };
    let mut stage = RlStage::new("rl", config, parts, 1).unwrap();
    run_stage((folder, 3), policy(), &mut stage, 1).unwrap()
}

#[test]
fn a_policy_learns_what_only_an_observation_tells() {
    let folder = tempfile::tempdir().unwrap();
    let (policy, steps) = run(folder.path(), &settings("", 240), 2);
    let rewards = curve(&steps, "reward/given");
    assert!(mean(&rewards[..3]) < 0.4, "before it has learned: {rewards:?}");
    assert!(mean(&rewards[220..]) > 0.9, "{rewards:?}");
    assert!(curve(&steps, "turns").iter().all(|&turns| turns == 2.0));
    // As sampling and training see it, so does an evaluation.
    let engine = engine();
    let evaluation = Evaluation {
        task: &Echo,
        reward: &Given as &dyn RewardFn,
        engine: &engine,
        sampling: SamplingConfig::greedy(2),
        episodes: rules(2),
        num_samples: 1,
        seed: 5,
        interrupt: None,
    };
    let told = evaluate((0, &policy), &evaluation, "val", &samples()).unwrap().summary;
    assert_eq!((told.part("turns"), told.num_rows), (Some(2.0), WORDS as usize));
    assert!(told.part("given").unwrap() > 0.8, "{told:?}");
}

#[test]
fn what_is_not_judged_teaches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let all = RlConfig { max_ungraded: 1.0, ..settings("", 2) };
    let (after, steps) = run(folder.path(), &all, 1);
    assert_eq!(curve(&steps, "ungraded"), [64.0, 64.0], "one turn is none that is judged");
    assert!(weights(&after) == weights(&policy()), "the policy must stay as it is");
}

#[test]
fn a_run_of_several_turns_resumes_to_the_same_bits() {
    for algorithm in ["kl_coef = 0.01", "preset = 'ppo'\nmini_batches = 2", "preset = 'remax'"] {
        let config = settings(algorithm, 6);
        let folder = tempfile::tempdir().unwrap();
        let straight = weights(&run(folder.path(), &config, 2).0);
        keep_only_step_3(folder.path());
        let (policy, steps) = run(folder.path(), &config, 2);
        assert_eq!(steps.len(), 3, "{algorithm} goes on after step 3");
        assert!(weights(&policy) == straight, "{algorithm}: the weights must be the same");
    }
}

#[test]
fn completions_with_answers_are_not_replayed() {
    let (config, samples, engine) = (settings("replay_share = 0.5", 1), samples(), engine());
    let algorithm = config.algorithm.build(config.group_size).unwrap();
    let episodes = rules(2);
    let parts =
        RlParts { algorithm, task: &Echo, reward: &Given, engine: &engine, episodes, samples: &samples };
    let said = RlStage::new("rl", &config, parts, 1).err().unwrap().to_string();
    assert!(said.starts_with("rl.algorithm.replay_share: expected 0 with an environment"), "{said}");
}
