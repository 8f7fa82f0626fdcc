//! Keys and values of completions under way.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor};

use crate::PrefixKv;

/// Keys and values of one layer, allocated once and written in place.
///
/// The tensors are owned by the cache alone, so a write touches the new position only, whatever the length.
#[derive(Debug, Clone)]
pub struct CompletionKv {
    /// Shape `[B, Hkv, G, T, Dh]`.
    key: Tensor<5>,
    /// Shape `[B, Hkv, G, T, Dh]`.
    value: Tensor<5>,
}

impl CompletionKv {
    /// An empty cache; `dims` is `[B, Hkv, G, T, Dh]` with `T` the longest completion.
    pub fn new(dims: [usize; 5], device: &Device) -> Self {
        Self { key: Tensor::zeros(dims, device), value: Tensor::zeros(dims, device) }
    }

    /// Writes position `t` and returns the keys and values up to and including it.
    ///
    /// # Shapes
    /// - key and value: `[B, Hkv, G, 1, Dh]`
    /// - outputs: `[B, Hkv, G, t + 1, Dh]`
    pub fn push(&mut self, t: usize, key: Tensor<5>, value: Tensor<5>) -> (Tensor<5>, Tensor<5>) {
        let [b, h, g, _, d] = key.dims();
        let place = [0..b, 0..h, 0..g, t..t + 1, 0..d];
        self.key.inplace(|all| all.slice_assign(place.clone(), key));
        self.value.inplace(|all| all.slice_assign(place, value));
        (self.key.clone().narrow(3, 0, t + 1), self.value.clone().narrow(3, 0, t + 1))
    }

    /// A prompt's keys and values with the first `t` of slot `slot` behind them, as the prompt of that slot alone.
    pub fn behind(&self, prefix: &PrefixKv, group: usize, slot: Range<usize>, t: usize) -> PrefixKv {
        let joined = |prompt: &Tensor<4>, own: &Tensor<5>| -> Tensor<4> {
            let [_, h, _, _, d] = own.dims();
            let own = own.clone().slice([group..group + 1, 0..h, slot.clone(), 0..t, 0..d]);
            Tensor::cat(vec![prompt.clone().narrow(0, group, 1), own.reshape([1, h, t, d])], 2)
        };
        let bias = prefix.bias.as_ref().map(|bias| {
            let own = Tensor::zeros([1, 1, 1, t], (&bias.device(), bias.dtype()));
            Tensor::cat(vec![bias.clone().narrow(0, group, 1), own], 3)
        });
        PrefixKv { key: joined(&prefix.key, &self.key), value: joined(&prefix.value, &self.value), bias }
    }

    /// An empty cache for one slot, with the room that is left behind `t` tokens.
    pub fn alone(&self, t: usize, device: &Device) -> Self {
        let [_, h, _, capacity, d] = self.key.dims();
        Self::new([1, h, 1, capacity - t, d], device)
    }

    /// Keeps groups and slots: slot `g` of new group `b` is old flat slot `slots[b * G' + g]` (`old_b * G + old_g`).
    pub fn keep(&mut self, num_groups: usize, slots: &Tensor<1, Int>) {
        let regroup = |all: Tensor<5>| {
            let [b, h, g, t, d] = all.dims();
            let [kept] = slots.dims();
            let flat: Tensor<4> = all.swap_dims(1, 2).reshape([b * g, h, t, d]);
            flat.select(0, slots.clone()).reshape([num_groups, kept / num_groups, h, t, d]).swap_dims(1, 2)
        };
        self.key.inplace(regroup);
        self.value.inplace(regroup);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(value: f32) -> Tensor<5> {
        Tensor::full([1, 1, 2, 1, 3], value, &Device::default())
    }

    #[test]
    fn positions_come_back_in_the_order_they_were_written() {
        let mut cache = CompletionKv::new([1, 1, 2, 4, 3], &Device::default());
        cache.push(0, step(1.0), step(10.0));
        let (key, value) = cache.push(1, step(2.0), step(20.0));
        assert_eq!(
            key.into_data().try_to_vec::<f32>().unwrap(),
            [[1.0; 3], [2.0; 3], [1.0; 3], [2.0; 3]].concat()
        );
        assert_eq!(value.dims(), [1, 1, 2, 2, 3]);
    }

    #[test]
    fn a_write_takes_no_copy_of_the_cache() {
        let mut cache = CompletionKv::new([1, 1, 2, 4, 3], &Device::default());
        for t in 0..3 {
            drop(cache.push(t, step(1.0), step(1.0)));
            assert!(cache.key.can_mut() && cache.value.can_mut(), "the cache must own its tensors alone");
        }
    }
}
