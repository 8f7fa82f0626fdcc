//! Pictures and sounds, brought to what encoders read, beside the processors of `transformers`.
//!
//! A folder holds `manifest.json`, the files in `images/` and `audio/`, and what was made of them in `golden_images/`
//! and `golden_audio/`.

mod images;
mod jpeg;
mod sounds;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value};

use super::report::Report;

/// Runs everything that a manifest names.
pub fn run(folder: &Path, report: &mut Report) {
    let path = folder.join("manifest.json");
    match Folder::open(folder) {
        Ok(folder) => {
            images::run(&folder, report);
            sounds::run(&folder, report);
        }
        Err(error) => report.broken("preprocess", &path.display().to_string(), &format!("{error:#}")),
    }
}

/// A folder of cases.
pub struct Folder {
    /// Where it lies.
    pub root: PathBuf,
    manifest: Value,
}

impl Folder {
    fn open(root: &Path) -> Result<Self> {
        let manifest = serde_json::from_str(&fs::read_to_string(root.join("manifest.json"))?)?;
        Ok(Self { root: root.to_owned(), manifest })
    }

    /// An object of the manifest by name; empty if it is not there.
    pub fn section(&self, name: &str) -> Map<String, Value> {
        self.manifest[name].as_object().cloned().unwrap_or_default()
    }

    /// A file's bytes.
    pub fn bytes(&self, path: &str) -> Result<Vec<u8>> {
        fs::read(self.root.join(path)).with_context(|| path.to_owned())
    }

    /// A file of tensors.
    pub fn tensors(&self, path: &str) -> Result<Tensors> {
        Ok(Tensors { bytes: self.bytes(path)?, path: path.to_owned() })
    }
}

/// A safetensors file of any type.
pub struct Tensors {
    bytes: Vec<u8>,
    path: String,
}

/// A tensor's shape and numbers.
pub struct Golden {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its numbers.
    pub values: Vec<f64>,
}

impl Golden {
    /// Its numbers in single precision.
    pub fn floats(&self) -> Vec<f32> {
        self.values.iter().map(|&value| value as f32).collect()
    }
}

impl Tensors {
    /// A tensor, if it is there.
    pub fn find(&self, name: &str) -> Result<Option<Golden>> {
        let tensors = SafeTensors::deserialize(&self.bytes).with_context(|| self.path.clone())?;
        let Ok(view) = tensors.tensor(name) else { return Ok(None) };
        let data = view.data();
        let values = match view.dtype() {
            Dtype::U8 | Dtype::BOOL => data.iter().map(|&byte| f64::from(byte)).collect(),
            Dtype::F32 => numbers(data, |four| f64::from(f32::from_le_bytes(four))),
            Dtype::I32 => numbers(data, |four| f64::from(i32::from_le_bytes(four))),
            Dtype::F64 => numbers(data, f64::from_le_bytes),
            Dtype::I64 => numbers(data, |eight| i64::from_le_bytes(eight) as f64),
            other => anyhow::bail!("{}: {name}: a tensor of type {other:?}", self.path),
        };
        Ok(Some(Golden { shape: view.shape().to_vec(), values }))
    }

    /// A tensor that must be there.
    pub fn get(&self, name: &str) -> Result<Golden> {
        self.find(name)?.with_context(|| format!("{}: no tensor {name}", self.path))
    }

    /// The names that end so, without the end.
    pub fn names(&self, end: &str) -> Result<Vec<String>> {
        let tensors = SafeTensors::deserialize(&self.bytes).with_context(|| self.path.clone())?;
        let mut names: Vec<String> = tensors
            .names()
            .into_iter()
            .filter_map(|name| name.strip_suffix(end))
            .map(str::to_owned)
            .collect();
        names.sort();
        Ok(names)
    }
}

fn numbers<const N: usize>(data: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    data.chunks_exact(N).map(|bytes| read(bytes.try_into().expect("chunks of N bytes"))).collect()
}
