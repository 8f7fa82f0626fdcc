//! Checkpoints of Hugging Face, run on inputs whose outputs `transformers` computed.

pub mod adapter;
mod inputs;
mod language;
mod tower;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use burn::tensor::Tensor;
use kyoka::nn::{CheckpointFiles, WeightRule};
use serde_json::Value;

use super::report::{Checks, Report};

/// A case's files.
pub struct Golden {
    /// Inputs and outputs.
    pub tensors: CheckpointFiles,
    /// What is said about them.
    pub notes: Value,
}

impl Golden {
    fn open(folder: &Path) -> Result<Self> {
        let tensors = CheckpointFiles::open_file(&folder.join("golden.safetensors"))?;
        let notes = serde_json::from_str(&fs::read_to_string(folder.join("case.json"))?)?;
        Ok(Self { tensors, notes })
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.info(name).is_some()
    }

    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.tensors.info(name).with_context(|| format!("{name}: missing"))?.shape.clone())
    }

    pub fn floats(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.tensors.read_f32(name)?.try_into_vec().expect("read as f32"))
    }

    pub fn integers(&self, name: &str) -> Result<Vec<i64>> {
        Ok(self.tensors.read_i64(name)?)
    }

    /// Integers that may be written as floats.
    pub fn whole_numbers(&self, name: &str) -> Result<Vec<i64>> {
        match self.tensors.read_i64(name) {
            Ok(values) => Ok(values),
            Err(_) => Ok(self.floats(name)?.into_iter().map(|value| value as i64).collect()),
        }
    }

    /// Names that start so, without the start.
    pub fn named(&self, start: &str) -> Vec<String> {
        self.tensors.names().filter_map(|name| name.strip_prefix(start)).map(str::to_owned).collect()
    }
}

/// Runs the cases of a checkpoint's folder.
pub fn run(folder: &Path, report: &mut Report) {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let config = fs::read_to_string(folder.join("config.json")).unwrap_or_default();
    let config: Value = serde_json::from_str(&config).unwrap_or_default();
    let model_type = config["model_type"].as_str().unwrap_or("none").to_owned();
    let kind = format!("hf {model_type}");
    let cases = cases(folder);
    if cases.is_empty() {
        report.broken(&kind, &name, "no case: expected cases/<name>/golden.safetensors");
        return;
    }
    for case in cases {
        let id = format!("{name}/{}", case.file_name().unwrap_or_default().to_string_lossy());
        report.checks(&kind, &id, false, |checks| one(folder, &case, &model_type, checks));
    }
}

fn cases(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join("cases")).into_iter().flatten().flatten();
    let mut cases: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.join("golden.safetensors").is_file()).collect();
    cases.sort();
    cases
}

fn one(folder: &Path, case: &Path, model_type: &str, checks: &mut Checks) -> Result<()> {
    let golden = Golden::open(case)?;
    if kyoka::is_known_family(model_type) {
        return language::run(folder, &golden, checks);
    }
    if golden.has("in.pixel_values") {
        return tower::run_image(folder, &golden, checks);
    }
    if golden.has("in.input_features") {
        return tower::run_audio(folder, &golden, checks);
    }
    super::unknown("checkpoint", model_type)
}

/// The numbers of a tensor.
pub fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("a tensor of f32")
}

/// Compares gradients under their names on disk: those given whole by their distance, all by their length.
pub fn compare_gradients(
    golden: &Golden,
    gradients: &std::collections::BTreeMap<String, burn::tensor::TensorData>,
    (rules, files): (&[WeightRule], &CheckpointFiles),
    checks: &mut Checks,
) -> Result<()> {
    let mut on_disk = std::collections::BTreeMap::new();
    let layout = files.layout().into_iter().map(|(name, mut info)| {
        info.dtype = kyoka::nn::Dtype::F32;
        (name, info)
    });
    let layout = layout.collect();
    for rule in rules {
        let Some(gradient) = gradients.get(&rule.parameter) else { continue };
        for tensor in rule.split(gradient, &layout)? {
            let numbers = tensor.to_bytes();
            let numbers = numbers.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four")));
            on_disk.insert(tensor.name.clone(), numbers.collect::<Vec<f32>>());
        }
    }
    for name in golden.named("grad.") {
        let expected = golden.floats(&format!("grad.{name}"))?;
        let got = on_disk.get(&name).cloned().unwrap_or_else(|| vec![0.0; expected.len()]);
        checks.relative_l2(&format!("grad.{name}"), &got, &expected, 1e-3);
    }
    let (mut got, mut expected) = (Vec::new(), Vec::new());
    for (name, length) in golden.notes["grad_l2"].as_object().into_iter().flatten() {
        let Some(length) = length.as_f64().filter(|&length| length > 1e-4) else { continue };
        let own = on_disk.get(name).map_or(0.0, |values| l2(values));
        got.push((own / length) as f32);
        expected.push(1.0);
    }
    checks.within(&format!("grad_l2 of {} tensors / golden", got.len()), &got, &expected, 1e-3);
    Ok(())
}

fn l2(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
}
