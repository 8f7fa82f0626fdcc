//! A run that was killed goes on to the same bits, and a stage ends where it should.

use std::{fs, path::Path};

use kyoka_trainer::{CheckpointPolicy, CheckpointStore, RlConfig, Session, Stage};

use crate::words::{
    Repeats, Steps, config, engine, keep_only_step_3, policy, run_in, samples, stage, steps_of, weights,
};

fn assert_resumes(algorithm: &str) {
    let config = config(toml::from_str(algorithm).unwrap(), 6);
    let folder = tempfile::tempdir().unwrap();
    let straight = weights(&run_in(folder.path(), &config, 3).0);
    keep_only_step_3(folder.path());
    let (policy, steps) = run_in(folder.path(), &config, 3);
    assert_eq!(steps.len(), config.total_steps() - 3, "it goes on after step 3");
    assert!(weights(&policy) == straight, "the weights must be the same");
}

#[test]
fn a_run_with_critic_and_moving_reference_resumes_to_the_same_bits() {
    assert_resumes(
        "preset = 'vapo'\ncritic_pretrain_steps = 2\nkl_coef = 0.01\nkl_target = 0.05\nreference_every = 2",
    );
}

#[test]
fn a_run_that_replays_resumes_to_the_same_bits() {
    assert_resumes("preset = 'grpo'\nreplay_share = 0.5\nreplay_capacity = 48");
}

#[test]
fn a_run_of_mini_batches_resumes_to_the_same_bits() {
    assert_resumes("preset = 'ppo'\nmini_batches = 3\nupdates_per_batch = 2\ncritic_pretrain_steps = 1");
}

#[test]
fn replay_with_a_correction_resumes_to_the_same_bits() {
    assert_resumes(
        "replay_share = 0.5\nreplay_capacity = 48\ncorrection = 'truncate_token'\nrejection = 'k3'\nmini_batches = 2",
    );
}

#[test]
fn a_stage_ends_when_its_tokens_are_used_up() {
    let limited = |algorithm: &str, limit| {
        let algorithm = toml::from_str(algorithm).unwrap();
        let config = RlConfig { max_generated_tokens: limit, ..config(algorithm, 50) };
        steps_of(&config).1.len()
    };
    // A step generates 64 completions of 3 tokens; a greedy baseline 8 more.
    assert_eq!(limited("preset = 'grpo'", 4 * 192), 4);
    assert_eq!(limited("preset = 'remax'", 4 * 192), 4);
    assert_eq!(limited("preset = 'remax'", 8 * 192), 8 * 192 / 216 + 1);
}

#[test]
fn steps_of_stages_that_are_done_are_known_after_a_resume_of_an_older_run() {
    let (samples, engine, folder) = (samples(), engine(), tempfile::tempdir().unwrap());
    let configs = [config(toml::from_str("").unwrap(), 2), config(toml::from_str("").unwrap(), 3)];
    let steps_before = || {
        let policies = CheckpointPolicy { every: 1, keep_last: 9 };
        let store = CheckpointStore::new(folder.path().to_owned(), policies, Vec::new());
        let mut session = Session::new(policy(), 1, store);
        let mut stages = configs.iter().map(|config| stage(config, (&Repeats, &engine), &samples).unwrap());
        let mut stages: Vec<_> = stages.by_ref().collect();
        session.resume(|stage| stages[stage].optimization().1).unwrap();
        for (index, stage) in stages.iter_mut().enumerate() {
            session.run_stage(index, stage, &mut Steps(Vec::new()), &|_| Ok(Vec::new())).unwrap();
        }
        session.state.progress.steps_before
    };
    assert_eq!(steps_before(), [2]);
    // As if killed in the second stage by a version that did not count them.
    for step in 2..=3 {
        fs::remove_dir_all(folder.path().join(format!("1-rl-00000{step}"))).unwrap();
    }
    forget_steps_before(&folder.path().join("1-rl-000001"));
    assert_eq!(steps_before(), [2]);
}

fn forget_steps_before(checkpoint: &Path) {
    let path = checkpoint.join("state.json");
    let mut state: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    state["progress"].as_object_mut().unwrap().remove("steps_before").unwrap();
    fs::write(path, state.to_string()).unwrap();
}
