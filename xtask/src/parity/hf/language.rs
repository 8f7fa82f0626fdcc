//! Models with a decoder.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, ensure};
use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Device, Gradients, Tensor, TensorData},
};
use kyoka::{
    Policy, Pretrained,
    core::{
        AudioInput, CausalLm, Distribution, Episode, Episodes, ImageInput, ModalityEncoder, PackedGroup,
        ParameterPath, Prompt, Reply, RolloutEngine, RolloutError, RolloutPrompt, RolloutRequest,
        SamplingConfig, StopReason,
    },
    image::ImageEncoderConfig,
    load_pretrained,
    nn::CheckpointFiles,
    rollout::LocalEngine,
};

use super::{Golden, compare_gradients, inputs::Batch, numbers};
use crate::parity::report::{Checks, Precision};

/// Tokens that greedy decoding is compared on.
const GREEDY_TOKENS: usize = 16;

pub fn run(folder: &Path, golden: &Golden, checks: &mut Checks) -> Result<()> {
    let plain = load_pretrained(folder, &Device::flex())?;
    let batch = Batch::read(golden, patch_shape(&plain))?;
    features(&plain, &batch, golden, checks)?;
    hidden_rows(&plain, &batch, golden, checks)?;
    positions(&plain, &batch, golden, checks)?;
    turns(&plain, &batch, checks)?;
    if golden.has("out.greedy_ids") {
        greedy(plain, &batch, golden, checks)?;
    }
    if golden.has("out.logprobs") {
        training(folder, &batch, golden, checks)?;
    }
    Ok(())
}

/// Frames, and the side of the squares of patches, of a model that takes pictures cut into patches.
pub fn patch_shape(model: &Pretrained) -> (usize, usize) {
    match model.config.vision.as_ref().map(|vision| &vision.encoder) {
        Some(ImageEncoderConfig::Qwen(encoder)) => (encoder.temporal_patch_size, encoder.merge_size),
        _ => (1, 1),
    }
}

/// Compares the logits of every position that counts.
pub fn compare_logits(model: &Pretrained, batch: &Batch, golden: &Golden, checks: &mut Checks) -> Result<()> {
    let prompts = batch.prompts(&model.policy, &model.placeholders, |_, _| true)?;
    let logits = model.policy.trace(&prompts.iter().collect::<Vec<_>>()).logits;
    let expected = kept_rows(&golden.floats("out.logits")?, batch, logits.dims()[1]);
    checks.scaled("out.logits", &numbers(logits), &expected);
    Ok(())
}

fn features(model: &Pretrained, batch: &Batch, golden: &Golden, checks: &mut Checks) -> Result<()> {
    let (policy, device) = (&model.policy, Device::flex());
    let images: Vec<&ImageInput> = batch.images.iter().collect();
    let audios: Vec<&AudioInput> = batch.audios.iter().collect();
    for module in golden.named("out.feat.") {
        let tensor = format!("out.feat.{module}");
        let expected = golden.floats(&tensor)?;
        let sight = || policy.image.as_ref().context("the model has no image tower");
        let hearing = || policy.audio.as_ref().context("the model has no audio tower");
        let got = match module.as_str() {
            "model.vision_model" => numbers(sight()?.encoder.encode(&images, &device).embeddings),
            "model.connector" | "model.visual" => numbers(sight()?.forward(&images, &device)),
            "model.audio_tower" | "model.multi_modal_projector" => {
                numbers(hearing()?.forward(&audios, &device))
            }
            other => return crate::parity::unknown("module", other),
        };
        let expected = match module.as_str() {
            // Rows of padding follow those of each sound.
            "model.multi_modal_projector" => {
                let shape = golden.shape(&tensor)?;
                let rows = audios.iter().zip(expected.chunks_exact(shape[1] * shape[2]));
                let valid = rows.flat_map(|(audio, rows)| {
                    let tokens = hearing().map_or(0, |tower| tower.num_tokens(audio));
                    rows[..tokens * shape[2]].to_vec()
                });
                valid.collect()
            }
            _ => expected,
        };
        checks.scaled(&tensor, &got, &expected);
    }
    Ok(())
}

