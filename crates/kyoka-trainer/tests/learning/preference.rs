//! Comparisons teach a policy, or a reward model.

use std::path::Path;

use kyoka_core::{Metrics, Sample, Task};
use kyoka_data::PreferenceRow;
use kyoka_testing::Echo;
use kyoka_trainer::{
    Judgements, PreferenceStage, PreferenceStageConfig, RewardModelConfig, RewardModelStage,
    load_reward_model,
};

use crate::words::{NEW_TOKENS, Policy, WORDS, keep_only_step_3, mean, policy, run_stage, samples, weights};

/// Trains on pairs of a right and a wrong repetition, or goes on; gives the policy and what each step said.
fn prefer_in(folder: &Path, config: &PreferenceStageConfig, every: usize) -> (Policy, Vec<Metrics>) {
    let rows = pair_rows();
    let mut stage = PreferenceStage::new("preference", config, &Echo, &rows, 1).unwrap();
    run_stage((folder, every), policy(), &mut stage, 1).unwrap()
}

fn pair_rows() -> Vec<PreferenceRow> {
    let row = |(number, sample): (usize, Sample)| PreferenceRow {
        sample,
        chosen: [number; NEW_TOKENS].map(|word| word.to_string()).join(" "),
        rejected: [(number + 3) % WORDS as usize; 2].map(|word| word.to_string()).join(" "),
        margin: None,
        tie: false,
    };
    samples().into_iter().enumerate().map(row).collect()
}

fn preference(algorithm: &str, steps: usize) -> PreferenceStageConfig {
    let text = format!(
        "data = 'pairs'\nsteps = {steps}\nbatch_size = 6\ntokens_per_micro_batch = 20\n\
         learning_rate = {{ peak = 3e-3 }}\noptimizer = {{ weight_decay = 0.0 }}\nalgorithm = {algorithm}"
    );
    toml::from_str(&text).unwrap()
}

#[test]
fn every_preference_loss_teaches_which_completion_is_better() {
    for algorithm in [
        "'dpo'",
        "'ipo'",
        "'kto'",
        "'mpo'",
        "{ loss = 'dpo_robust', label_smoothing = 0.1 }",
        "{ loss = 'dpo_hinge' }",
        "{ loss = 'simpo', beta = 2.0 }",
    ] {
        let steps = prefer_in(tempfile::tempdir().unwrap().path(), &preference(algorithm, 40), 0).1;
        let last = |name: &str| mean(&steps[35..].iter().map(|m| m.get(name).unwrap()).collect::<Vec<_>>());
        let first = |name: &str| steps[0].get(name).unwrap();
        let gap = |of: &dyn Fn(&str) -> f64| of("logprob/chosen") - of("logprob/rejected");
        assert!(gap(&last) > gap(&first) + 2.0, "{algorithm}: {} -> {}", gap(&first), gap(&last));
        assert!(last("loss") < first("loss"), "{algorithm}: {} -> {}", first("loss"), last("loss"));
        assert_eq!(last("preference/accuracy"), 1.0, "{algorithm}");
    }
}

#[test]
fn margins_without_a_reference_are_what_the_loss_compares() {
    // Completions of three and of two tokens.
    for (algorithm, scales) in [
        ("'simpo'", [2.0 / 3.0, 2.0 / 2.0]),
        ("{ reference_free = true, beta = 0.5 }", [0.5, 0.5]),
        ("{ reference_free = true, length_normalised = true, beta = 0.5 }", [0.5 / 3.0, 0.5 / 2.0]),
    ] {
        let steps = prefer_in(tempfile::tempdir().unwrap().path(), &preference(algorithm, 2), 0).1;
        for metrics in steps {
            let of = |name: &str| metrics.get(name).unwrap();
            let expected = scales[0] * of("logprob/chosen") - scales[1] * of("logprob/rejected");
            let got = of("preference/margin");
            assert!((got - expected).abs() < 1e-5, "{algorithm}: expected {expected}, got {got}");
        }
    }
}

