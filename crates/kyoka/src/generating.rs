//! Single prompts, outside any dataset.

use std::path::PathBuf;

use kyoka_core::{MediaRef, Modality, Part, RolloutEngine, RolloutRequest, Sample, SamplingConfig};
use kyoka_trainer::Task;

use crate::{Error, MediaAugment, MultimodalTask, load_policy, open_device, training::locate};

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
    let media = |modality: Modality, paths: &[PathBuf]| -> Vec<Part> {
        paths.iter().map(|path| Part::Media(MediaRef { modality, path: path.clone() })).collect()
    };
    let mut images = media(Modality::Image, &options.images).into_iter();
    let mut audios = media(Modality::Audio, &options.audios).into_iter();
    let marked = [Modality::Image, Modality::Audio].iter().any(|m| options.prompt.contains(m.placeholder()));
    let mut parts = Vec::new();
    if !marked {
        parts.extend(images.by_ref().chain(audios.by_ref()));
    }
    let mut rest = options.prompt.as_str();
    while let Some((at, modality)) = [Modality::Image, Modality::Audio]
        .into_iter()
        .filter_map(|m| Some((rest.find(m.placeholder())?, m)))
        .min()
    {
        if at > 0 {
            parts.push(Part::Text(rest[..at].to_owned()));
        }
        let next = match modality {
            Modality::Image => images.next(),
            Modality::Audio => audios.next(),
        };
        parts.push(next.ok_or_else(|| format!("more {} than files given", modality.placeholder()))?);
        rest = &rest[at + modality.placeholder().len()..];
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    match images.count() + audios.count() {
        0 if parts.is_empty() => Err("expected a question or a medium, got nothing".to_owned()),
        0 => Ok(parts),
        surplus => Err(format!("{surplus} more file(s) than placeholders in the prompt")),
    }
}
