//! Does a device give the numbers of the CPU? Forward and backward passes, sampling, and a step of training.

use burn::{
    module::Module,
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{Device, Tensor},
};
use kyoka_audio::LogMel;
use kyoka_core::{
    CausalLm, Distribution, PackedGroup, Prompt, Recompute, RolloutEngine, RolloutGroup, RolloutPrompt,
    RolloutRequest, SamplingConfig, Task, named_parameters,
};
use kyoka_rollout::LocalEngine;
use kyoka_trainer::{AdamWConfig, LearningRate, RlConfig, RlParts, RlStage, Stage, TrainError, TrainState};
use serde::Serialize;

use crate::{
    Error, Policy, PolicyConfig, open_device,
    random_task::{EvenShare, RandomMedium, RandomTask},
};

/// Largest difference that passes: of log-probabilities in absolute terms, of gradients relative to their length.
pub const DEVICE_TOLERANCE: f64 = 1e-3;

/// Tokens of the vocabulary; the last three end a completion and stand for pictures and sounds.
const VOCAB: usize = 96;
const END: u32 = VOCAB as u32 - 3;
const IMAGE: u32 = VOCAB as u32 - 2;
const AUDIO: u32 = VOCAB as u32 - 1;

/// What given completions are scored in.
const SCORED: Distribution<'static> = Distribution { temperature: 0.8, banned: &[IMAGE, AUDIO] };

const PROMPTS: usize = 2;
const GROUP: usize = 3;
const NEW_TOKENS: usize = 6;

/// One number of the device beside the CPU's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// What was compared.
    pub name: &'static str,
    /// The largest difference.
    pub difference: f64,
    /// Whether it is within [`DEVICE_TOLERANCE`].
    pub passed: bool,
}

impl Comparison {
    fn new(name: &'static str, difference: f64) -> Self {
        // Not a number is no pass.
        Self { name, difference, passed: difference <= DEVICE_TOLERANCE }
    }
}

/// Runs a tiny policy that sees, hears and writes on a device and on the CPU, and compares.
///
/// # Errors
/// If the device or the CPU was not compiled in.
pub fn check_device(name: &str) -> Result<Vec<Comparison>, Error> {
    let (device, cpu) = (open_device(name)?, open_device("cpu")?);
    let subject = Subject::new();
    let (ours, theirs) = (subject.run(&device)?, subject.run(&cpu)?);
    let mut comparisons = vec![
        Comparison::new("logits of prompts", largest(&ours.logits, &theirs.logits)),
        Comparison::new("log-probabilities of completions", largest(&ours.logprobs, &theirs.logprobs)),
        Comparison::new("gradients", farthest(&ours.gradients, &theirs.gradients)),
        Comparison::new("gradients with layers recomputed", farthest(&ours.recomputed, &theirs.recomputed)),
    ];
    let samplings = Subject::samplings();
    for ((ours, theirs), sampling) in ours.sampled.iter().zip(&theirs.sampled).zip(&samplings) {
        comparisons
            .push(Comparison::new("share of completions drawn otherwise", drawn_otherwise(ours, theirs)));
        comparisons.push(Comparison::new(
            "log-probabilities as sampled",
            largest(&logprobs(ours), &subject.scored(&cpu, (ours, sampling))),
        ));
    }
    comparisons
        .push(Comparison::new("reward, loss and gradient norm of a step", largest(&ours.step, &theirs.step)));
    comparisons
        .push(Comparison::new("changes of the weights in it", farthest(&ours.changes, &theirs.changes)));
    Ok(comparisons)
}

/// Largest absolute difference; infinite if the lengths differ.
fn largest(ours: &[f32], theirs: &[f32]) -> f64 {
    if ours.len() != theirs.len() {
        return f64::INFINITY;
    }
    let difference = |(a, b): (&f32, &f32)| f64::from((a - b).abs());
    // A NaN stays.
    ours.iter().zip(theirs).map(difference).fold(0.0, |worst, d| if d <= worst { worst } else { d })
}

/// Largest distance of two gradients of a parameter, relative to the CPU's length, or to a hundredth of the length of all
/// its gradients together where that is more: small gradients are differences of large ones.
fn farthest(ours: &[Vec<f32>], theirs: &[Vec<f32>]) -> f64 {
    if ours.len() != theirs.len() {
        return f64::INFINITY;
    }
    let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>();
    let whole = squares(&mut theirs.iter().flatten().copied()).sqrt();
    let distance = |(a, b): (&Vec<f32>, &Vec<f32>)| {
        let length = squares(&mut b.iter().copied()).sqrt().max(whole / 100.0);
        squares(&mut a.iter().zip(b).map(|(a, b)| a - b)).sqrt() / length.max(f64::MIN_POSITIVE)
    };
    ours.iter().zip(theirs).map(distance).fold(0.0, |worst, d| if d <= worst { worst } else { d })
}

fn logprobs(groups: &[RolloutGroup]) -> Vec<f32> {
    groups.iter().flat_map(|group| &group.rollouts).flat_map(|rollout| rollout.logprobs.clone()).collect()
}

