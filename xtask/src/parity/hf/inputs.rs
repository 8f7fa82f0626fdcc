//! Inputs of `transformers` as prompts.

use anyhow::{Result, ensure};
use kyoka::{
    Placeholders, Policy,
    core::{AudioInput, ImageInput, Modality, ModalitySpan, Prompt},
};

use super::Golden;

/// The batch of a case.
pub struct Batch {
    /// Media in the order of the batch.
    pub images: Vec<ImageInput>,
    pub audios: Vec<AudioInput>,
    /// Columns of each row that count.
    pub kept: Vec<Vec<usize>>,
    ids: Vec<Vec<u32>>,
    completion: Vec<Vec<bool>>,
    /// Media as the rows' placeholders take them: number of the medium, whether it is a clip.
    columns: usize,
}

/// Media that wait to be placed, each with the tokens it takes.
struct Queue<T> {
    token: Option<u32>,
    modality: Modality,
    media: std::collections::VecDeque<(T, usize)>,
}

impl Batch {
    /// `patch` is the frames and the squares' side of a model that takes pictures cut into patches.
    pub fn read(golden: &Golden, patch: (usize, usize)) -> Result<Self> {
        let shape = golden.shape("in.input_ids")?;
        ensure!(shape.len() == 2, "in.input_ids: expected [B, T], got {shape:?}");
        let columns = shape[1];
        let ids = golden.integers("in.input_ids")?;
        let attended = golden.integers("in.attention_mask")?;
        let completion = match golden.has("in.completion_mask") {
            true => golden.integers("in.completion_mask")?,
            false => vec![0; ids.len()],
        };
        let row = |values: &[i64], b: usize| values[b * columns..(b + 1) * columns].to_vec();
        let rows = 0..shape[0];
        Ok(Self {
            images: images(golden, patch)?,
            audios: audios(golden)?,
            kept: rows
                .clone()
                .map(|b| (0..columns).filter(|&t| attended[b * columns + t] != 0).collect())
                .collect(),
            ids: rows.clone().map(|b| row(&ids, b).into_iter().map(|id| id as u32).collect()).collect(),
            completion: rows
                .map(|b| row(&completion, b).into_iter().map(|flag| flag != 0).collect())
                .collect(),
            columns,
        })
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Rows as prompts, of the columns that `wanted` keeps among those that count.
    pub fn prompts(
        &self,
        policy: &Policy,
        placeholders: &Placeholders,
        wanted: impl Fn(usize, usize) -> bool,
    ) -> Result<Vec<Prompt>> {
        let clip = |image: &ImageInput| image.seconds_per_step != 1.0 || image.num_views > 2;
        let sized = |image: &ImageInput| {
            let tokens = policy.image.as_ref().map_or(0, |tower| tower.num_tokens(image));
            (image.clone(), tokens)
        };
        let (clips, stills): (Vec<_>, Vec<_>) = self.images.iter().partition(|image| clip(image));
        let mut stills = Queue {
            token: placeholders.image,
            modality: Modality::Image,
            media: stills.into_iter().map(sized).collect(),
        };
        let mut clips = Queue {
            token: placeholders.video,
            modality: Modality::Image,
            media: clips.into_iter().map(sized).collect(),
        };
        let sounds = self
            .audios
            .iter()
            .map(|audio| (audio.clone(), policy.audio.as_ref().map_or(0, |tower| tower.num_tokens(audio))));
        let mut sounds =
            Queue { token: placeholders.audio, modality: Modality::Audio, media: sounds.collect() };
        let mut prompts = Vec::with_capacity(self.ids.len());
        for (b, kept) in self.kept.iter().enumerate() {
            let mut prompt = Prompt::default();
            let mut place = 0;
            let columns: Vec<usize> = kept.iter().copied().filter(|&t| wanted(b, t)).collect();
            while place < columns.len() {
                let id = self.ids[b][columns[place]];
                if let Some(image) = stills.take(id, place, &mut prompt)? {
                    prompt.images.push(image);
                } else if let Some(image) = clips.take(id, place, &mut prompt)? {
                    prompt.images.push(image);
                } else if let Some(audio) = sounds.take(id, place, &mut prompt)? {
                    prompt.audios.push(audio);
                } else {
                    prompt.token_ids.push(id);
                }
                place = prompt.token_ids.len();
            }
            ensure!(place == columns.len(), "row {b}: a medium's tokens go beyond the row");
            prompts.push(prompt);
        }
        Ok(prompts)
    }

    /// Whether a column belongs to the completion.
    pub fn is_completion(&self, b: usize, t: usize) -> bool {
        self.completion[b][t]
    }

    /// Completions of the rows.
    pub fn completions(&self) -> Vec<Vec<u32>> {
        let row = |b: usize| {
            let tokens = self.kept[b].iter().filter(|&&t| self.completion[b][t]);
            tokens.map(|&t| self.ids[b][t]).collect()
        };
        (0..self.ids.len()).map(row).collect()
    }
}

impl<T> Queue<T> {
    /// The next medium if `id` is its placeholder; its span is put into the prompt.
    fn take(&mut self, id: u32, place: usize, prompt: &mut Prompt) -> Result<Option<T>> {
        if self.token != Some(id) {
            return Ok(None);
        }
        let Some((medium, tokens)) = self.media.pop_front() else {
            anyhow::bail!("position {place}: more placeholders than media");
        };
        prompt.token_ids.extend(std::iter::repeat_n(id, tokens));
        prompt.spans.push(ModalitySpan { modality: self.modality, positions: place..place + tokens });
        Ok(Some(medium))
    }
}

fn images(golden: &Golden, patch: (usize, usize)) -> Result<Vec<ImageInput>> {
    let mut found = Vec::new();
    if golden.has("in.image_grid_thw") {
        found.extend(folded(golden, ["in.pixel_values", "in.image_grid_thw"], None, patch)?);
    } else if golden.has("in.pixel_values") {
        found.extend(plain(golden)?);
    }
    if golden.has("in.video_grid_thw") {
        let seconds = golden.has("in.second_per_grid_ts").then(|| golden.floats("in.second_per_grid_ts"));
        found.extend(folded(
            golden,
            ["in.pixel_values_videos", "in.video_grid_thw"],
            seconds.transpose()?,
            patch,
        )?);
    }
    Ok(found)
}

/// Pictures `[B, n, C, H, W]` or `[n, C, H, W]`; those of zeros alone are padding.
fn plain(golden: &Golden) -> Result<Vec<ImageInput>> {
    let shape = golden.shape("in.pixel_values")?;
    ensure!(shape.len() >= 4, "in.pixel_values: expected at least four dimensions, got {shape:?}");
    let [channels, height, width] = [3, 2, 1].map(|from_end| shape[shape.len() - from_end]);
    let pixels = golden.floats("in.pixel_values")?;
    let masks = match golden.has("in.pixel_attention_mask") {
        true => Some(golden.integers("in.pixel_attention_mask")?),
        false => None,
    };
    let size = channels * height * width;
    let picture = |(number, pixels): (usize, &[f32])| {
        let mut input = ImageInput::one_view(pixels.into(), [channels, height, width]);
        input.pixel_mask = masks.as_ref().map(|masks| {
            let mask = &masks[number * height * width..(number + 1) * height * width];
            mask.iter().map(|&seen| seen != 0).collect()
        });
        input
    };
    let padding = |pixels: &[f32]| shape.len() == 5 && pixels.iter().all(|&value| value == 0.0);
    Ok(pixels.chunks_exact(size).enumerate().filter(|(_, pixels)| !padding(pixels)).map(picture).collect())
}

/// Pictures cut into patches by the processors of Qwen2-VL, put together again.
fn folded(
    golden: &Golden,
    [pixels, grids]: [&str; 2],
    seconds: Option<Vec<f32>>,
    (frames, merge): (usize, usize),
) -> Result<Vec<ImageInput>> {
    let (values, grids) = (golden.floats(pixels)?, golden.integers(grids)?);
    let width = golden.shape(pixels)?[1];
    let side = (width / 3 / frames).isqrt();
    ensure!(side * side * 3 * frames == width, "{pixels}: {width} values are no patch of {frames} frames");
    let mut start = 0;
    let mut found = Vec::new();
    for (number, grid) in grids.chunks_exact(3).enumerate() {
        let [steps, rows, columns] = [0, 1, 2].map(|axis| grid[axis] as usize);
        let count = steps * rows * columns * width;
        let patches = &values[start..start + count];
        start += count;
        let mut input = unfolded(patches, [steps, rows, columns], side, (frames, merge));
        if let Some(seconds) = &seconds {
            input.seconds_per_step = seconds[number];
        }
        found.push(input);
    }
    Ok(found)
}

fn unfolded(
    patches: &[f32],
    [steps, rows, columns]: [usize; 3],
    side: usize,
    (frames, merge): (usize, usize),
) -> ImageInput {
    let (height, width) = (rows * side, columns * side);
    let mut pixels = vec![0.0; steps * frames * 3 * height * width];
    let mut values = patches.iter();
    for step in 0..steps {
        for square in 0..rows / merge * (columns / merge) {
            for cell in 0..merge * merge {
                let row = square / (columns / merge) * merge + cell / merge;
                let column = square % (columns / merge) * merge + cell % merge;
                for channel in 0..3 {
                    for frame in step * frames..(step + 1) * frames {
                        for y in row * side..(row + 1) * side {
                            let line = ((frame * 3 + channel) * height + y) * width + column * side;
                            for place in &mut pixels[line..line + side] {
                                *place = *values.next().expect("a value a pixel");
                            }
                        }
                    }
                }
            }
        }
    }
    let mut input = ImageInput::one_view(pixels.into(), [3, height, width]);
    input.num_views = steps * frames;
    input
}

fn audios(golden: &Golden) -> Result<Vec<AudioInput>> {
    if !golden.has("in.input_features") {
        return Ok(Vec::new());
    }
    let shape = golden.shape("in.input_features")?;
    ensure!(shape.len() == 3, "in.input_features: expected [B, mels, frames], got {shape:?}");
    let (num_mels, frames) = (shape[1], shape[2]);
    let features = golden.floats("in.input_features")?;
    let masks = match golden.has("in.feature_attention_mask") {
        true => golden.integers("in.feature_attention_mask")?,
        false => vec![1; shape[0] * frames],
    };
    let sound = |(features, mask): (&[f32], &[i64])| AudioInput {
        input_features: features.into(),
        num_mels,
        frames,
        valid_frames: mask.iter().filter(|&&seen| seen != 0).count(),
    };
    Ok(features.chunks_exact(num_mels * frames).zip(masks.chunks_exact(frames)).map(sound).collect())
}

/// Pictures and sounds for towers alone.
pub fn media(golden: &Golden) -> Result<(Vec<ImageInput>, Vec<AudioInput>)> {
    Ok((images(golden, (1, 1))?, audios(golden)?))
}
