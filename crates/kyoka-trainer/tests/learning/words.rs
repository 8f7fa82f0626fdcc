//! The task: repeat the token that is shown. A tiny policy, its stages, and what each of their steps says.

use std::path::Path;

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use kyoka_algorithms::AlgorithmOverrides;
use kyoka_core::{
    AudioInput, Completion, GroupSink, ImageInput, Metrics, Reward, RewardContext, RewardError, RewardFn,
    RolloutEngine, RolloutError, RolloutGroup, RolloutRequest, Sample, SamplingConfig,
};
use kyoka_fusion::{Decoder, DecoderConfig, MultimodalLm, NoEncoder};
use kyoka_nn::WeightInit;
use kyoka_rollout::LocalEngine;
use kyoka_testing::Echo;
use kyoka_trainer::{
    AdamWConfig, CheckpointPolicy, CheckpointStore, EvalReport, LearningRate, Observer, RlConfig, RlParts,
    RlStage, Session, Stage, StepReport, TrainError,
};

pub type Policy = MultimodalLm<NoEncoder<ImageInput>, NoEncoder<AudioInput>>;

/// The first tokens are words; none ends a completion.
pub const WORDS: u32 = 8;
/// Tokens that are never drawn: a policy that scored them would move its mass there.
pub const BANNED: [u32; 2] = [8, 9];
pub const NEW_TOKENS: usize = 3;

/// The share of the completion's tokens that repeat the word.
pub struct Repeats;

impl RewardFn for Repeats {
    fn name(&self) -> &str {
        "repeats"
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let word = context.sample.answers()[0].clone();
        let share = 1.0 / NEW_TOKENS as f32;
        let right = |token: &str| f32::from(token == word);
        let terms: Vec<(f32, f32)> = completion.text.split(' ').map(|token| (share, right(token))).collect();
        let total = terms.iter().map(|(_, right)| right).sum::<f32>() / NEW_TOKENS as f32;
        Ok(Reward { total: Some(total), right: Some(total == 1.0), terms, ..Reward::default() })
    }
}

pub fn samples() -> Vec<Sample> {
    let sample = |word: u32| Sample { id: word.to_string(), answer: Some(word.into()), ..Sample::default() };
    (0..WORDS).map(sample).collect()
}

/// A fresh policy of [`WORDS`] words, beside which the banned tokens are likely: unmasked they would take most of the mass.
/// Masked, they change nothing.
pub fn policy() -> Policy {
    let config = DecoderConfig {
        d_model: 32,
        num_layers: 2,
        num_heads: 2,
        num_kv_heads: 1,
        d_head: 16,
        d_hidden: 48,
        tie_embeddings: false,
        ..DecoderConfig::tiny(WORDS as usize)
    };
    let device = Device::flex();
    let mut init = WeightInit::new(5, &device);
    let mut decoder = Decoder::new(&config, &mut init);
    let banned = BANNED.len();
    let rows = init.uniform([banned, config.d_model], 0.5).val();
    decoder.embedding = decoder.embedding.map(|words| Tensor::cat(vec![words, rows], 0));
    let columns = init.uniform([config.d_model, banned], 2.0).val();
    decoder.head = decoder.head.map(|mut head| {
        head.weight = head.weight.map(|words| Tensor::cat(vec![words, columns], 1));
        head
    });
    Policy::text_only(decoder).train()
}

pub fn config(algorithm: AlgorithmOverrides, steps: usize) -> RlConfig {
    RlConfig {
        steps,
        algorithm,
        sampling: SamplingConfig { max_new_tokens: NEW_TOKENS, ..SamplingConfig::default() },
        optimizer: AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() },
        augment: false,
        max_refills: 2,
        tokens_per_micro_batch: 400,
        ..RlConfig::new("words", LearningRate::fixed(3e-3))
    }
}

pub fn engine() -> LocalEngine<Policy> {
    LocalEngine::new(u32::MAX, BANNED.to_vec())
}

