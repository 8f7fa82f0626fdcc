//! How long a step takes: the real trainer on random pictures and words.

use std::{path::PathBuf, time::Instant};

use burn::tensor::Device;
use kyoka_core::{
    CausalLm, Prompt, RolloutEngine, RolloutPrompt, RolloutRequest, Sample, SamplingConfig, Task,
};
use kyoka_rollout::LocalEngine;
use kyoka_trainer::{
    AdamWConfig, LearningRate, PackItem, PhaseSeconds, RlConfig, RlParts, RlStage, SftConfig, SftStage,
    Stage, TrainError, TrainState,
};
use serde::Serialize;

use crate::{
    BenchShape, Error, Policy, PolicyConfig, bench_shape,
    hub::checkpoint_folder,
    load_policy,
    model_folder::is_hugging_face,
    open_device,
    plan::step_gflop,
    pretrained::{Pretrained, load_pretrained},
    random_task::{EvenShare, RandomMedium, RandomTask},
    run::peak_rss_mb,
};

/// What is measured.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// Folder of a checkpoint; without, a policy of `shape` with random weights.
    pub checkpoint: Option<PathBuf>,
    /// Size of the policy when there is no checkpoint.
    pub shape: BenchShape,
    /// Tokens that the checkpoint must make of a picture; `None` takes what it makes, 16 without a checkpoint.
    pub image_tokens: Option<usize>,
    /// Prompts a step.
    pub prompts: usize,
    /// Completions a prompt.
    pub group: usize,
    /// Words of a prompt, in tokens, beside its picture.
    pub prompt_tokens: usize,
    /// Tokens of every completion.
    pub new_tokens: usize,
    /// Steps that are timed, after one that is not.
    pub steps: usize,
    /// Whether layers are computed again on the way back.
    pub gradient_checkpointing: bool,
    /// Device name.
    pub device: String,
}

/// A step of reinforcement learning, medians.
#[derive(Debug, Clone, Serialize)]
pub struct StepTimes {
    /// Always `kyoka`.
    pub tool: &'static str,
    /// Seconds a step.
    pub s_per_step: f64,
    /// Of these, sampling.
    pub rollout_s: f64,
    /// Of these, the update.
    pub train_s: f64,
    /// Tokens sampled in a second of sampling.
    pub generated_tokens_per_s: f64,
    /// Highest resident memory, in MB.
    pub peak_rss_mb: f64,
    /// Parameters of the policy.
    pub params: usize,
    /// Billions of multiplications and additions of a step, counted.
    pub gflop: f64,
    /// Seconds of every timed step.
    pub steps: Vec<f64>,
}

/// Sampling alone, medians.
#[derive(Debug, Clone, Serialize)]
pub struct DecodeTimes {
    /// Always `kyoka`.
    pub tool: &'static str,
    /// Tokens a second, reading of the prompts excluded.
    pub decode_tokens_per_s: f64,
    /// Seconds of decoding.
    pub s_decode: f64,
    /// Seconds of reading the prompts.
    pub s_prefill: f64,
}

/// An SFT step on text alone.
#[derive(Debug, Clone, Serialize)]
pub struct TextStepTimes {
    /// Always `kyoka`.
    pub tool: &'static str,
    /// Milliseconds a step, median.
    pub ms_step: f64,
    /// Every timed step.
    pub steps_ms: Vec<f64>,
}

/// Rows and tokens a row of a text step.
const TEXT_STEP: (usize, usize) = (32, 128);

struct Bench {
    policy: Policy,
    config: PolicyConfig,
    task: RandomTask,
    samples: Vec<Sample>,
    end_id: u32,
    image_token_id: u32,
}

