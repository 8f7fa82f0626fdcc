//! PEFT adapters beside checkpoints.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use burn::tensor::{Device, TensorData};
use kyoka::{AdapterPlace, Pretrained, load_adapted};
use serde_json::Value;

use super::{
    Golden,
    inputs::Batch,
    language::{compare_logits, gradients, nll, patch_shape},
};
use crate::parity::report::{Checks, Report};

/// Runs the case of an adapter's folder; `base_model_name_or_path` is a path from there.
pub fn run(folder: &Path, report: &mut Report) {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    report.checks("peft adapter", &name, false, |checks| one(folder, checks));
}

fn one(folder: &Path, checks: &mut Checks) -> Result<()> {
    let config: Value = serde_json::from_str(&fs::read_to_string(folder.join("adapter_config.json"))?)?;
    let base = config["base_model_name_or_path"].as_str().context("adapter_config.json: no base model")?;
    let base = folder.join(base);
    let golden = Golden::open(folder)?;
    let case = golden.notes["case"].as_str().context("case.json: no case")?;
    let inputs = Golden::open(&base.join("cases").join(case))?;
    let plain = load_adapted(&base, folder, &Device::flex())?;
    let batch = Batch::read(&inputs, patch_shape(&plain))?;
    compare_logits(&plain, &batch, &golden, checks)?;
    let tracked = load_adapted(&base, folder, &Device::flex().autodiff())?;
    let loss = nll(&tracked, &batch, &golden, checks)?;
    let found = gradients(&tracked.policy, &loss.backward());
    compare_gradients(&tracked, &found, &golden, checks)
}

fn compare_gradients(
    model: &Pretrained,
    found: &std::collections::BTreeMap<String, TensorData>,
    golden: &Golden,
    checks: &mut Checks,
) -> Result<()> {
    let adapters = model.config.adapters.as_ref().context("the model has no adapters")?;
    for name in golden.named("grad.base_model.model.") {
        let (module, part) = name.rsplit_once(".lora_").context("expected lora_A or lora_B")?;
        let ours = |place: &&AdapterPlace| module == place.module || module == model.path_in_transformers(&place.module);
        let place = adapters.places.iter().find(ours).with_context(|| format!("{module}: no adapter"))?;
        let number = adapters.places.iter().filter(|other| other.linear == place.linear && other.start < place.start);
        let matrix = if part.starts_with('A') { "a" } else { "b" };
        let parameter = format!("{}.adapters.{}.{matrix}", place.linear, number.count());
        let gradient = found.get(&parameter).with_context(|| format!("{parameter}: no gradient"))?;
        let values: Vec<f32> = gradient.clone().try_into_vec().expect("gradients are f32");
        let (rows, columns) = (gradient.shape()[0], gradient.shape()[1]);
        let turned: Vec<f32> =
            (0..columns).flat_map(|column| (0..rows).map(move |row| (row, column))).map(|(row, column)| values[row * columns + column]).collect();
        let tensor = format!("grad.base_model.model.{name}");
        checks.relative_l2(&tensor, &turned, &golden.floats(&tensor)?, 1e-3);
    }
    Ok(())
}
