//! Biases of attention scores: what may not be seen.

use burn::tensor::{Device, Tensor, TensorData};

/// What is added to the score of a position that may not be seen.
pub(crate) const MASKED: f32 = -1e9;

/// A bias `[1, 1, 1, R * T, S]` for `T` queries of `R` heads over `S` keys, where query `t` sits at key
/// `S - T + t` and sees what is not later.
pub fn causal_bias(query_heads: usize, queries: usize, keys: usize, device: &Device) -> Tensor<5> {
    let offset = keys - queries;
    let row = move |t: usize| (0..keys).map(move |s| if s <= t + offset { 0.0 } else { MASKED });
    let values: Vec<f32> = (0..query_heads).flat_map(|_| (0..queries).flat_map(row)).collect();
    Tensor::from_data(TensorData::new(values, [1, 1, 1, query_heads * queries, keys]), device)
}

/// A bias from lengths: position `p` of row `b` counts if `p < lengths[b]`. `None` if all rows are full.
///
/// # Shapes
/// - output: `[B, P]`
pub(crate) fn length_bias(lengths: &[usize], width: usize, device: &Device) -> Option<Tensor<2>> {
    if lengths.iter().all(|&length| length == width) {
        return None;
    }
    let values: Vec<f32> = lengths
        .iter()
        .flat_map(|&length| (0..width).map(move |p| if p < length { 0.0 } else { MASKED }))
        .collect();
    Some(Tensor::from_data(TensorData::new(values, [lengths.len(), width]), device))
}

/// The bias of [prefixes](crate::PrefixKv) with the given lengths, padded to `width`; `None` if all are full.
///
/// # Shapes
/// - output: `[B, 1, 1, P]`
pub fn prefix_bias(lengths: &[usize], width: usize, device: &Device) -> Option<Tensor<4>> {
    length_bias(lengths, width, device).map(|bias| bias.reshape([lengths.len(), 1, 1, width]))
}