fn hidden_rows(model: &Pretrained, batch: &Batch, golden: &Golden, checks: &mut Checks) -> Result<()> {
    let prompts = batch.prompts(&model.policy, &model.placeholders, |_, _| true)?;
    let trace = model.policy.trace(&prompts.iter().collect::<Vec<_>>());
    let last = trace.hidden.len() - 1;
    let outputs = [
        ("out.inputs_embeds_merged", trace.hidden[0].clone()),
        ("out.hidden_state_1", trace.hidden[1].clone()),
        ("out.last_hidden_state", trace.hidden[last].clone()),
        ("out.logits", trace.logits),
    ];
    for (name, rows) in outputs {
        if golden.has(name) {
            let expected = kept_rows(&golden.floats(name)?, batch, rows.dims()[1]);
            checks.scaled(name, &numbers(rows), &expected);
        }
    }
    Ok(())
}

/// Rows of `[B, T, width]` where the attention mask counts.
fn kept_rows(values: &[f32], batch: &Batch, width: usize) -> Vec<f32> {
    let columns = batch.columns();
    let rows = batch.kept.iter().enumerate().flat_map(|(b, kept)| kept.iter().map(move |t| b * columns + t));
    rows.flat_map(|row| values[row * width..(row + 1) * width].to_vec()).collect()
}

fn positions(model: &Pretrained, batch: &Batch, golden: &Golden, checks: &mut Checks) -> Result<()> {
    if !golden.has("out.mrope_position_ids") {
        return Ok(());
    }
    let prompts = batch.prompts(&model.policy, &model.placeholders, |_, _| true)?;
    let (positions, next) = model.policy.positions(&prompts.iter().collect::<Vec<_>>());
    let expected = golden.whole_numbers("out.mrope_position_ids")?;
    let plane = expected.len() / 3;
    for axis in 0..3 {
        let expected: Vec<f32> =
            expected[axis * plane..(axis + 1) * plane].iter().map(|&id| id as f32).collect();
        let got: Vec<f64> = positions.iter().map(|position| position[axis] as f64).collect();
        let expected: Vec<f64> = kept_rows(&expected, batch, 1).into_iter().map(f64::from).collect();
        checks.compare(&format!("out.mrope_position_ids[{axis}]"), &got, &expected, Precision::Exact);
    }
    if golden.has("out.mrope_deltas") {
        let expected: Vec<f64> =
            golden.whole_numbers("out.mrope_deltas")?.into_iter().map(|delta| delta as f64).collect();
        let delta = |(next, kept): (&usize, &Vec<usize>)| *next as f64 - kept.len() as f64;
        let got: Vec<f64> = next.iter().zip(&batch.kept).map(delta).collect();
        checks.compare("out.mrope_deltas", &got, &expected, Precision::Exact);
    }
    Ok(())
}

/// Shows every completion the next prompt of the batch behind its first token, which ends a turn as all tokens do.
struct ShowsNext<'a>(&'a [Prompt]);

struct Shown<'a>(Option<&'a Prompt>);

impl Episodes for ShowsNext<'_> {
    fn max_observation_tokens(&self) -> usize {
        self.0.iter().map(Prompt::len).max().unwrap_or(0)
    }

    fn open(&self, index: usize, _: usize) -> Result<Box<dyn Episode + '_>, RolloutError> {
        Ok(Box::new(Shown(Some(&self.0[(index + 1) % self.0.len()]))))
    }
}

impl Episode for Shown<'_> {
    fn answer(&mut self, _: &[u32], _: StopReason) -> Result<Reply, RolloutError> {
        Ok(Reply { reward: None, next: self.0.take().cloned().ok_or(StopReason::Turns) })
    }
}

