//! The header of a safetensors file, checked against the file's length before anything is made of it.

use std::{collections::BTreeMap, fmt, ops::Range, path::Path};

use serde::{
    Deserialize,
    de::{Deserializer, Error, MapAccess, Visitor},
};

use super::{CheckpointError, Dtype, TensorInfo};

/// Bytes of the length that the file starts with.
const LENGTH_BYTES: usize = 8;

/// The longest header that the format allows, in bytes.
const MOST_HEADER_BYTES: u64 = 100_000_000;

/// A tensor and where its bytes lie, counted from the start of the file.
pub(super) struct Entry {
    pub info: TensorInfo,
    pub bytes: Range<usize>,
}

/// All tensors of a file.
///
/// # Errors
/// A header that is cut off, too long or no JSON; a name or key that stands twice; an unknown dtype; data that leave the
/// file, overlap, leave a hole, or are not as long as shape and dtype say.
pub(super) fn read(path: &Path, file: &[u8]) -> Result<BTreeMap<String, Entry>, CheckpointError> {
    let invalid = |field: &str, expected: String, got: String| {
        Err(CheckpointError::invalid(path, field, expected, got))
    };
    let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        return invalid("file", format!("at least {LENGTH_BYTES} bytes"), format!("{} bytes", file.len()));
    };
    let length = u64::from_le_bytes(*length);
    let most = MOST_HEADER_BYTES.min(rest.len() as u64);
    if length > most {
        return invalid("header length", format!("at most {most} bytes"), format!("{length}"));
    }
    let (header, data) = rest.split_at(length as usize);
    let names = serde_json::from_slice::<Names>(header);
    let Names(names) = names.map_err(|error| CheckpointError::invalid(path, "header", "tensors", error))?;
    let mut places = Vec::with_capacity(names.len());
    for (name, raw) in &names {
        let range = raw
            .range(data.len())
            .map_err(|(expected, got)| CheckpointError::invalid(path, name.as_str(), expected, got))?;
        places.push((range, name.as_str()));
    }
    check_cover(path, places, data.len())?;
    let start = LENGTH_BYTES + length as usize;
    let entry = |raw: RawInfo| Entry {
        bytes: start + raw.data_offsets.0 as usize..start + raw.data_offsets.1 as usize,
        info: TensorInfo { dtype: raw.dtype, shape: raw.shape },
    };
    Ok(names.into_iter().map(|(name, raw)| (name, entry(raw))).collect())
}

/// Every byte of the data belongs to one tensor.
fn check_cover(
    path: &Path,
    mut places: Vec<(Range<u64>, &str)>,
    num_bytes: usize,
) -> Result<(), CheckpointError> {
    places.sort_by_key(|(range, _)| (range.start, range.end));
    let (mut end, mut before) = (0, "the header");
    for (range, name) in places {
        if range.start != end {
            let relation = if range.start < end { "overlaps" } else { "leaves a hole after" };
            let got = format!("{}, which {relation} {before}", range.start);
            return Err(CheckpointError::invalid(path, name, format!("data from byte {end}"), got));
        }
        (end, before) = (range.end, name);
    }
    if end != num_bytes as u64 {
        let expected = format!("{end} bytes, the end of {before}");
        return Err(CheckpointError::invalid(path, "data", expected, format!("{num_bytes} bytes")));
    }
    Ok(())
}

#[derive(Deserialize)]
struct RawInfo {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

impl RawInfo {
    /// Where the data lie; else what is expected and what is there.
    fn range(&self, num_bytes: usize) -> Result<Range<u64>, (String, String)> {
        let (start, end) = self.data_offsets;
        let got = || format!("data_offsets [{start}, {end}]");
        if start > end || end > num_bytes as u64 {
            return Err((format!("data within the {num_bytes} bytes after the header"), got()));
        }
        // Sizes of 0 count as 1 here: no product of some of the sizes may overflow later either.
        let bits = self.shape.iter().map(|&size| size.max(1) as u64).try_fold(1_u64, u64::checked_mul);
        let bits = bits.and_then(|count| count.checked_mul(self.dtype.bitsize() as u64));
        let bits = bits.map(|bits| if self.shape.contains(&0) { 0 } else { bits });
        match bits {
            Some(bits) if bits % 8 == 0 && bits / 8 == end - start => Ok(start..end),
            bits => {
                let size = bits.map_or("more than 2^64".to_owned(), |bits| bits.div_ceil(8).to_string());
                let expected = format!("{size} bytes for {} of shape {:?}", self.dtype, self.shape);
                Err((expected, format!("{} bytes, {}", end - start, got())))
            }
        }
    }
}

/// The JSON of a header: no name may stand twice.
struct Names(BTreeMap<String, RawInfo>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NamesVisitor)
    }
}

struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = Names;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
        let (mut names, mut has_metadata) = (BTreeMap::new(), false);
        while let Some(name) = map.next_key::<String>()? {
            let twice = || A::Error::custom(format!("{name}: the name stands twice"));
            let in_tensor = |error: A::Error| A::Error::custom(format!("{name}: {error}"));
            if name == "__metadata__" {
                if std::mem::replace(&mut has_metadata, true) {
                    return Err(twice());
                }
                map.next_value::<BTreeMap<String, String>>().map_err(in_tensor)?;
                continue;
            }
            if names.contains_key(&name) {
                return Err(twice());
            }
            let info = map.next_value::<RawInfo>().map_err(in_tensor)?;
            names.insert(name, info);
        }
        Ok(Names(names))
    }
}