/// A stage over the words.
pub fn stage<'a>(
    config: &'a RlConfig,
    (reward, engine): (&'a dyn RewardFn, &'a dyn RolloutEngine<Policy>),
    samples: &'a [Sample],
) -> Result<RlStage<'a, Policy>, TrainError> {
    let algorithm = config.algorithm.build(config.group_size).map_err(TrainError::algorithm("rl"))?;
    RlStage::new("rl", config, RlParts { algorithm, task: &Echo, reward, engine, episodes: None, samples }, 1)
}

/// What each step said.
pub struct Steps(pub Vec<Metrics>);

impl Observer for Steps {
    fn on_step(&mut self, report: &StepReport) -> Result<(), TrainError> {
        self.0.push(report.metrics.clone());
        Ok(())
    }

    fn on_eval(&mut self, _: &str, _: usize, _: &[EvalReport]) -> Result<(), TrainError> {
        Ok(())
    }
}

/// One metric of every step that has it.
pub fn curve(steps: &[Metrics], name: &str) -> Vec<f64> {
    steps.iter().filter_map(|step| step.get(name)).collect()
}

/// Runs a stage, or goes on with it, in a folder with a checkpoint every so many steps; gives the policy and what each step
/// said.
pub fn run_stage(
    (folder, every): (&Path, usize),
    policy: Policy,
    stage: &mut dyn Stage<Policy>,
    seed: u64,
) -> Result<(Policy, Vec<Metrics>), TrainError> {
    let store = CheckpointStore::new(folder.to_owned(), CheckpointPolicy { every, keep_last: 9 }, Vec::new());
    let mut session = Session::new(policy, seed, store);
    session.resume(|_| stage.optimization().1)?;
    let mut steps = Steps(Vec::new());
    session.run_stage(0, stage, &mut steps, &|_| Ok(Vec::new()))?;
    Ok((session.state.model, steps.0))
}

/// Runs a stage of reinforcement learning, or goes on with it.
pub fn run_in(folder: &Path, config: &RlConfig, every: usize) -> (Policy, Vec<Metrics>) {
    let (samples, engine) = (samples(), engine());
    let mut stage = stage(config, (&Repeats, &engine), &samples).unwrap();
    run_stage((folder, every), policy(), &mut stage, 1).unwrap()
}

/// Runs a stage with some judge and some engine.
pub fn steps_with(
    config: &RlConfig,
    parts: (&dyn RewardFn, &dyn RolloutEngine<Policy>),
) -> Result<(Policy, Vec<Metrics>), TrainError> {
    let (samples, folder) = (samples(), tempfile::tempdir().unwrap());
    run_stage((folder.path(), 0), policy(), &mut stage(config, parts, &samples)?, 1)
}

/// Runs a stage; gives the policy and what each step said.
pub fn steps_of(config: &RlConfig) -> (Policy, Vec<Metrics>) {
    steps_with(config, (&Repeats, &engine())).unwrap()
}

/// This process's engine, whose groups pass through a function.
pub struct Altered<F>(pub F, LocalEngine<Policy>);

impl<F: Fn(usize, &mut RolloutGroup) + Send + Sync> Altered<F> {
    /// The function gets a prompt's place in the request and its group.
    pub fn new(alter: F) -> Self {
        Self(alter, engine())
    }
}

impl<F: Fn(usize, &mut RolloutGroup) + Send + Sync> RolloutEngine<Policy> for Altered<F> {
    fn banned_ids(&self) -> &[u32] {
        self.1.banned_ids()
    }

    fn publish(&self, version: u64, model: &Policy) -> Result<(), RolloutError> {
        self.1.publish(version, model)
    }

    fn generate(&self, request: RolloutRequest<'_>, sink: &mut GroupSink<'_>) -> Result<(), RolloutError> {
        self.1.generate(request, &mut |index, mut group| {
            (self.0)(index, &mut group);
            sink(index, group)
        })
    }
}

/// As if a run with a checkpoint every three steps had been killed after the first.
pub fn keep_only_step_3(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if !entry.file_name().to_string_lossy().ends_with("000003") {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
}

pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The parameters of a policy by name.
pub fn weights(policy: &Policy) -> Vec<(String, Vec<f32>)> {
    let named = kyoka_core::named_parameters(policy).into_iter();
    named.map(|(name, (_, data))| (name, data.try_into_vec().unwrap())).collect()
}