/// What is seen between two turns, media and all, stands for sampler and trainer where the family puts it: the probability of
/// what is drawn behind it is the same.
fn turns(model: &Pretrained, batch: &Batch, checks: &mut Checks) -> Result<()> {
    let prompts = batch.prompts(&model.policy, &model.placeholders, |_, _| true)?;
    let longest = prompts.iter().map(Prompt::len).max().unwrap_or(0);
    if 2 * longest + 2 > model.policy.max_positions() {
        return Ok(());
    }
    let mut engine = LocalEngine::new(0, Vec::new()).with_model(&model.policy);
    engine.end_ids = (0..model.policy.vocab_size() as u32).collect();
    let sampling = SamplingConfig::greedy(2);
    let shown = ShowsNext(&prompts);
    let request = RolloutRequest {
        prompts: &RolloutPrompt::numbered(&prompts),
        group_size: 1,
        sampling: &sampling,
        seed: 0,
        episodes: Some(&shown),
    };
    let groups = engine.generate_all(request)?;
    let rollouts = || groups.iter().map(|group| &group.rollouts[0]);
    let packed: Vec<PackedGroup<'_>> = rollouts()
        .zip(&prompts)
        .map(|(rollout, prompt)| PackedGroup { prompt, completions: vec![rollout.into()] })
        .collect();
    let scored = numbers(model.policy.score(&packed, &Distribution::default()));
    let sampled: Vec<f32> = rollouts().flat_map(|rollout| rollout.logprobs.clone()).collect();
    checks.within("turns: logprobs", &sampled, &scored, 1e-4);
    Ok(())
}

fn greedy(model: Pretrained, batch: &Batch, golden: &Golden, checks: &mut Checks) -> Result<()> {
    let columns =
        golden.notes["greedy_prompt_len"].as_u64().context("case.json: greedy_prompt_len")? as usize;
    let prompts = batch.prompts(&model.policy, &model.placeholders, |_, t| t < columns)?;
    let mut engine = LocalEngine::new(u32::MAX, Vec::new()).with_model(&model.policy);
    let sampling = SamplingConfig::greedy(GREEDY_TOKENS);
    let asked = RolloutPrompt::numbered(&prompts);
    let request =
        RolloutRequest { prompts: &asked, group_size: 1, sampling: &sampling, seed: 0, episodes: None };
    let ids = |engine: &LocalEngine<Policy>| -> Result<Vec<f64>> {
        let groups = engine.generate_all(request)?;
        let padded = groups.iter().flat_map(|group| {
            let mut ids = group.rollouts[0].token_ids.clone();
            ids.resize(GREEDY_TOKENS, 0);
            ids.into_iter().map(f64::from)
        });
        Ok(padded.collect())
    };
    let expected = |name: &str| -> Result<Vec<f64>> {
        Ok(golden.integers(name)?.into_iter().map(|id| id as f64).collect())
    };
    checks.compare("out.greedy_ids", &ids(&engine)?, &expected("out.greedy_ids")?, Precision::Exact);
    if golden.has("out.greedy_ids_with_eos") {
        let end = golden.notes["greedy_eos_id"].as_u64().context("case.json: greedy_eos_id")?;
        engine.end_ids = vec![end as u32];
        let name = "out.greedy_ids_with_eos";
        checks.compare(name, &ids(&engine)?, &expected(name)?, Precision::Exact);
    }
    Ok(())
}

fn training(folder: &Path, batch: &Batch, golden: &Golden, checks: &mut Checks) -> Result<()> {
    let model = load_pretrained(folder, &Device::flex().autodiff())?;
    let loss = nll(&model, batch, golden, checks)?;
    let found = gradients(&model.policy, &loss.backward());
    compare_gradients(golden, &found, (&model.rules, &CheckpointFiles::open(folder)?), checks)?;
    shared_prefix(&model, batch, checks)
}