impl Bench {
    fn load(options: &BenchOptions) -> Result<Self, Error> {
        for (name, value) in [
            ("prompts", options.prompts),
            ("group", options.group),
            ("new-tokens", options.new_tokens),
            ("prompt-tokens", options.prompt_tokens),
            ("steps", options.steps),
        ] {
            if value == 0 {
                return Err(Error::argument(format!("--{name}"), "expected at least 1, got 0"));
            }
        }
        let device = open_device(&options.device)?.autodiff();
        let Subject { policy, config, image_token_id, end_id } = Subject::load(options, &device)?;
        let image_tokens = config.vision.as_ref().map_or(0, |vision| {
            let layout = vision.processor.layout(512, 512).expect("every family takes a square");
            vision.tokens_of_layout(&layout).tokens_per_view
        });
        if let Some(expected) = options.image_tokens.filter(|&expected| expected != image_tokens) {
            let reason = format!("makes {image_tokens} tokens of a picture, not {expected}");
            return Err(Error::file(options.checkpoint.clone().unwrap_or_default(), reason));
        }
        let image = config.vision.as_ref().map(|vision| RandomMedium {
            processor: vision.processor,
            tokens: image_tokens,
            token_id: image_token_id,
        });
        let (prompt_tokens, vocab_size) = (options.prompt_tokens, config.decoder.vocab_size);
        let target_tokens = TEXT_STEP.1 - 1;
        let task = RandomTask { image, audio: None, prompt_tokens, target_tokens, vocab_size };
        let samples = RandomTask::samples(options.prompts.max(997));
        Ok(Self { policy, config, task, samples, end_id, image_token_id })
    }

    /// Arithmetic of a step, counted.
    fn gflop(&self, options: &BenchOptions) -> f64 {
        let prompt = self.task.prompt(&self.samples[0], None).expect("random prompts are whole");
        let completions = vec![options.new_tokens; options.group];
        let item = PackItem { prompt_len: prompt.len(), completion_lens: completions };
        step_gflop(&self.config, &prompt, vec![item; options.prompts], options.gradient_checkpointing)
    }

    /// An engine that neither ends a completion nor draws a placeholder.
    fn engine(&self) -> LocalEngine<Policy> {
        LocalEngine::new(self.end_id, vec![self.image_token_id, self.end_id])
    }

    fn state(&self, optimizer: AdamWConfig, options: &BenchOptions) -> TrainState<Policy> {
        let mut state = TrainState::new(self.policy.clone(), 1);
        state.optimizer = kyoka_trainer::AdamW::new(optimizer);
        state.gradient_checkpointing = options.gradient_checkpointing;
        state
    }
}

/// The policy that is measured, and its special tokens.
struct Subject {
    policy: Policy,
    config: PolicyConfig,
    image_token_id: u32,
    end_id: u32,
}

impl Subject {
    /// A checkpoint, or random weights of a shape.
    fn load(options: &BenchOptions, device: &Device) -> Result<Self, Error> {
        let Some(folder) = &options.checkpoint else {
            let tokens = options.image_tokens.unwrap_or(16);
            let config = options.shape.config(tokens).ok_or_else(|| {
                Error::argument("--image-tokens", format!("expected a square number, got {tokens}"))
            })?;
            let policy = config.build(0, device);
            return Ok(Self {
                policy,
                config,
                image_token_id: bench_shape::IMAGE_ID,
                end_id: bench_shape::END_ID,
            });
        };
        let folder = &checkpoint_folder(folder)?;
        if is_hugging_face(folder)? {
            let Pretrained { policy, config, placeholders, end_ids, .. } = load_pretrained(folder, device)?;
            // A text model has no placeholder; its first token is as good as any.
            let image_token_id = placeholders.image.unwrap_or(0);
            return Ok(Self {
                policy,
                config,
                image_token_id,
                end_id: end_ids.first().copied().unwrap_or(0),
            });
        }
        let (policy, config, (tokenizer, _)) = load_policy(folder, device)?;
        let (image_token_id, end_id) = (tokenizer.banned_ids()[0], tokenizer.end_id());
        Ok(Self { policy, config, image_token_id, end_id })
    }
}

