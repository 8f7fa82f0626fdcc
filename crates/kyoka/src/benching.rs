//! How long a step takes: the real trainer on random pictures and words.

use std::{path::PathBuf, time::Instant};

use kyoka_core::{
    CausalLm, Completion, ImageInput, Modality, ModalitySpan, Prompt, Reward, RewardContext, RewardError,
    RewardFn, Rollout, RolloutEngine, RolloutRequest, Sample, SamplingConfig, Stream, stream_rng,
};
use kyoka_image::{ImageProcessor, Picture};
use kyoka_rollout::LocalEngine;
use kyoka_trainer::{
    AdamWConfig, CheckpointPolicy, CheckpointStore, LearningRate, RlConfig, RlStage, Session, SftConfig,
    SftStage, Stage, Task, TaskError,
};
use rand::RngExt;
use serde::Serialize;

use crate::{
    Error, Policy, load_policy, open_device,
    pretrained::{Pretrained, is_pretrained, load_pretrained},
    run::peak_rss_mb,
};

/// What is measured.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// Folder of a checkpoint.
    pub checkpoint: PathBuf,
    /// Tokens that the checkpoint must make of a picture; `None` takes what it makes.
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

/// Random prompts: a picture where there is an eye, and words.
struct RandomTask {
    processor: Option<ImageProcessor>,
    image_tokens: usize,
    image_token_id: u32,
    prompt_tokens: usize,
    vocab_size: usize,
}

impl RandomTask {
    fn words(&self, id: &str, count: usize) -> Vec<u32> {
        let mut rng = stream_rng(id.parse().unwrap_or(0), Stream::Augment, &[1]);
        (0..count).map(|_| rng.random_range(8..self.vocab_size as u32)).collect()
    }

    /// A picture of random rectangles.
    fn picture(&self, id: &str, processor: &ImageProcessor) -> ImageInput {
        let mut rng = stream_rng(id.parse().unwrap_or(0), Stream::Augment, &[2]);
        let (height, width) = (processor.height, processor.width);
        let mut rgb = vec![128; 3 * height * width];
        for _ in 0..12 {
            let colour: [u8; 3] = rng.random();
            let (top, left) = (rng.random_range(0..height), rng.random_range(0..width));
            for y in top..height.min(top + height / 3) {
                for x in left..width.min(left + width / 3) {
                    rgb[3 * (y * width + x)..][..3].copy_from_slice(&colour);
                }
            }
        }
        processor.process(&Picture { height, width, rgb })
    }
}

impl Task for RandomTask {
    fn prompt(&self, sample: &Sample, _: Option<&[u64]>) -> Result<Prompt, TaskError> {
        let mut prompt = Prompt::default();
        if let Some(processor) = &self.processor {
            prompt.token_ids = vec![self.image_token_id; self.image_tokens];
            let positions = 0..self.image_tokens;
            prompt.spans = vec![ModalitySpan { modality: Modality::Image, positions }];
            prompt.images = vec![self.picture(&sample.id, processor)];
        }
        prompt.token_ids.extend(self.words(&sample.id, self.prompt_tokens));
        Ok(prompt)
    }

    fn encode(&self, _: &str) -> Result<Vec<u32>, TaskError> {
        Err("random words are not encoded from text".into())
    }

    fn target(&self, sample: &Sample) -> Result<Vec<u32>, TaskError> {
        Ok(self.words(&sample.id, TEXT_STEP.1 - self.prompt_tokens))
    }

    /// The completion as text: its share of even token ids.
    fn read(&self, rollout: &Rollout, max_new_tokens: usize) -> Completion {
        let even = rollout.token_ids.iter().filter(|&&id| id % 2 == 0).count();
        let text = (even as f64 / rollout.token_ids.len() as f64).to_string();
        Completion { text, token_spans: Vec::new(), finished: false, max_new_tokens }
    }
}

/// The number that [`RandomTask::read`] wrote: trivial, and hardly ever constant within a group.
struct EvenShare;

impl RewardFn for EvenShare {
    fn name(&self) -> &str {
        "even_share"
    }

    fn score(&self, _: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let share = completion.text.parse().expect("the task writes a number");
        Ok(Reward { total: Some(share), ..Reward::default() })
    }
}

/// Rows and tokens a row of a text step.
const TEXT_STEP: (usize, usize) = (32, 128);

