//! Random prompts and a reward that needs no text: what measurements and device checks train on.

use kyoka_audio::LogMel;
use kyoka_core::{
    AudioInput, Completion, ImageInput, Modality, ModalitySpan, Origin, Place, Prompt, Reward, RewardContext,
    RewardError, RewardFn, Rollout, Sample, Stream, Task, TaskError, stream_rng,
};
use kyoka_image::{ImageProcessor, Picture};
use rand::RngExt;

/// One medium of every prompt.
pub(crate) struct RandomMedium<P> {
    /// Its preprocessing.
    pub processor: P,
    /// Tokens it takes.
    pub tokens: usize,
    /// The placeholder that stands for each of them.
    pub token_id: u32,
}

/// Random prompts: a picture where there is an eye, a sound where there is an ear, and words. The row's number decides.
pub(crate) struct RandomTask {
    pub image: Option<RandomMedium<ImageProcessor>>,
    pub audio: Option<RandomMedium<LogMel>>,
    /// Words of a prompt, in tokens.
    pub prompt_tokens: usize,
    /// Words of a worked completion, in tokens.
    pub target_tokens: usize,
    pub vocab_size: usize,
}

impl RandomTask {
    /// Rows for this task, numbered.
    pub fn samples(count: usize) -> Vec<Sample> {
        let origin = |row: usize| Origin { file: "random".into(), place: Place::Row(row + 1) };
        let sample = |row: usize| Sample { id: row.to_string(), origin: origin(row), ..Sample::default() };
        (0..count).map(sample).collect()
    }

    fn words(&self, id: &str, count: usize) -> Vec<u32> {
        let mut rng = stream_rng(id.parse().unwrap_or(0), Stream::Augment, &[1]);
        (0..count).map(|_| rng.random_range(8..self.vocab_size as u32)).collect()
    }

    /// A picture of random rectangles.
    fn picture(id: &str, processor: &ImageProcessor) -> ImageInput {
        let mut rng = stream_rng(id.parse().unwrap_or(0), Stream::Augment, &[2]);
        let layout = processor.layout(512, 512).expect("every family takes a square");
        let (height, width) = (layout.height, layout.width);
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
        processor.process(&Picture { height, width, rgb }).expect("every family takes a square")
    }

    /// Half a second of a random tone.
    fn sound(id: &str, processor: &LogMel) -> AudioInput {
        let mut rng = stream_rng(id.parse().unwrap_or(0), Stream::Augment, &[3]);
        let pitch: f32 = rng.random_range(0.02..0.4);
        let samples: Vec<f32> = (0..8000).map(|i| 0.5 * (i as f32 * pitch).sin()).collect();
        processor.process(&samples)
    }
}

/// Adds a medium's placeholders to a prompt.
fn place<P>(prompt: &mut Prompt, modality: Modality, medium: &RandomMedium<P>) {
    let start = prompt.token_ids.len();
    prompt.token_ids.resize(start + medium.tokens, medium.token_id);
    prompt.spans.push(ModalitySpan { modality, positions: start..start + medium.tokens });
}

impl Task for RandomTask {
    fn prompt(&self, sample: &Sample, _: Option<&[u64]>) -> Result<Prompt, TaskError> {
        let mut prompt = Prompt::default();
        if let Some(image) = &self.image {
            place(&mut prompt, Modality::Image, image);
            prompt.images = vec![Self::picture(&sample.id, &image.processor)];
        }
        if let Some(audio) = &self.audio {
            place(&mut prompt, Modality::Audio, audio);
            prompt.audios = vec![Self::sound(&sample.id, &audio.processor)];
        }
        prompt.token_ids.extend(self.words(&sample.id, self.prompt_tokens));
        Ok(prompt)
    }

    fn encode(&self, _: &str) -> Result<Vec<u32>, TaskError> {
        Err("random words are not encoded from text".into())
    }

    fn target(&self, sample: &Sample) -> Result<Vec<u32>, TaskError> {
        Ok(self.words(&sample.id, self.target_tokens))
    }

    /// The completion as text: its share of even token ids.
    fn read(&self, rollout: &Rollout, max_new_tokens: usize) -> Completion {
        let even = rollout.token_ids.iter().filter(|&&id| id % 2 == 0).count();
        let text = (even as f64 / rollout.token_ids.len() as f64).to_string();
        Completion { text, max_new_tokens, ..Completion::default() }
    }
}

/// The number that [`RandomTask`] wrote: trivial, and hardly ever constant within a group.
pub(crate) struct EvenShare;

impl RewardFn for EvenShare {
    fn name(&self) -> &str {
        "even_share"
    }

    fn score(&self, _: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let share = completion.text.parse().expect("the task writes a number");
        Ok(Reward { total: Some(share), ..Reward::default() })
    }
}
