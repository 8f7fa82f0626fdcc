//! Numbers of a file in the types they are worked with.

use half::{bf16, f16};
use rayon::prelude::*;

use super::Dtype;

/// Values a task copies.
const CHUNK: usize = 1 << 16;

/// Side of the tiles in which matrices are turned: both sides of a tile fit into the first cache.
const TILE: usize = 32;

/// The dtypes of [`copy`], for messages.
pub const FLOATS: &str = "F32, F16, BF16 or F64";

/// The dtypes of [`integers`], for messages.
pub const INTEGERS: &str = "BOOL or integers below 2^63";

/// Whether numbers of the dtype can be read as f32.
pub fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64)
}

/// The bytes of rows that form a part of a matrix.
pub struct Rows<'a> {
    /// Row by row, without gaps.
    pub bytes: &'a [u8],
    /// A float.
    pub dtype: Dtype,
    /// Their number.
    pub count: usize,
}

/// Numbers in the order they lie in.
///
/// # Panics
/// If they are no floats, or not as many as `out`.
pub fn copy(bytes: &[u8], dtype: Dtype, out: &mut [f32]) {
    match dtype {
        Dtype::F32 => copy_as(bytes, out, f32::from_le_bytes),
        Dtype::F16 => copy_as(bytes, out, |value| f16::from_le_bytes(value).to_f32()),
        Dtype::BF16 => copy_as(bytes, out, |value| bf16::from_le_bytes(value).to_f32()),
        Dtype::F64 => copy_as(bytes, out, |value| f64::from_le_bytes(value) as f32),
        other => panic!("copy: expected {FLOATS}, got {other}"),
    }
}

fn copy_as<const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn([u8; N]) -> f32 + Sync) {
    let (values, rest) = bytes.as_chunks::<N>();
    assert!(rest.is_empty() && values.len() == out.len(), "copy: expected {} values", out.len());
    out.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK)).for_each(|(out, values)| {
        for (out, value) in out.iter_mut().zip(values) {
            *out = decode(*value);
        }
    });
}

/// Rows of `width` numbers as columns, one part beside the other.
///
/// # Shapes
/// - parts: together `[rows, width]`
/// - out: `[width, rows]`
///
/// # Panics
/// If they are no floats, or not as many as `out`.
pub fn turn(parts: &[Rows<'_>], width: usize, out: &mut [f32]) {
    let rows: usize = parts.iter().map(|part| part.count).sum();
    assert_eq!(out.len(), rows * width, "turn: expected {rows} x {width} values");
    if out.is_empty() {
        return;
    }
    out.par_chunks_mut(TILE * rows).enumerate().for_each(|(block, out)| {
        let (mut start, first) = (0, block * TILE);
        for part in parts {
            turn_part(part, Columns { width, first, rows, start }, out);
            start += part.count;
        }
    });
}

/// Some columns of a part: where they lie in it and in the output.
#[derive(Clone, Copy)]
struct Columns {
    width: usize,
    first: usize,
    rows: usize,
    start: usize,
}

fn turn_part(part: &Rows<'_>, columns: Columns, out: &mut [f32]) {
    match part.dtype {
        Dtype::F32 => turn_as(part, columns, out, f32::from_le_bytes),
        Dtype::F16 => turn_as(part, columns, out, |value| f16::from_le_bytes(value).to_f32()),
        Dtype::BF16 => turn_as(part, columns, out, |value| bf16::from_le_bytes(value).to_f32()),
        Dtype::F64 => turn_as(part, columns, out, |value| f64::from_le_bytes(value) as f32),
        other => panic!("turn: expected {FLOATS}, got {other}"),
    }
}

fn turn_as<const N: usize>(
    part: &Rows<'_>,
    columns: Columns,
    out: &mut [f32],
    decode: impl Fn([u8; N]) -> f32,
) {
    let Columns { width, first, rows, start } = columns;
    let (values, _) = part.bytes.as_chunks::<N>();
    for top in (0..part.count).step_by(TILE) {
        let bottom = part.count.min(top + TILE);
        for (place, line) in out.chunks_mut(rows).enumerate() {
            let column = values[top * width + first + place..].iter().step_by(width);
            for (out, value) in line[start + top..start + bottom].iter_mut().zip(column) {
                *out = decode(*value);
            }
        }
    }
}

/// Floats in full width.
///
/// # Panics
/// If they are no floats.
pub fn floats(bytes: &[u8], dtype: Dtype) -> Vec<f64> {
    match dtype {
        Dtype::F64 => each(bytes, f64::from_le_bytes),
        Dtype::F32 => each(bytes, |value| f64::from(f32::from_le_bytes(value))),
        Dtype::F16 => each(bytes, |value| f16::from_le_bytes(value).to_f64()),
        Dtype::BF16 => each(bytes, |value| bf16::from_le_bytes(value).to_f64()),
        other => panic!("floats: expected {FLOATS}, got {other}"),
    }
}

/// Integers and truth values; nothing if they are neither, or one is too large.
pub fn integers(bytes: &[u8], dtype: Dtype) -> Option<Vec<i64>> {
    Some(match dtype {
        Dtype::BOOL | Dtype::U8 => each(bytes, |[value]: [u8; 1]| i64::from(value)),
        Dtype::I8 => each(bytes, |value| i64::from(i8::from_le_bytes(value))),
        Dtype::I16 => each(bytes, |value| i64::from(i16::from_le_bytes(value))),
        Dtype::U16 => each(bytes, |value| i64::from(u16::from_le_bytes(value))),
        Dtype::I32 => each(bytes, |value| i64::from(i32::from_le_bytes(value))),
        Dtype::U32 => each(bytes, |value| i64::from(u32::from_le_bytes(value))),
        Dtype::I64 => each(bytes, i64::from_le_bytes),
        Dtype::U64 => {
            let values = each(bytes, |value| i64::try_from(u64::from_le_bytes(value)).ok());
            return values.into_iter().collect();
        }
        _ => return None,
    })
}

fn each<const N: usize, T>(bytes: &[u8], decode: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|value| decode(*value)).collect()
}