struct Bench {
    policy: Policy,
    task: RandomTask,
    samples: Vec<Sample>,
    end_id: u32,
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
                return Err(Error::file(name, "expected at least 1, got 0"));
            }
        }
        let device = open_device(&options.device)?.autodiff();
        let folder = &options.checkpoint;
        let (policy, config, image_token_id, end_id) = if is_pretrained(folder) {
            let Pretrained { policy, config, placeholders, end_ids, .. } = load_pretrained(folder, &device)?;
            // A text model has no placeholder; its first token is as good as any.
            (policy, config, placeholders.image.unwrap_or(0), end_ids.first().copied().unwrap_or(0))
        } else {
            let (policy, config, tokenizer) = load_policy(folder, &device)?;
            (policy, config, tokenizer.banned_ids()[0], tokenizer.end_id())
        };
        let image_tokens = config.vision.as_ref().map_or(0, |vision| vision.fixed_tokens().unwrap_or(0));
        if let Some(expected) = options.image_tokens.filter(|&expected| expected != image_tokens) {
            let reason = format!("makes {image_tokens} tokens of a picture, not {expected}");
            return Err(Error::file(folder, reason));
        }
        let task = RandomTask {
            processor: config.vision.as_ref().map(|vision| vision.processor),
            image_tokens,
            image_token_id,
            prompt_tokens: options.prompt_tokens,
            vocab_size: config.decoder.vocab_size,
        };
        let sample = |row: usize| Sample {
            id: row.to_string(),
            parts: Vec::new(),
            answer: None,
            steps: Vec::new(),
            completion: None,
            origin: ("random".into(), row),
        };
        Ok(Self { policy, task, samples: (0..options.prompts.max(997)).map(sample).collect(), end_id })
    }

    /// An engine that neither ends a completion nor draws a placeholder.
    fn engine(&self, policy: Policy) -> LocalEngine<Policy> {
        LocalEngine::new(policy, self.end_id, vec![self.task.image_token_id, self.end_id])
    }

    fn session(&self, optimizer: AdamWConfig) -> Session<Policy> {
        let store = CheckpointStore::new(PathBuf::new(), CheckpointPolicy::default(), Vec::new());
        let mut session = Session::new(self.policy.clone(), 1, store);
        session.optimizer = kyoka_trainer::AdamW::new(optimizer);
        session
    }
}

fn learning_rate() -> LearningRate {
    LearningRate {
        peak: 1e-6,
        schedule: kyoka_trainer::Schedule::Constant,
        warmup_steps: 0,
        final_share: 1.0,
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
        max_generated_tokens: 0,
        data: "random".to_owned(),
        steps: options.steps + 1,
        prompts_per_step: options.prompts,
        group_size: options.group,
        algorithm: Default::default(),
        sampling: SamplingConfig { max_new_tokens: options.new_tokens, ..SamplingConfig::default() },
        learning_rate: learning_rate(),
        optimizer,
        augment: false,
        max_refills: 0,
        tokens_per_micro_batch: 8192,
        eval_every: 0,
    };
    let engine = |policy: Policy| -> Box<dyn RolloutEngine> { Box::new(bench.engine(policy)) };
    let mut session = bench.session(optimizer);
    let mut stage = RlStage::new(&config, &bench.task, (&EvenShare, &engine), &bench.samples, 1)?;
    let mut times: [Vec<f64>; 3] = Default::default();
    for step in 0..=options.steps {
        let started = Instant::now();
        let report = stage.step(&mut session)?;
        session.progress.step += 1;
        if step > 0 {
            let phase = |name: &str| report.metrics.get(name).unwrap_or(f64::NAN);
            let seconds = [started.elapsed().as_secs_f64(), phase("time/rollout_s"), phase("time/train_s")];
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
    let engine = bench.engine(policy.clone());
    let sampling = SamplingConfig { max_new_tokens: options.new_tokens, ..SamplingConfig::default() };
    let prompts: Vec<Prompt> = bench.samples[..options.prompts]
        .iter()
        .map(|sample| bench.task.prompt(sample, None).expect("random prompts are whole"))
        .collect();
    let references: Vec<&Prompt> = prompts.iter().collect();
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for step in 0..=options.steps {
        let started = Instant::now();
        // The values are waited for.
        policy.prefill(&references).logits.into_data();
        let reading = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let request = RolloutRequest {
            prompts: &prompts,
            group_size: options.group,
            sampling: &sampling,
            seed: step as u64,
            policy_version: 0,
        };
        engine.generate(request).map_err(|error| Error::file("random prompts", error))?;
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
    bench.task.processor = None;
    bench.task.prompt_tokens = 1;
    let optimizer = AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() };
    let config = SftConfig {
        data: "random".to_owned(),
        steps: options.steps + 1,
        batch_size: TEXT_STEP.0,
        learning_rate: learning_rate(),
        optimizer,
        augment: false,
        tokens_per_micro_batch: 8192,
        eval_every: 0,
    };
    let mut session = bench.session(optimizer);
    let mut stage = SftStage::new("sft", &config, &bench.task, &bench.samples, 1)?;
    let mut steps_ms = Vec::new();
    for step in 0..=options.steps {
        let started = Instant::now();
        stage.step(&mut session)?;
        session.progress.step += 1;
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
