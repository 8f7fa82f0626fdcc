//! Single prompts, outside any dataset.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kyoka_core::{
    Modality, Origin, Part, PlaceholderMismatch, RolloutEngine, RolloutPrompt, RolloutRequest, Sample,
    SamplingConfig, Task, prompt_parts, prompt_without_media,
};

use crate::{
    Error, MediaAugment, MultimodalTask, Policy,
    hub::checkpoint_folder,
    load_policy,
    model::open_checkpoint,
    model_folder::{is_hugging_face, locate},
    open_device,
};

/// What `kyoka generate` is asked.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// A run's folder, a checkpoint's, or a Hugging Face folder.
    pub model: PathBuf,
    /// Folder of a PEFT adapter for a Hugging Face model.
    pub adapter: Option<PathBuf>,
    /// The question; `<image>` and `<audio>` mark where media go, `\<image>` is the text itself. Without marks, media
    /// come first. To a policy without senses marks are text.
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
    let fail = |reason: String| Error::unanswered("prompt", reason);
    let (policy, task) = open(&options.model, options.adapter.as_deref(), &device)?;
    let sample =
        user_sample(parts(&task, &options.prompt, [&options.images, &options.audios]).map_err(fail)?);
    let prompt = task.prompt(&sample, None).map_err(|error| Error::unanswered("prompt", error))?;
    let engine = task.engine().with_model(&policy);
    let request = RolloutRequest {
        prompts: &RolloutPrompt::numbered(std::slice::from_ref(&prompt)),
        group_size: options.count.max(1),
        sampling: &options.sampling,
        seed: options.seed,
        episodes: None,
    };
    let groups = engine.generate_all(request).map_err(|error| Error::unanswered("prompt", error))?;
    Ok(groups[0].rollouts.iter().map(|rollout| task.tokenizer().decode(&rollout.token_ids).text).collect())
}

/// A policy with its task, from a run, a checkpoint of ours or a Hugging Face folder.
pub(crate) fn open(
    model: &Path,
    adapter: Option<&Path>,
    device: &Device,
) -> Result<(Policy, MultimodalTask), Error> {
    let model = &checkpoint_folder(model)?;
    if is_hugging_face(model)? {
        let mut opened = open_checkpoint(model)?;
        if let Some(folder) = adapter {
            opened.put_adapter(&checkpoint_folder(folder)?)?;
        }
        let policy = opened.policy(0, device)?;
        let task = MultimodalTask::new(opened.tokenizer, opened.config, MediaAugment::default(), 0);
        return Ok((policy, task.with_template(opened.template)));
    }
    if let Some(folder) = adapter {
        return Err(Error::file(folder, "an adapter stands beside a Hugging Face model, not beside a run"));
    }
    let (_, checkpoint) = locate(model)?;
    let (policy, config, (tokenizer, template)) = load_policy(&checkpoint, device)?;
    let task = MultimodalTask::new(tokenizer, config, MediaAugment::default(), 0);
    Ok((policy, task.with_template(template)))
}

/// A sample of parts given by hand.
pub(crate) fn user_sample(parts: Vec<Part>) -> Sample {
    let origin = Origin { file: PathBuf::from("command line"), ..Origin::default() };
    Sample { id: "prompt".to_owned(), origin, ..Sample::asking(parts) }
}

/// Text and media in order; without marks in the text, media come first.
pub(crate) fn parts(
    task: &MultimodalTask,
    text: &str,
    [images, audios]: [&[PathBuf]; 2],
) -> Result<Vec<Part>, String> {
    let (image, audio) = (Modality::Image.placeholder(), Modality::Audio.placeholder());
    let media = image.repeat(images.len()) + &audio.repeat(audios.len());
    let parts = if media.is_empty() && !task.has_senses() {
        let text = prompt_without_media(text);
        if text.is_empty() { Vec::new() } else { vec![Part::Text(text)] }
    } else {
        let read = |text: &str| prompt_parts(text, Path::new(""), images, audios);
        let all = |mismatches: Vec<PlaceholderMismatch>| {
            mismatches.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        let marked = prompt_parts(text, Path::new(""), &[], &[]).is_err();
        read(&if marked { text.to_owned() } else { media + text }).map_err(all)?
    };
    if parts.is_empty() {
        return Err("expected a question or a medium, got nothing".to_owned());
    }
    Ok(parts)
}