/// Share of completions whose tokens are not those of the CPU. Both draw from the same numbers, so tokens differ only
/// where a number falls between two sums of probabilities that are rounded otherwise.
fn drawn_otherwise(ours: &[RolloutGroup], theirs: &[RolloutGroup]) -> f64 {
    let rollouts = |groups: &[RolloutGroup]| -> Vec<Vec<u32>> {
        groups.iter().flat_map(|group| &group.rollouts).map(|rollout| rollout.token_ids.clone()).collect()
    };
    let (ours, theirs) = (rollouts(ours), rollouts(theirs));
    let other = ours.iter().zip(&theirs).filter(|(a, b)| a != b).count();
    other as f64 / theirs.len() as f64
}

/// What one device gives.
struct Results {
    logits: Vec<f32>,
    logprobs: Vec<f32>,
    gradients: Vec<Vec<f32>>,
    recomputed: Vec<Vec<f32>>,
    /// In the order of [`Subject::samplings`].
    sampled: Vec<Vec<RolloutGroup>>,
    step: Vec<f32>,
    changes: Vec<Vec<f32>>,
}

/// A tiny policy with fresh weights, and prompts with a picture, a sound and words.
struct Subject {
    config: PolicyConfig,
    task: RandomTask,
    prompts: Vec<Prompt>,
    completions: Vec<Vec<u32>>,
}

impl Subject {
    fn new() -> Self {
        let config = PolicyConfig::tiny(VOCAB);
        let image = config.vision.as_ref().map(|vision| RandomMedium {
            processor: vision.processor,
            tokens: 1,
            token_id: IMAGE,
        });
        let audio = config.audio.as_ref().map(|audio| RandomMedium {
            processor: LogMel::new(audio.processor),
            tokens: 5,
            token_id: AUDIO,
        });
        let task = RandomTask { image, audio, prompt_tokens: 5, target_tokens: 1, vocab_size: END as usize };
        let mut prompts: Vec<Prompt> = RandomTask::samples(PROMPTS)
            .iter()
            .map(|sample| task.prompt(sample, None).expect("random prompts are whole"))
            .collect();
        // Prompts of different lengths.
        prompts[0].token_ids.truncate(8);
        let completions = [vec![9, 8, 7, 6], vec![5], vec![40, 41]];
        Self { config, task, prompts, completions: completions.into() }
    }

