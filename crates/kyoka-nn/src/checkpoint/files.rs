//! The files of a checkpoint, mapped into memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
};

use burn::tensor::TensorData;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use super::{
    CheckpointError, DiskTensor, Dtype, TensorFault,
    decode::{self, FLOATS, INTEGERS},
    header, index,
};

/// The one file of a small checkpoint.
pub(super) const SINGLE: &str = "model.safetensors";

/// The index of a checkpoint in several files.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Kind and shape of a tensor on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorInfo {
    /// What its numbers are.
    pub dtype: Dtype,
    /// Its shape; empty for a single number.
    pub shape: Vec<usize>,
}

/// All tensors of a checkpoint by name: what is needed to write the same files again.
pub type CheckpointLayout = BTreeMap<String, TensorInfo>;

/// A checkpoint's tensors, not read yet.
///
/// The files are mapped, so opening costs their headers only. They must not be changed while they are open: a file that is
/// cut short under a map ends the process.
#[derive(Debug)]
pub struct CheckpointFiles {
    path: PathBuf,
    shards: Vec<Mmap>,
    tensors: BTreeMap<String, Place>,
}

#[derive(Debug)]
struct Place {
    info: TensorInfo,
    shard: usize,
    bytes: Range<usize>,
}

impl CheckpointFiles {
    /// Opens `model.safetensors` of a folder, or else the shards that its `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// If there is neither, a file is faulty (the error names file, tensor or part, expected, got), a shard is missing, or
    /// holds a tensor that the index puts elsewhere.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let metadata = folder.metadata().map_err(|source| CheckpointError::io(folder, source))?;
        if !metadata.is_dir() {
            return Err(CheckpointError::invalid(folder, "checkpoint", "a folder", "a file"));
        }
        let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
        match (single.exists(), index.exists()) {
            (true, _) => Self::open_file(&single),
            (false, true) => Self::open_shards(folder, &index),
            (false, false) => {
                let expected = format!("{SINGLE} or {INDEX}");
                Err(CheckpointError::invalid(folder, "checkpoint", expected, "neither"))
            }
        }
    }

    /// Opens one safetensors file.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_file(path: &Path) -> Result<Self, CheckpointError> {
        let mut files = Self { path: path.to_owned(), shards: Vec::new(), tensors: BTreeMap::new() };
        files.add_shard(path)?;
        Ok(files)
    }

    fn open_shards(folder: &Path, index_path: &Path) -> Result<Self, CheckpointError> {
        let index = index::read(index_path)?;
        let names: BTreeSet<&str> = index.values().map(String::as_str).collect();
        let absent: Vec<&str> = names.iter().copied().filter(|name| !folder.join(name).exists()).collect();
        if !absent.is_empty() {
            let expected = format!("{} file(s)", names.len());
            let got = format!("none of the name {}", absent.join(", "));
            return Err(CheckpointError::invalid(index_path, "shards", expected, got));
        }
        let mut files = Self { path: folder.to_owned(), shards: Vec::new(), tensors: BTreeMap::new() };
        let mut faults = Vec::new();
        for shard in names {
            let inside = files.add_shard(&folder.join(shard))?;
            let listed = |name: &str| index.get(name).map_or("no shard", String::as_str);
            faults.extend(inside.into_iter().filter(|name| listed(name) != shard).map(|name| {
                let expected = listed(&name).to_owned();
                TensorFault::OtherShard { name, expected, got: shard.to_owned() }
            }));
        }
        // A tensor that is listed and nowhere is a fault where a model needs it: `load` says so then.
        CheckpointError::unless_empty(index_path, faults)?;
        Ok(files)
    }

    /// Maps a file and returns the names of its tensors.
    fn add_shard(&mut self, path: &Path) -> Result<Vec<String>, CheckpointError> {
        let map = map(path)?;
        let entries = header::read(path, &map)?;
        let names = entries.keys().cloned().collect();
        let shard = self.shards.len();
        self.shards.push(map);
        let placed = entries.into_iter().map(|(name, entry)| {
            let header::Entry { info, bytes } = entry;
            (name, Place { info, shard, bytes })
        });
        self.tensors.extend(placed);
        Ok(names)
    }

    /// The folder, or the file that was opened alone.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Kind and shape of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|place| &place.info)
    }

    /// Kinds and shapes of all tensors.
    pub fn layout(&self) -> CheckpointLayout {
        self.tensors.iter().map(|(name, place)| (name.clone(), place.info.clone())).collect()
    }

    /// The bytes of a tensor as they lie in the file, little-endian.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.tensors.get(name).map(|place| &self.shards[place.shard][place.bytes.clone()])
    }

    /// A tensor as it is, to be written into another checkpoint.
    pub fn disk_tensor(&self, name: &str) -> Option<DiskTensor<'_>> {
        Some(DiskTensor::stored(name, self.info(name)?.clone(), self.bytes(name)?))
    }

    /// A tensor of floats in f32.
    ///
    /// # Errors
    /// If there is none of that name (the nearest is named), or its numbers are no floats.
    pub fn read_f32(&self, name: &str) -> Result<TensorData, CheckpointError> {
        let (info, bytes) = self.floats(name)?;
        let mut values = vec![0.0; info.shape.iter().product()];
        decode::copy(bytes, info.dtype, &mut values);
        Ok(TensorData::new(values, info.shape.clone()))
    }

    /// A tensor of floats in f64, in the order of its elements.
    ///
    /// # Errors
    /// As [`read_f32`](Self::read_f32).
    pub fn read_f64(&self, name: &str) -> Result<Vec<f64>, CheckpointError> {
        let (info, bytes) = self.floats(name)?;
        Ok(decode::floats(bytes, info.dtype))
    }

    /// A tensor of integers or truth values, in the order of its elements.
    ///
    /// # Errors
    /// If there is none of that name, its numbers are no integers, or one is beyond 2^63.
    pub fn read_i64(&self, name: &str) -> Result<Vec<i64>, CheckpointError> {
        let (info, bytes) = self.found(name)?;
        decode::integers(bytes, info.dtype).ok_or_else(|| self.other_dtype(name, INTEGERS, info.dtype))
    }

    fn floats(&self, name: &str) -> Result<(&TensorInfo, &[u8]), CheckpointError> {
        let (info, bytes) = self.found(name)?;
        match decode::is_float(info.dtype) {
            true => Ok((info, bytes)),
            false => Err(self.other_dtype(name, FLOATS, info.dtype)),
        }
    }

    fn found(&self, name: &str) -> Result<(&TensorInfo, &[u8]), CheckpointError> {
        self.info(name).zip(self.bytes(name)).ok_or_else(|| {
            let nearest = kyoka_core::nearest(name, self.names()).map(str::to_owned);
            self.fault(TensorFault::Missing { name: name.to_owned(), nearest })
        })
    }

    fn other_dtype(&self, name: &str, expected: &'static str, got: Dtype) -> CheckpointError {
        let (name, got) = (name.to_owned(), got.to_string());
        self.fault(TensorFault::OtherDtype { name, expected, got })
    }

    fn fault(&self, fault: TensorFault) -> CheckpointError {
        CheckpointError::Tensors { path: self.path.clone(), faults: vec![fault] }
    }
}

fn map(path: &Path) -> Result<Mmap, CheckpointError> {
    let io = |source| CheckpointError::io(path, source);
    let file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if metadata.is_dir() {
        return Err(CheckpointError::invalid(path, "file", "a file", "a folder"));
    }
    if metadata.len() == 0 {
        return Err(CheckpointError::invalid(path, "file", "at least 8 bytes", "0 bytes"));
    }
    #[expect(
        unsafe_code,
        reason = "a map is only sound while nobody changes the file: the type's docs say so"
    )]
    let map = unsafe { Mmap::map(&file) };
    map.map_err(io)
}