/// Compares groups that share their prompt with rows that each run their own: log-probabilities, and gradients of a sum in
/// which every token has a weight of its own.
fn shared_prefix(model: &Pretrained, batch: &Batch, checks: &mut Checks) -> Result<()> {
    let prompts = batch.prompts(&model.policy, &model.placeholders, |b, t| !batch.is_completion(b, t))?;
    // Three completions of two lengths: backwards, the first half, and as it is.
    let completions: Vec<[Vec<u32>; 3]> = batch
        .completions()
        .into_iter()
        .map(|ids| [ids.iter().rev().copied().collect(), ids[..ids.len().div_ceil(2)].to_vec(), ids])
        .collect();
    let pairs = || prompts.iter().zip(&completions);
    let shared: Vec<PackedGroup<'_>> = pairs()
        .map(|(prompt, rows)| PackedGroup { prompt, completions: rows.iter().map(Into::into).collect() })
        .collect();
    let plain: Vec<PackedGroup<'_>> =
        pairs().flat_map(|(prompt, rows)| rows.iter().map(move |ids| group(prompt, ids))).collect();
    let of = |groups: &[PackedGroup<'_>]| {
        let logprobs = model.policy.score(groups, &Distribution::default());
        let [rows, longest] = logprobs.dims();
        let weights: Vec<f32> = (0..rows * longest).map(|place| 0.5 + (place % 7) as f32 / 4.0).collect();
        let weights = Tensor::from_data(TensorData::new(weights, [rows, longest]), &logprobs.device());
        let slopes = (logprobs.clone() * weights).sum().backward();
        (numbers(logprobs), gradients(&model.policy, &slopes))
    };
    let ((shared_logprobs, shared), (plain_logprobs, plain)) = (of(&shared), of(&plain));
    checks.within("shared prefix: logprobs", &shared_logprobs, &plain_logprobs, 1e-4);
    ensure!(shared.keys().eq(plain.keys()), "shared prefix: other parameters get gradients");
    let length = |values: &[f32]| values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let values = |data: &TensorData| data.try_to_vec::<f32>().expect("gradients of f32");
    let longest = plain.values().map(|data| length(&values(data))).fold(0.0, f64::max);
    // A gradient that is zero but for rounding (a bias of keys, say) is measured against a thousandth of the longest.
    let relative = |(shared, plain): (&TensorData, &TensorData)| {
        let (shared, plain) = (values(shared), values(plain));
        let distance: Vec<f32> = shared.iter().zip(&plain).map(|(a, b)| a - b).collect();
        (length(&distance) / length(&plain).max(1e-3 * longest)) as f32
    };
    let relative: Vec<f32> = shared.values().zip(plain.values()).map(relative).collect();
    checks.within("shared prefix: gradients", &relative, &vec![0.0; relative.len()], 1e-4);
    Ok(())
}

/// Compares the log-probabilities of completions, and gives back minus their mean.
pub fn nll(model: &Pretrained, batch: &Batch, golden: &Golden, checks: &mut Checks) -> Result<Tensor<1>> {
    let prompts = batch.prompts(&model.policy, &model.placeholders, |b, t| !batch.is_completion(b, t))?;
    let completions = batch.completions();
    let groups: Vec<PackedGroup<'_>> =
        prompts.iter().zip(&completions).map(|(prompt, ids)| group(prompt, ids)).collect();
    let logprobs = model.policy.score(&groups, &Distribution::default());
    let [_, longest] = logprobs.dims();
    let values = numbers(logprobs.clone());
    let lens = completions.iter().map(Vec::len);
    let got: Vec<f32> =
        values.chunks_exact(longest).zip(lens).flat_map(|(row, len)| row[..len].to_vec()).collect();
    let all = golden.floats("out.logprobs")?;
    let expected: Vec<f32> = batch
        .kept
        .iter()
        .enumerate()
        .flat_map(|(b, kept)| kept.iter().filter(move |&&t| batch.is_completion(b, t)).map(move |t| (b, t)))
        .map(|(b, t)| all[b * batch.columns() + t])
        .collect();
    checks.within("out.logprobs", &got, &expected, 1e-4);
    let loss = logprobs.sum() / -(got.len() as f64);
    checks.within("out.nll", &numbers(loss.clone()), &golden.floats("out.nll")?, 1e-4);
    Ok(loss)
}

fn group<'a>(prompt: &'a Prompt, completion: &'a [u32]) -> PackedGroup<'a> {
    PackedGroup { prompt, completions: vec![completion.into()] }
}

/// Gradients of all parameters by name.
pub fn gradients<M: Module>(module: &M, gradients: &Gradients) -> BTreeMap<String, TensorData> {
    struct Collect<'a> {
        path: ParameterPath,
        gradients: &'a Gradients,
        found: BTreeMap<String, TensorData>,
    }
    impl ModuleVisitor for Collect<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad(self.gradients) {
                self.found.insert(self.path.name(), gradient.into_data());
            }
        }
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
    }
    let mut collect = Collect { path: ParameterPath::default(), gradients, found: BTreeMap::new() };
    module.visit(&mut collect);
    collect.found
}
