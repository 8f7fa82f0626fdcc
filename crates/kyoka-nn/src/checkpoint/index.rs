//! The index of a checkpoint in several files.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Component, Path},
};

use serde::{
    Deserialize,
    de::{Deserializer, Error, MapAccess, Visitor},
};

use super::CheckpointError;

/// Which file holds which tensor: `weight_map` of `model.safetensors.index.json`.
///
/// # Errors
/// If it is no such file, a tensor stands twice, or a shard is not a file name in the same folder.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, String>, CheckpointError> {
    let bytes = fs::read(path).map_err(|source| CheckpointError::io(path, source))?;
    let index: Index = serde_json::from_slice(&bytes)
        .map_err(|error| CheckpointError::invalid(path, "weight_map", "a file name a tensor", error))?;
    let Shards(shards) = index.weight_map;
    for (tensor, shard) in &shards {
        let mut parts = Path::new(shard).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(CheckpointError::invalid(path, tensor, "a file name without folder", shard));
        }
    }
    if shards.is_empty() {
        return Err(CheckpointError::invalid(path, "weight_map", "at least one tensor", "none"));
    }
    Ok(shards)
}

#[derive(Deserialize)]
struct Index {
    weight_map: Shards,
}

struct Shards(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Shards {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ShardsVisitor)
    }
}

struct ShardsVisitor;

impl<'de> Visitor<'de> for ShardsVisitor {
    type Value = Shards;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of file names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shards, A::Error> {
        let mut shards = BTreeMap::new();
        while let Some((tensor, shard)) = map.next_entry::<String, String>()? {
            if shards.contains_key(&tensor) {
                return Err(A::Error::custom(format!("{tensor}: the name stands twice")));
            }
            shards.insert(tensor, shard);
        }
        Ok(Shards(shards))
    }
}
