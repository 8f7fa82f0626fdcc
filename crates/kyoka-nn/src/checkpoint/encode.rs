//! Tensors on their way back to disk.

use std::{borrow::Cow, io, ops::Range};

use half::{bf16, f16};
use rayon::prelude::*;

use super::{Dtype, TensorInfo};

/// Numbers that one piece of a tensor holds: pieces are made side by side and written one after the other.
const PIECE: usize = 1 << 18;

/// A tensor to be written: its name, kind and shape, and where its numbers come from. They are made when they are written.
#[derive(Debug, Clone)]
pub struct DiskTensor<'a> {
    /// Name on disk.
    pub name: String,
    /// Kind and shape on disk.
    pub info: TensorInfo,
    source: Source<'a>,
}

#[derive(Debug, Clone)]
enum Source<'a> {
    /// Little-endian bytes as they are.
    Stored(&'a [u8]),
    /// Numbers in order.
    Values(Cow<'a, [f32]>),
    /// Columns of a matrix `[width, stride]`, which become rows.
    Columns { values: &'a [f32], stride: usize, columns: Range<usize> },
}

impl<'a> DiskTensor<'a> {
    /// A tensor whose bytes are there.
    ///
    /// # Panics
    /// If they are not as many as kind and shape say.
    pub fn stored(name: impl Into<String>, info: TensorInfo, bytes: &'a [u8]) -> Self {
        let bits = info.shape.iter().product::<usize>() * info.dtype.bitsize();
        assert_eq!(bytes.len(), bits / 8, "stored: bytes of {info:?}");
        Self { name: name.into(), info, source: Source::Stored(bytes) }
    }

    /// A tensor of floats in the order of its elements, written in `info.dtype`.
    ///
    /// # Panics
    /// If they are not as many as the shape says, or the kind is none of F32, F16, BF16 and F64.
    pub fn values(name: impl Into<String>, info: TensorInfo, values: impl Into<Cow<'a, [f32]>>) -> Self {
        let values = values.into();
        assert_eq!(values.len(), info.shape.iter().product::<usize>(), "values: numbers of {info:?}");
        assert!(super::is_float(info.dtype), "values: expected a float dtype, got {}", info.dtype);
        Self { name: name.into(), info, source: Source::Values(values) }
    }

    /// A tensor whose rows are the columns `columns` of a matrix `[width, stride]`.
    pub(crate) fn columns(
        name: impl Into<String>,
        info: TensorInfo,
        values: &'a [f32],
        stride: usize,
        columns: Range<usize>,
    ) -> Self {
        Self { name: name.into(), info, source: Source::Columns { values, stride, columns } }
    }

    /// The same in another kind of float; a tensor of integers stays what it is.
    ///
    /// # Panics
    /// If `dtype` is none of F32, F16, BF16 and F64.
    pub fn with_dtype(mut self, dtype: Dtype) -> Self {
        assert!(super::is_float(dtype), "with_dtype: expected a float dtype, got {dtype}");
        if let Source::Stored(bytes) = self.source
            && super::is_float(self.info.dtype)
            && self.info.dtype != dtype
        {
            let mut values = vec![0.0; self.info.shape.iter().product()];
            super::copy(bytes, self.info.dtype, &mut values);
            self.source = Source::Values(values.into());
        }
        if super::is_float(self.info.dtype) {
            self.info.dtype = dtype;
        }
        self
    }

    /// Bytes on disk.
    pub fn num_bytes(&self) -> usize {
        self.info.shape.iter().product::<usize>() * self.info.dtype.bitsize() / 8
    }

    /// Writes the bytes; besides the source at most a few megabytes are held.
    pub(super) fn write_to(&self, out: &mut impl io::Write) -> io::Result<()> {
        match self.info.dtype {
            _ if self.is_stored() => self.write_as(out, |value| value.to_le_bytes()),
            Dtype::F16 => self.write_as(out, |value| f16::from_f32(value).to_le_bytes()),
            Dtype::BF16 => self.write_as(out, |value| bf16::from_f32(value).to_le_bytes()),
            Dtype::F64 => self.write_as(out, |value| f64::from(value).to_le_bytes()),
            _ => self.write_as(out, f32::to_le_bytes),
        }
    }

    fn is_stored(&self) -> bool {
        matches!(self.source, Source::Stored(_))
    }

    fn write_as<const N: usize>(
        &self,
        out: &mut impl io::Write,
        encode: impl Fn(f32) -> [u8; N] + Sync,
    ) -> io::Result<()> {
        match &self.source {
            Source::Stored(bytes) => out.write_all(bytes),
            Source::Values(values) => {
                let pieces = values.chunks(PIECE);
                write_pieces(out, pieces, |piece| piece.iter().flat_map(|value| encode(*value)).collect())
            }
            Source::Columns { values, stride, columns } => {
                let width = values.len().checked_div(*stride).unwrap_or(0);
                let step = (PIECE / width.max(1)).max(1);
                let pieces = columns.clone().step_by(step).map(|first| first..columns.end.min(first + step));
                write_pieces(out, pieces, |columns| {
                    let rows = columns.flat_map(|column| values[column..].iter().step_by(*stride));
                    rows.flat_map(|value| encode(*value)).collect()
                })
            }
        }
    }
}

/// Makes as many pieces at once as there are threads, and writes them in order.
fn write_pieces<P: Send>(
    out: &mut impl io::Write,
    mut pieces: impl Iterator<Item = P>,
    encode: impl Fn(P) -> Vec<u8> + Sync,
) -> io::Result<()> {
    loop {
        let batch: Vec<P> = pieces.by_ref().take(rayon::current_num_threads().max(1)).collect();
        if batch.is_empty() {
            return Ok(());
        }
        let encoded: Vec<Vec<u8>> = batch.into_par_iter().map(&encode).collect();
        encoded.iter().try_for_each(|piece| out.write_all(piece))?;
    }
}