#[test]
fn preference_training_resumes_to_the_same_bits() {
    for (algorithm, reference) in [("'mpo'", 0), ("'kto'", 0), ("'dpo'", 2)] {
        let config = PreferenceStageConfig {
            reference_every: reference,
            reference_decay: if reference > 0 { 0.5 } else { 0.0 },
            ..preference(algorithm, 6)
        };
        let folder = tempfile::tempdir().unwrap();
        let straight = weights(&prefer_in(folder.path(), &config, 3).0);
        keep_only_step_3(folder.path());
        let (policy, steps) = prefer_in(folder.path(), &config, 3);
        assert_eq!(steps.len(), 3, "{algorithm} goes on after step 3");
        assert!(weights(&policy) == straight, "{algorithm}: the weights must be the same");
    }
}

#[test]
fn a_reward_model_learns_which_completion_is_better_and_leaves_the_policy_alone() {
    let config: RewardModelConfig =
        toml::from_str("data = 'pairs'\nsteps = 30\nbatch_size = 6\nlearning_rate = { peak = 3e-3 }")
            .unwrap();
    let rows = pair_rows();
    let mut stage =
        RewardModelStage::new("reward_model", &config, &Echo, (Judgements::Pairs(&rows), None), 1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (after, steps) = run_stage((folder.path(), 0), policy(), &mut stage, 1).unwrap();
    assert_eq!(steps.last().unwrap().get("preference/accuracy"), Some(1.0));
    assert!(weights(&after) == weights(&policy()), "the policy must stay as it is");
    let checkpoint = folder.path().join("0-reward_model-000030");
    let model = load_reward_model(&checkpoint, &after).unwrap();
    let prompt = Echo.prompt(&rows[2].sample, None).unwrap();
    let scores = model.rewards(&prompt, &[&[2, 2, 2], &[5, 5]]);
    assert!(scores[0].mean > scores[1].mean + 1.0, "{scores:?}");
    // As the first version wrote it, wherever the folder has gone since.
    make_version_1(&checkpoint);
    let elsewhere = folder.path().join("judge");
    for (from, to) in [(&checkpoint, &checkpoint), (&checkpoint, &elsewhere)] {
        std::fs::rename(from, to).unwrap();
        let model = load_reward_model(to, &after).unwrap();
        assert_eq!(model.rewards(&prompt, &[&[2, 2, 2], &[5, 5]]), scores);
    }
    let critic = folder.path().join("3-rl-000030");
    std::fs::rename(elsewhere, &critic).unwrap();
    let said = load_reward_model(&critic, &after).err().unwrap().to_string();
    assert!(said.contains("expected a checkpoint with a reward model, got one without"), "{said}");
}

/// Puts the reward model in the critic's place and takes the number of the version away.
fn make_version_1(checkpoint: &Path) {
    for ending in [".safetensors", "_optimizer.safetensors"] {
        let path = |name: &str| checkpoint.join(format!("{name}{ending}"));
        std::fs::rename(path("reward_model"), path("critic")).unwrap();
    }
    let path = checkpoint.join("state.json");
    let mut state: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let state_of = state.as_object_mut().unwrap();
    for key in ["version", "files"] {
        state_of.remove(key).unwrap();
    }
    let record = state_of.remove("reward_model").unwrap();
    state_of.insert("critic".to_owned(), serde_json::json!([record["optimizer_steps"], record["own_trunk"]]));
    std::fs::write(path, state.to_string()).unwrap();
}

#[test]
fn a_reward_model_can_be_asked_for_a_margin() {
    let config: RewardModelConfig = toml::from_str(
        "data = 'pairs'\nsteps = 1\nbatch_size = 6\nmargin = 1.0\nlearning_rate = { peak = 1e-3 }",
    )
    .unwrap();
    let rows = pair_rows();
    let mut stage =
        RewardModelStage::new("reward_model", &config, &Echo, (Judgements::Pairs(&rows), None), 1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let steps = run_stage((folder.path(), 0), policy(), &mut stage, 1).unwrap().1;
    // All rewards are 0 at first: -log sigmoid(-1).
    let loss = steps[0].get("loss").unwrap();
    assert!((loss - (1.0 + 1.0_f64.exp()).ln()).abs() < 1e-5, "{loss}");
}
