//! What adapters drop in training follows from the seed and the step, and stages that sample drop nothing.

use std::path::Path;

use burn::tensor::Device;
use kyoka_core::{Metrics, Sample, named_parameters};
use kyoka_data::PreferenceRow;
use kyoka_fusion::{Decoder, DecoderConfig};
use kyoka_nn::{Linears, LowRank, LowRankConfig, NamedLinears, WeightInit};
use kyoka_rollout::LocalEngine;
use kyoka_testing::{Echo, Scored};
use kyoka_trainer::{
    PreferenceStage, PreferenceStageConfig, RlConfig, RlParts, RlStage, SftConfig, SftStage, Stage,
};

use crate::words::{Policy, keep_only_step_3, run_stage};

fn is_odd(text: &str) -> Option<f32> {
    Some(f32::from(text.len() % 2 == 1))
}

/// A policy with an adapter on every projection of its decoder.
fn policy(dropout: f64) -> Policy {
    let config =
        DecoderConfig { d_model: 32, num_layers: 2, d_head: 8, d_hidden: 48, ..DecoderConfig::tiny(12) };
    let mut init = WeightInit::new(5, &Device::flex().autodiff());
    let mut policy = Policy::text_only(Decoder::new(&config, &mut init));
    let mut linears = NamedLinears::new();
    policy.linears("", &mut linears);
    for (_, linear) in linears {
        let [d_input, d_output] = linear.weight.dims();
        let config = LowRankConfig { rank: 4, scale: 1.0, dropout };
        let mut adapter = LowRank::new(config, d_input, 0..d_output, &mut init);
        adapter.b = init.uniform([4, d_output], 0.3);
        linear.adapters.push(adapter);
    }
    policy
}

fn samples() -> Vec<Sample> {
    let sample = |word: u32| {
        let completion = Some(format!("{word} {word}"));
        Sample { id: word.to_string(), completion, ..Sample::default() }
    };
    (0..12).map(sample).collect()
}

fn pairs() -> Vec<PreferenceRow> {
    let row = |sample: Sample| PreferenceRow {
        chosen: sample.completion.clone().unwrap(),
        rejected: "3 1 2".to_owned(),
        margin: None,
        tie: false,
        sample,
    };
    samples().into_iter().map(row).collect()
}

const SFT: &str =
    "data = 'words'\nsteps = 6\nbatch_size = 5\ntokens_per_micro_batch = 8\nlearning_rate = { peak = 1e-3 }";
const DPO: &str = "data = 'words'\nsteps = 6\nbatch_size = 5\ntokens_per_micro_batch = 20\n\
                   learning_rate = { peak = 1e-3 }\nalgorithm = 'dpo'";

/// Runs a stage, or goes on with it, in a folder with a checkpoint every three steps; weights and what the steps said.
fn run_in(folder: &Path, stage: &mut dyn Stage<Policy>, seed: u64) -> (Vec<Vec<f32>>, Vec<Metrics>) {
    let (policy, steps) = run_stage((folder, 3), policy(0.3), stage, seed).unwrap();
    let weights = named_parameters(&policy).into_values();
    (weights.map(|(_, data)| data.try_into_vec().unwrap()).collect(), steps)
}

fn assert_seeded(stage: &dyn Fn() -> Box<dyn Stage<Policy>>) {
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let (straight, steps) = run_in(folders[0].path(), stage().as_mut(), 1);
    assert_eq!(steps.len(), 6);
    assert!(run_in(folders[1].path(), stage().as_mut(), 1).0 == straight, "same seed, same run");
    // The order of the rows is that of seed 1 too.
    assert!(run_in(folders[2].path(), stage().as_mut(), 2).0 != straight, "another seed drops other values");
    keep_only_step_3(folders[0].path());
    let (resumed, steps) = run_in(folders[0].path(), stage().as_mut(), 1);
    assert_eq!(steps.len(), 3, "it goes on after step 3");
    assert!(resumed == straight, "a resumed run drops the same values");
}

#[test]
fn dropout_of_supervised_and_preference_stages_follows_the_seed() {
    let config: &'static SftConfig = Box::leak(Box::new(toml::from_str(SFT).unwrap()));
    let rows: &'static [Sample] = Vec::leak(samples());
    assert_seeded(&|| Box::new(SftStage::new("sft", config, &Echo, rows, 1).unwrap()));
    let config: &'static PreferenceStageConfig = Box::leak(Box::new(toml::from_str(DPO).unwrap()));
    let rows: &'static [PreferenceRow] = Vec::leak(pairs());
    assert_seeded(&|| Box::new(PreferenceStage::new("preference", config, &Echo, rows, 1).unwrap()));
}

#[test]
fn what_learns_by_reinforcement_is_what_samples_without_dropout() {
    let config: RlConfig = toml::from_str(
        "data = 'words'\nsteps = 1\nprompts_per_step = 4\ngroup_size = 4\nalgorithm = 'grpo'\n\
         sampling = { max_new_tokens = 4 }\nlearning_rate = { peak = 1e-3 }",
    )
    .unwrap();
    let (engine, samples) = (LocalEngine::new(u32::MAX, vec![11]), samples());
    let algorithm = config.algorithm.build(config.group_size).unwrap();
    let parts = RlParts {
        algorithm,
        task: &Echo,
        reward: &Scored(is_odd),
        engine: &engine,
        episodes: None,
        samples: &samples,
    };
    let mut stage = RlStage::new("rl", &config, parts, 1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let drift = run_in(folder.path(), &mut stage, 1).1[0].get("ratio/max_abs_log").unwrap();
    assert!(drift < 1e-5, "|log ratio| up to {drift}");
}
