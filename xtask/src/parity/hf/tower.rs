//! Towers alone: last hidden states, and the gradient of their product with a given cotangent.

use std::path::Path;

use anyhow::{Context, Result, bail};
use burn::{
    module::Module,
    tensor::{Device, Tensor, TensorData},
};
use kyoka::{
    core::{AudioInput, ImageInput},
    image::ImageEncoder,
    load_audio_encoder, load_image_encoder,
    nn::{CheckpointFiles, WeightRule},
};

use super::{Golden, compare_gradients, inputs::media, language::gradients, numbers};
use crate::parity::report::Checks;

pub fn run_image(folder: &Path, golden: &Golden, checks: &mut Checks) -> Result<()> {
    let device = Device::flex().autodiff();
    let tower = load_image_encoder(folder, &device)?;
    let ImageEncoder::Vit(encoder) = &tower.encoder else { bail!("expected a vision transformer") };
    let (images, _) = media(golden)?;
    let sources = sources(images.iter().map(|image| image.pixel_values.len()), |numbered| {
        let numbered = images.iter().zip(numbered);
        let numbered: Vec<ImageInput> = numbered
            .map(|(image, pixel_values)| ImageInput { pixel_values: pixel_values.into(), ..image.clone() })
            .collect();
        encoder.patch_rows(&numbered.iter().collect::<Vec<_>>(), &device)
    });
    let images: Vec<&ImageInput> = images.iter().collect();
    let rows = encoder.patch_rows(&images, &device).require_grad();
    let hidden = encoder.hidden_states_of_rows(rows.clone(), &images);
    let [b, t, d] = hidden.dims();
    let media = ("pixel_values", rows, sources);
    compare(folder, golden, (&tower.encoder, &tower.rules), (hidden.reshape([b * t, d]), media), checks)
}

pub fn run_audio(folder: &Path, golden: &Golden, checks: &mut Checks) -> Result<()> {
    let device = Device::flex().autodiff();
    let tower = load_audio_encoder(folder, &device)?;
    let (_, audios) = media(golden)?;
    let sources = sources(audios.iter().map(|audio| audio.input_features.len()), |numbered| {
        let numbered = audios.iter().zip(numbered);
        let numbered: Vec<AudioInput> = numbered
            .map(|(audio, input_features)| AudioInput {
                input_features: input_features.into(),
                ..audio.clone()
            })
            .collect();
        tower.encoder.frame_rows(&numbered.iter().collect::<Vec<_>>(), &device)
    });
    let audios: Vec<&AudioInput> = audios.iter().collect();
    let rows = tower.encoder.frame_rows(&audios, &device).require_grad();
    let hidden = tower.encoder.encode_rows(rows.clone(), &audios).embeddings;
    let media = ("input_features", rows, sources);
    compare(folder, golden, (&tower.encoder, &tower.rules), (hidden, media), checks)
}

/// Where each number of the rows comes from, counted from 1 over all media; 0 where it is padding.
///
/// Rows are made of media whose numbers count up, so that this holds for any way of making them.
fn sources(lengths: impl Iterator<Item = usize>, rows: impl Fn(Vec<Vec<f32>>) -> Tensor<2>) -> Vec<usize> {
    let mut next = 0;
    let numbered = lengths.map(|length| {
        let start = next;
        next += length;
        (start..next).map(|place| (place + 1) as f32).collect()
    });
    let numbered: Vec<Vec<f32>> = numbered.collect();
    assert!(next < 1 << 24, "media of {next} numbers: f32 cannot count them");
    numbers(rows(numbered)).into_iter().map(|place| place as usize).collect()
}

fn compare<M: Module>(
    folder: &Path,
    golden: &Golden,
    (encoder, rules): (&M, &[WeightRule]),
    (hidden, (media, rows, sources)): (Tensor<2>, (&str, Tensor<2>, Vec<usize>)),
    checks: &mut Checks,
) -> Result<()> {
    checks.scaled(
        "out.last_hidden_state",
        &numbers(hidden.clone()),
        &golden.floats("out.last_hidden_state")?,
    );
    if !golden.has("in.cotangent") {
        return Ok(());
    }
    let cotangent = golden.floats("in.cotangent")?;
    let count = cotangent.len();
    let shape = hidden.dims();
    let cotangent = Tensor::<2>::from_data(TensorData::new(cotangent, shape), &hidden.device());
    let loss = (hidden * cotangent).sum() / count as f64;
    checks.within("out.loss", &numbers(loss.clone()), &golden.floats("out.loss")?, 1e-4);
    let backward = loss.backward();
    let of_media = format!("grad_input.{media}");
    if golden.has(&of_media) {
        let expected = golden.floats(&of_media)?;
        let mut got = vec![0.0; expected.len() + 1];
        let of_rows = rows.grad(&backward).context("the rows of a medium have no gradient")?;
        numbers(of_rows).iter().zip(sources).for_each(|(gradient, place)| got[place] += gradient);
        checks.relative_l2(&of_media, &got[1..], &expected, 1e-3);
    }
    let found = gradients(encoder, &backward);
    compare_gradients(golden, &found, (rules, &CheckpointFiles::open(folder)?), checks)
}
