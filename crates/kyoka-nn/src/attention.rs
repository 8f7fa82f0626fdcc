//! Grouped-query attention over a prefix that many rows share.

use burn::tensor::Tensor;

use crate::fused;

/// Keys and values of a prompt, one copy for all its completions.
#[derive(Debug, Clone)]
pub struct PrefixKv {
    /// Shape `[B, Hkv, P, Dh]`.
    pub key: Tensor<4>,
    /// Shape `[B, Hkv, P, Dh]`.
    pub value: Tensor<4>,
    /// 0 on real positions, a large negative number on padding; shape `[B, 1, 1, P]`. `None` if nothing is padded.
    pub bias: Option<Tensor<4>>,
}

/// Scaled dot-product attention, `softmax(q k^T / sqrt(Dh) + bias) v`, over own keys and a shared prefix.
///
/// All `G` rows of a group look at one copy of the prefix: their queries are folded into the time axis, so the
/// prefix costs one matrix product a group. Query heads that share a key head are folded the same way
/// (`R = H / Hkv`, heads of one key head adjacent).
///
/// # Shapes
/// - query: `[B, Hkv, G, R * T, Dh]`
/// - own key and value: `[B, Hkv, G, S, Dh]`
/// - own bias: broadcastable to `[B, Hkv, G, R * T, S]`
/// - prefix: see [`PrefixKv`]
/// - output: `[B, Hkv, G, R * T, Dh]`
pub fn attend(
    query: Tensor<5>,
    own_key: Tensor<5>,
    own_value: Tensor<5>,
    own_bias: Option<Tensor<5>>,
    prefix: Option<&PrefixKv>,
) -> Tensor<5> {
    let [b, h, g, rt, d] = query.dims();
    let [_, _, _, s, _] = own_key.dims();
    let query = query * (d as f64).powf(-0.5);
    let mut own = query.clone().matmul(own_key.swap_dims(3, 4));
    if let Some(bias) = own_bias {
        own = own + bias;
    }
    let Some(prefix) = prefix else {
        return fused::softmax(own).matmul(own_value);
    };
    let [_, _, p, _] = prefix.key.dims();
    let folded: Tensor<4> = query.reshape([b, h, g * rt, d]);
    let mut shared = folded.matmul(prefix.key.clone().swap_dims(2, 3));
    if let Some(bias) = &prefix.bias {
        shared = shared + bias.clone();
    }
    let scores = Tensor::cat(vec![shared.reshape([b, h, g, rt, p]), own], 4);
    let weights = fused::softmax(scores);
    let shared: Tensor<4> = weights.clone().narrow(4, 0, p).reshape([b, h, g * rt, p]);
    let from_prefix = shared.matmul(prefix.value.clone()).reshape([b, h, g, rt, d]);
    from_prefix + weights.narrow(4, p, s).matmul(own_value)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;
    use crate::{causal_bias, prefix_bias};

    /// One row at a time, straight from the formula.
    fn plain(query: &Tensor<5>, key: &Tensor<5>, value: &Tensor<5>, bias: Option<Tensor<5>>) -> Tensor<5> {
        attend(query.clone(), key.clone(), value.clone(), bias, None)
    }

    #[test]
    fn a_shared_prefix_equals_a_copy_of_it_in_every_row() {
        let device = Device::default();
        let (b, h, g, r, t, p, d) = (2, 2, 3, 2, 4, 5, 8);
        let random5 = |dims: [usize; 5]| Tensor::<5>::random(dims, Distribution::Default, &device);
        let query = random5([b, h, g, r * t, d]);
        let (key, value) = (random5([b, h, g, t, d]), random5([b, h, g, t, d]));
        let prefix = PrefixKv {
            key: Tensor::random([b, h, p, d], Distribution::Default, &device),
            value: Tensor::random([b, h, p, d], Distribution::Default, &device),
            bias: prefix_bias(&[5, 3], p, &device),
        };
        let shared = attend(
            query.clone(),
            key.clone(),
            value.clone(),
            Some(causal_bias(r, t, t, &device)),
            Some(&prefix),
        );
        let copied = |x: &Tensor<4>| x.clone().reshape([b, h, 1, p, d]).expand([b, h, g, p, d]);
        let all_keys = Tensor::cat(vec![copied(&prefix.key), key], 3);
        let all_values = Tensor::cat(vec![copied(&prefix.value), value], 3);
        let prefix_bias = prefix.bias.clone().unwrap().reshape([b, 1, 1, 1, p]).expand([b, 1, 1, r * t, p]);
        let own_bias = causal_bias(r, t, t, &device).expand([b, 1, 1, r * t, t]);
        let bias = Tensor::cat(vec![prefix_bias, own_bias], 4);
        let expected = plain(&query, &all_keys, &all_values, Some(bias));
        shared.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-5));
    }

    #[test]
    fn later_positions_are_not_seen() {
        let device = Device::default();
        let query = Tensor::<5>::random([1, 1, 1, 3, 4], Distribution::Default, &device);
        let key = Tensor::<5>::random([1, 1, 1, 3, 4], Distribution::Default, &device);
        let value = Tensor::<5>::random([1, 1, 1, 3, 4], Distribution::Default, &device);
        let before = plain(&query, &key, &value, Some(causal_bias(1, 3, 3, &device)));
        let changed = value.clone().slice_fill([0..1, 0..1, 0..1, 2..3], 9.0);
        let after = plain(&query, &key, &changed, Some(causal_bias(1, 3, 3, &device)));
        let first_two = |x: Tensor<5>| x.narrow(3, 0, 2).into_data();
        assert_eq!(first_two(before).as_bytes(), first_two(after).as_bytes());
    }
}