/// Whole GRPO steps: rollout, reward, one update.
///
/// # Errors
/// If the checkpoint cannot be read or the sizes do not fit it.
pub fn bench_step(options: &BenchOptions) -> Result<StepTimes, Error> {
    let bench = Bench::load(options)?;
    let optimizer = AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() };
    let config = RlConfig {
        steps: options.steps + 1,
        prompts_per_step: options.prompts,
        group_size: options.group,
        sampling: SamplingConfig { max_new_tokens: options.new_tokens, ..SamplingConfig::default() },
        optimizer,
        augment: false,
        ..RlConfig::new("random", LearningRate::fixed(1e-6))
    };
    let engine = bench.engine();
    let algorithm = config.algorithm.build(config.group_size).map_err(TrainError::algorithm("rl"))?;
    let (task, reward, samples) = (&bench.task, &EvenShare, bench.samples.as_slice());
    let parts = RlParts { algorithm, task, reward, engine: &engine, episodes: None, samples };
    let mut state = bench.state(optimizer, options);
    let mut stage = RlStage::new("rl", &config, parts, 1)?;
    let mut times: [Vec<f64>; 3] = Default::default();
    for step in 0..=options.steps {
        let started = Instant::now();
        let report = stage.step(&mut state)?;
        state.progress.step += 1;
        if step > 0 {
            let PhaseSeconds { rollout, train, .. } = report.seconds;
            let seconds = [started.elapsed().as_secs_f64(), rollout, train];
            times.iter_mut().zip(seconds).for_each(|(times, seconds)| times.push(seconds));
        }
    }
    let [steps, rollout, train] = times;
    let tokens = (options.prompts * options.group * options.new_tokens) as f64;
    Ok(StepTimes {
        tool: "kyoka",
        s_per_step: median(&steps),
        rollout_s: median(&rollout),
        train_s: median(&train),
        generated_tokens_per_s: tokens / median(&rollout),
        peak_rss_mb: peak_rss_mb(),
        params: burn::module::Module::num_params(&state.model),
        gflop: bench.gflop(options),
        steps,
    })
}

/// Sampling alone, for `prompts x group` completions.
///
/// # Errors
/// If the checkpoint cannot be read or the sizes do not fit it.
pub fn bench_decode(options: &BenchOptions) -> Result<DecodeTimes, Error> {
    let bench = Bench::load(options)?;
    let policy = burn::module::Module::valid(&bench.policy);
    let engine = bench.engine().with_model(&policy);
    let sampling = SamplingConfig { max_new_tokens: options.new_tokens, ..SamplingConfig::default() };
    let prompts: Vec<Prompt> = bench.samples[..options.prompts]
        .iter()
        .map(|sample| bench.task.prompt(sample, None).expect("random prompts are whole"))
        .collect();
    let references: Vec<&Prompt> = prompts.iter().collect();
    let asked = RolloutPrompt::numbered(&prompts);
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for step in 0..=options.steps {
        let started = Instant::now();
        // The values are waited for.
        policy.prefill(&references).logits.into_data();
        let reading = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let request = RolloutRequest {
            prompts: &asked,
            group_size: options.group,
            sampling: &sampling,
            seed: step as u64,
            episodes: None,
        };
        engine.generate_all(request).map_err(|error| Error::unanswered("random prompts", error))?;
        if step > 0 {
            prefill.push(reading);
            decode.push(started.elapsed().as_secs_f64() - reading);
        }
    }
    let tokens = (options.prompts * options.group * options.new_tokens) as f64;
    let s_decode = median(&decode);
    let decode_tokens_per_s = tokens / s_decode;
    Ok(DecodeTimes { tool: "kyoka", decode_tokens_per_s, s_decode, s_prefill: median(&prefill) })
}

/// A training step on 32 rows of 128 tokens, text alone.
///
/// # Errors
/// If the checkpoint cannot be read.
pub fn bench_text_step(options: &BenchOptions) -> Result<TextStepTimes, Error> {
    let mut bench = Bench::load(options)?;
    bench.task.image = None;
    bench.task.prompt_tokens = 1;
    let optimizer = AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() };
    let config = SftConfig {
        steps: options.steps + 1,
        batch_size: TEXT_STEP.0,
        optimizer,
        augment: false,
        ..SftConfig::new("random", LearningRate::fixed(1e-6))
    };
    let mut state = bench.state(optimizer, options);
    let mut stage = SftStage::new("sft", &config, &bench.task, &bench.samples, 1)?;
    let mut steps_ms = Vec::new();
    for step in 0..=options.steps {
        let started = Instant::now();
        stage.step(&mut state)?;
        state.progress.step += 1;
        if step > 0 {
            steps_ms.push(1e3 * started.elapsed().as_secs_f64());
        }
    }
    Ok(TextStepTimes { tool: "kyoka", ms_step: median(&steps_ms), steps_ms })
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    (low + high) / 2.0
}
