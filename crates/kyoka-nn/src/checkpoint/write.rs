//! Checkpoints written aside and renamed into place.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
};

use safetensors::tensor::{Metadata, TensorInfo as Entry};

use super::{
    CheckpointError, DiskTensor,
    files::{INDEX, SINGLE},
};

/// Writes `model.safetensors`, or shards with an index if the tensors take more than `shard_bytes`, into a folder that is
/// made if need be.
///
/// Every file is written under another name, flushed and renamed, the index last; files of an older checkpoint in the folder
/// are removed. A process killed in between leaves the old checkpoint, the new one, or none that opens.
///
/// # Errors
/// If a name stands twice, or the operating system refuses.
pub fn write_checkpoint(
    folder: &Path,
    tensors: Vec<DiskTensor<'_>>,
    shard_bytes: usize,
) -> Result<(), CheckpointError> {
    let tensors = sorted(folder, tensors)?;
    fs::create_dir_all(folder).map_err(|source| CheckpointError::io(folder, source))?;
    let total: usize = tensors.iter().map(DiskTensor::num_bytes).sum();
    let shards = shards(tensors, shard_bytes);
    let count = shards.len();
    if count == 1 {
        write_file(&folder.join(SINGLE), &shards[0])?;
        return remove_others(folder, &[SINGLE.to_owned()]);
    }
    let mut kept = vec![INDEX.to_owned()];
    let mut weight_map = BTreeMap::new();
    // Without its index an older checkpoint cannot be mixed with the new shards.
    remove_if_there(&folder.join(INDEX))?;
    for (number, shard) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{count:05}.safetensors", number + 1);
        write_file(&folder.join(&file), shard)?;
        weight_map.extend(shard.iter().map(|tensor| (tensor.name.as_str(), file.clone())));
        kept.push(file);
    }
    remove_if_there(&folder.join(SINGLE))?;
    let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    let index = serde_json::to_vec_pretty(&index).expect("names and numbers serialise");
    let path = folder.join(INDEX);
    place(&path, |out| out.write_all(&index)).map_err(|source| CheckpointError::io(&path, source))?;
    remove_others(folder, &kept)
}

/// Writes one safetensors file, aside and renamed into place.
///
/// # Errors
/// As [`write_checkpoint`].
pub fn write_tensors(path: &Path, tensors: Vec<DiskTensor<'_>>) -> Result<(), CheckpointError> {
    write_file(path, &sorted(path, tensors)?)
}

fn sorted<'a>(path: &Path, mut tensors: Vec<DiskTensor<'a>>) -> Result<Vec<DiskTensor<'a>>, CheckpointError> {
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    match tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => Err(CheckpointError::invalid(path, &pair[0].name, "one tensor of the name", "two")),
        None => Ok(tensors),
    }
}

/// Tensors in order, as many in a shard as fit; at least one shard, and one tensor in every shard if there is any.
fn shards(tensors: Vec<DiskTensor<'_>>, shard_bytes: usize) -> Vec<Vec<DiskTensor<'_>>> {
    let mut shards = vec![Vec::new()];
    let mut filled = 0;
    for tensor in tensors {
        let size = tensor.num_bytes();
        if filled > 0 && filled + size > shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += size;
        shards.last_mut().expect("there is one from the start").push(tensor);
    }
    shards
}

fn write_file(path: &Path, tensors: &[DiskTensor<'_>]) -> Result<(), CheckpointError> {
    let mut end = 0;
    let entries = tensors.iter().map(|tensor| {
        let start = end;
        end += tensor.num_bytes();
        let (dtype, shape) = (tensor.info.dtype, tensor.info.shape.clone());
        (tensor.name.clone(), Entry { dtype, shape, data_offsets: (start, end) })
    });
    // What transformers looks for before it opens a file.
    let made_by = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let header = Metadata::new(Some(made_by), entries.collect()).map_err(io::Error::other);
    let header = header.and_then(|header| serde_json::to_vec(&header).map_err(io::Error::other));
    let written = header.and_then(|mut header| {
        header.resize(header.len().next_multiple_of(8), b' ');
        place(path, |out| {
            out.write_all(&(header.len() as u64).to_le_bytes())?;
            out.write_all(&header)?;
            tensors.iter().try_for_each(|tensor| tensor.write_to(out))
        })
    });
    written.map_err(|source| CheckpointError::io(path, source))
}

/// Writes under another name, flushes, renames.
fn place(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let aside = path.with_file_name(name);
    let written = File::create(&aside).and_then(|file| {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        write(&mut out)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    });
    written.and_then(|()| fs::rename(&aside, path)).inspect_err(|_| {
        let _ = fs::remove_file(&aside);
    })
}

/// Removes weights in the folder that do not belong to the checkpoint just written.
fn remove_others(folder: &Path, kept: &[String]) -> Result<(), CheckpointError> {
    let io = |source| CheckpointError::io(folder, source);
    for entry in fs::read_dir(folder).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        let name = name.to_string_lossy();
        let shard = name.starts_with("model-") && name.contains("-of-") && name.ends_with(".safetensors");
        if (shard || name == INDEX || name == SINGLE) && !kept.iter().any(|kept| *kept == name) {
            remove_if_there(&folder.join(&*name))?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<(), CheckpointError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CheckpointError::io(path, error)),
        _ => Ok(()),
    }
}
