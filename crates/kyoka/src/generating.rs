//! Single prompts, outside any dataset.

use std::path::{Path, PathBuf};

use kyoka_core::{Modality, Part, RolloutEngine, RolloutRequest, Sample, SamplingConfig, prompt_parts};
use kyoka_trainer::Task;

use crate::{Error, MediaAugment, MultimodalTask, evaluating::locate, load_policy, open_device};

/// What `kyoka generate` is asked.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// A run's folder or a checkpoint's.
    pub model: PathBuf,
    /// The question; `<image>` and `<audio>` mark where media go. Without marks, media come first.
    pub prompt: String,
    /// Pictures in order.
    pub images: Vec<PathBuf>,
    /// Sounds in order.
    pub audios: Vec<PathBuf>,
    /// How to draw.
    pub sampling: SamplingConfig,
    /// Number of completions.
    pub count: usize,
    /// Seed of the draws.
    pub seed: u64,
    /// Device name.
    pub device: String,
}

/// Completions of one prompt.
///
/// # Errors
/// If the model or a medium cannot be read, or marks and media do not match.
pub fn generate(options: &GenerateOptions) -> Result<Vec<String>, Error> {
    let device = open_device(&options.device)?;
    let (_, checkpoint) = locate(&options.model)?;
    let (policy, config, tokenizer) = load_policy(&checkpoint, &device)?;
    let task = MultimodalTask::new(tokenizer, config, MediaAugment::default(), 0);
    let fail = |reason: String| Error::file("prompt", reason);
    let sample = Sample {
        id: "prompt".to_owned(),
        parts: parts(options).map_err(fail)?,
        answer: None,
        steps: Vec::new(),
        completion: None,
        origin: (PathBuf::from("command line"), 1),
    };
    let prompt = task.prompt(&sample, None).map_err(|error| Error::file("prompt", error))?;
    let engine = task.engine(policy);
    let request = RolloutRequest {
        prompts: std::slice::from_ref(&prompt),
        group_size: options.count.max(1),
        sampling: &options.sampling,
        seed: options.seed,
        policy_version: 0,
    };
    let groups = engine.generate(request).map_err(|error| Error::file("prompt", error))?;
    Ok(groups[0].rollouts.iter().map(|rollout| task.tokenizer().decode(&rollout.token_ids).text).collect())
}

fn parts(options: &GenerateOptions) -> Result<Vec<Part>, String> {
    let (image, audio) = (Modality::Image.placeholder(), Modality::Audio.placeholder());
    let marked = [image, audio].iter().any(|placeholder| options.prompt.contains(placeholder));
    let media = image.repeat(options.images.len()) + &audio.repeat(options.audios.len());
    let prompt = if marked { options.prompt.clone() } else { media + &options.prompt };
    let parts = prompt_parts(&prompt, Path::new(""), &options.images, &options.audios);
    let parts = parts
        .map_err(|mismatches| mismatches.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    if parts.is_empty() {
        return Err("expected a question or a medium, got nothing".to_owned());
    }
    Ok(parts)
}