    fn groups(&self) -> Vec<PackedGroup<'_>> {
        let completions = || self.completions.iter().map(Into::into).collect();
        self.prompts.iter().map(|prompt| PackedGroup { prompt, completions: completions() }).collect()
    }

    fn run(&self, device: &Device) -> Result<Results, Error> {
        let policy = self.config.build(3, &device.clone().autodiff());
        let plain = policy.valid();
        let prompts: Vec<&Prompt> = self.prompts.iter().collect();
        let [sampling, filtered] = Self::samplings();
        let (step, changes) = self.step(policy.clone())?;
        Ok(Results {
            logits: values(plain.prefill(&prompts).logits),
            logprobs: values(plain.score(&self.groups(), &SCORED)),
            gradients: self.gradients(&policy),
            recomputed: self.recomputed_gradients(&policy),
            sampled: vec![self.sample(&plain, &sampling, false)?, self.sample(&plain, &filtered, true)?],
            step,
            changes,
        })
    }

    /// Without a filter, and with top-k and top-p.
    fn samplings() -> [SamplingConfig; 2] {
        let sampling = SamplingConfig { max_new_tokens: NEW_TOKENS, ..SamplingConfig::default() };
        let filtered = SamplingConfig { top_k: 20, top_p: 0.9, temperature: 0.8, ..sampling.clone() };
        [sampling, filtered]
    }

    fn gradients(&self, policy: &Policy) -> Vec<Vec<f32>> {
        let gradients = policy.score(&self.groups(), &SCORED).mean().backward();
        collected(policy, GradientsParams::from_grads(gradients, policy))
    }

    fn recomputed_gradients(&self, policy: &Policy) -> Vec<Vec<f32>> {
        let groups = self.groups();
        let cut = policy.score_cut(&groups, &SCORED, false);
        let mut gradients = cut.logprobs.mean().backward();
        let mut accumulator = GradientsAccumulator::new();
        policy.backward_cut(&groups, cut.saved, &mut gradients, &mut |part| {
            accumulator.accumulate(policy, part)
        });
        accumulator.accumulate(policy, GradientsParams::from_grads(gradients, policy));
        collected(policy, accumulator.grads())
    }

    fn engine() -> LocalEngine<Policy> {
        LocalEngine::new(END, SCORED.banned.to_vec())
    }

    /// Completions of every prompt. With `in_turn`, one prompt after the other and drawn by tensor operations on every
    /// device: under filters the host draws in another order, so its tokens are others.
    fn sample(
        &self,
        policy: &Policy,
        sampling: &SamplingConfig,
        in_turn: bool,
    ) -> Result<Vec<RolloutGroup>, Error> {
        let mut engine = Self::engine().with_model(policy);
        if in_turn {
            engine.max_rows = GROUP;
            engine.draw_on_device = Some(true);
        }
        let prompts = RolloutPrompt::numbered(&self.prompts);
        let request =
            RolloutRequest { prompts: &prompts, group_size: GROUP, sampling, seed: 11, episodes: None };
        engine.generate_all(request).map_err(|error| Error::unanswered("device check", error))
    }

    /// Log-probabilities of given completions on a device, as a policy without gradients scores them.
    fn scored(&self, device: &Device, (groups, sampling): (&[RolloutGroup], &SamplingConfig)) -> Vec<f32> {
        let policy = self.config.build(3, device);
        let ids = |group: &RolloutGroup| -> Vec<Vec<u32>> {
            group.rollouts.iter().map(|rollout| rollout.token_ids.clone()).collect()
        };
        let distribution = sampling.distribution(SCORED.banned);
        let mut scores = Vec::new();
        for group in groups {
            for ids in ids(group) {
                let group = PackedGroup { prompt: &group.prompt, completions: vec![(&ids).into()] };
                scores.extend(values(policy.score(&[group], &distribution)));
            }
        }
        scores
    }

    /// One step of GRPO: reward, loss and gradient norm, and how every parameter changed. AdamW's first step is the sign
    /// of the gradient, which says nothing where that is nearly 0; with an epsilon of 1 it is nearly the gradient, and at a
    /// rate of 100 it is far above what rounding makes of the weights.
    fn step(&self, policy: Policy) -> Result<(Vec<f32>, Vec<Vec<f32>>), Error> {
        let optimizer = AdamWConfig { weight_decay: 0.0, epsilon: 1.0, ..AdamWConfig::default() };
        let before = weights(&policy);
        let config = RlConfig {
            steps: 1,
            prompts_per_step: PROMPTS,
            group_size: GROUP,
            sampling: SamplingConfig { max_new_tokens: NEW_TOKENS, ..SamplingConfig::default() },
            optimizer,
            augment: false,
            ..RlConfig::new("random", LearningRate::fixed(100.0))
        };
        let (engine, samples) = (Self::engine(), RandomTask::samples(PROMPTS));
        let algorithm = config.algorithm.build(config.group_size).map_err(TrainError::algorithm("rl"))?;
        let (task, reward) = (&self.task, &EvenShare);
        let parts = RlParts { algorithm, task, reward, engine: &engine, episodes: None, samples: &samples };
        let mut stage = RlStage::new("rl", &config, parts, 1)?;
        let mut state = TrainState::new(policy, 1);
        state.optimizer = kyoka_trainer::AdamW::new(optimizer);
        let report = stage.step(&mut state)?;
        let metric = |name: &str| report.metrics.get(name).unwrap_or(f64::NAN) as f32;
        let metrics = ["reward/total", "loss", "grad_norm", "ratio/max_abs_log"].map(metric);
        let change = |(after, before): (Vec<f32>, &Vec<f32>)| -> Vec<f32> {
            after.iter().zip(before).map(|(after, before)| after - before).collect()
        };
        let changes = weights(&state.model).into_iter().zip(&before).map(change).collect();
        Ok((metrics.to_vec(), changes))
    }
}

/// All parameters, in the order of their names.
fn weights(policy: &Policy) -> Vec<Vec<f32>> {
    let named = named_parameters(policy).into_values();
    named.map(|(_, data)| data.try_into_vec_as().unwrap_or_default()).collect()
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec_as().unwrap_or_default()
}

/// Gradients of all parameters, in the order of their names.
fn collected(policy: &Policy, gradients: GradientsParams) -> Vec<Vec<f32>> {
    struct Collect(GradientsParams, Vec<Vec<f32>>);
    impl burn::module::ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &burn::module::Param<Tensor<D>>) {
            self.1.push(self.0.remove::<D>(param.id).map(values).unwrap_or_default());
        }
    }
    let mut collect = Collect(gradients, Vec::new());
    policy.visit(&mut collect);
    collect.1
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_agrees_with_itself_and_recomputation_gives_the_same_gradients() {
        for comparison in check_device("cpu").unwrap() {
            assert!(comparison.difference < 1e-5, "{comparison:?}");
        }
        let subject = Subject::new();
        let results = subject.run(&open_device("cpu").unwrap()).unwrap();
        assert!(results.gradients.iter().filter(|gradient| !gradient.is_empty()).count() > 60);
        assert!(farthest(&results.recomputed, &results.gradients) < 1e-5);
    }

    #[test]
    fn what_differs_or_is_no_number_does_not_pass() {
        assert!(!Comparison::new("x", largest(&[1.0], &[1.01])).passed);
        assert!(!Comparison::new("x", largest(&[1.0, f32::NAN], &[1.0, 0.0])).passed);
        assert!(!Comparison::new("x", largest(&[1.0], &[])).passed);
        assert!(!Comparison::new("x", farthest(&[vec![2.0]], &[vec![1.0]])).passed);
    }
}
