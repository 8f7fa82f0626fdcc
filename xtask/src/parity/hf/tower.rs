//! Towers alone: last hidden states, and the gradient of their product with a given cotangent.

use std::path::Path;

use anyhow::{Result, bail};
use burn::{
    module::Module,
    tensor::{Device, Tensor, TensorData},
};
use kyoka::{
    core::{AudioInput, ImageInput, ModalityEncoder},
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
    let images: Vec<&ImageInput> = images.iter().collect();
    let hidden = encoder.hidden_states(&images, &device);
    let [b, t, d] = hidden.dims();
    compare(folder, golden, (&tower.encoder, &tower.rules), hidden.reshape([b * t, d]), checks)
}

pub fn run_audio(folder: &Path, golden: &Golden, checks: &mut Checks) -> Result<()> {
    let device = Device::flex().autodiff();
    let tower = load_audio_encoder(folder, &device)?;
    let (_, audios) = media(golden)?;
    let audios: Vec<&AudioInput> = audios.iter().collect();
    let hidden = tower.encoder.encode(&audios, &device).embeddings;
    compare(folder, golden, (&tower.encoder, &tower.rules), hidden, checks)
}

fn compare<M: Module>(
    folder: &Path,
    golden: &Golden,
    (encoder, rules): (&M, &[WeightRule]),
    hidden: Tensor<2>,
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
    let found = gradients(encoder, &loss.backward());
    compare_gradients(golden, &found, (rules, &CheckpointFiles::open(folder)?), checks)
}
