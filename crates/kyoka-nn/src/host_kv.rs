//! Keys and values in host memory, and attention of one new token a row over them.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

use crate::{
    AttentionLayout, HeadConfig, Rotary, fused,
    fused::{
        decode::{self, Scratch},
        kernels,
    },
};

/// A completion under way: whose prompt it follows, where its keys lie, how many tokens it has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepRow {
    /// Number of the prompt in the cache.
    pub prompt: usize,
    /// Number of the slot in the cache.
    pub slot: usize,
    /// Completion tokens in the cache: place of the next one.
    pub len: usize,
}

/// Keys and values of one layer: every prompt once, a slot for every completion.
///
/// Rows may be at different places of their completions and come and go: nothing is padded, and nothing moves.
#[derive(Debug, Clone)]
pub struct HostKv {
    heads: HeadConfig,
    prompts: Vec<KeyValue>,
    slots: Vec<KeyValue>,
}

/// Keys and values `[Hkv, capacity, Dh]`; empty once nobody needs them.
#[derive(Debug, Clone, Default)]
struct KeyValue {
    key: Vec<f32>,
    value: Vec<f32>,
    capacity: usize,
}

impl KeyValue {
    fn new(heads: HeadConfig, capacity: usize) -> Self {
        let count = heads.num_kv_heads * capacity * heads.d_head;
        Self { key: vec![0.0; count], value: vec![0.0; count], capacity }
    }

    /// Puts the turned key and the value of a row of queries, keys and values at `place`.
    fn put(&mut self, heads: HeadConfig, row: &[f32], place: usize) {
        let HeadConfig { num_heads, num_kv_heads, d_head } = heads;
        for head in 0..num_kv_heads {
            let start = (head * self.capacity + place) * d_head;
            let from = |head: usize| &row[head * d_head..][..d_head];
            self.key[start..][..d_head].copy_from_slice(from(num_heads + head));
            self.value[start..][..d_head].copy_from_slice(from(num_heads + num_kv_heads + head));
        }
    }

    /// The first `len` positions of a head.
    fn head(&self, heads: HeadConfig, head: usize, len: usize) -> (&[f32], &[f32]) {
        let rows = head * self.capacity * heads.d_head..(head * self.capacity + len) * heads.d_head;
        (&self.key[rows.clone()], &self.value[rows])
    }
}

/// Whether policies on this device keep their cache in host memory.
pub fn caches_on_host(device: &Device) -> bool {
    fused::is_fused(device)
}

fn host_values(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().try_into_vec_as().expect("values of a CPU tensor")
}

impl HostKv {
    /// The prompts of a pass over prompts alone.
    ///
    /// # Shapes
    /// - input: `[N, (H + 2 Hkv) Dh]`, not turned
    pub fn of_prompts(qkv: &Tensor<2>, layout: &AttentionLayout) -> Self {
        let heads = layout.heads;
        let mut rows = host_values(qkv.clone());
        turn(&mut rows, heads, layout.rotary.as_ref());
        let width = heads.row_width();
        let prompt = |range: &Range<usize>| {
            let mut kept = KeyValue::new(heads, range.len());
            let rows = rows[range.start * width..range.end * width].chunks_exact(width);
            rows.enumerate().for_each(|(place, row)| kept.put(heads, row, place));
            kept
        };
        let prompts = layout.prompts.iter().map(prompt).collect();
        Self { heads, prompts, slots: Vec::new() }
    }

    /// Opens slots for completions of at most `capacity` tokens.
    pub fn open(&mut self, count: usize, capacity: usize) {
        self.slots.extend((0..count).map(|_| KeyValue::new(self.heads, capacity)));
    }

    /// Takes over another cache's prompts and slots, numbered after its own.
    pub fn append(&mut self, more: Self) {
        self.prompts.extend(more.prompts);
        self.slots.extend(more.slots);
    }

    /// Forgets what none of the rows needs.
    pub fn retain(&mut self, rows: &[StepRow]) {
        let forget = |kept: &mut Vec<KeyValue>, number: &dyn Fn(&StepRow) -> usize| {
            let mut needed = vec![false; kept.len()];
            rows.iter().for_each(|row| needed[number(row)] = true);
            kept.iter_mut()
                .zip(needed)
                .filter(|(_, needed)| !needed)
                .for_each(|(kv, _)| *kv = KeyValue::default());
        };
        forget(&mut self.prompts, &|row| row.prompt);
        forget(&mut self.slots, &|row| row.slot);
    }

    /// Attention of one new token a row, whose key and value are kept. Rows of a prompt stand together.
    ///
    /// # Shapes
    /// - input: `[R, (H + 2 Hkv) Dh]`
    /// - output: `[R, H Dh]`
    ///
    /// # Panics
    /// If there is not one row of the input for each of `rows`, or a slot is full.
    pub fn attend(&mut self, qkv: Tensor<2>, rotary: &Rotary, rows: &[StepRow]) -> Tensor<2> {
        let device = qkv.device();
        let (heads, width) = (self.heads, self.heads.row_width());
        let mut qkv = host_values(qkv);
        assert_eq!(qkv.len(), rows.len() * width, "cache: expected one row of queries an open row");
        turn(&mut qkv, heads, Some(rotary));
        for (row, values) in rows.iter().zip(qkv.chunks_exact(width)) {
            self.slots[row.slot].put(heads, values, row.len);
        }
        let HeadConfig { num_heads, num_kv_heads, d_head } = heads;
        let groups: Vec<&[StepRow]> = rows.chunk_by(|a, b| a.prompt == b.prompt).collect();
        let starts: Vec<usize> = groups
            .iter()
            .scan(0, |next, group| {
                *next += group.len();
                Some(*next - group.len())
            })
            .collect();
        let queries_a_key = num_heads / num_kv_heads;
        let part_width = queries_a_key * d_head;
        let parts: Vec<Vec<f32>> = (0..groups.len() * num_kv_heads)
            .into_par_iter()
            .map_init(Scratch::default, |scratch, task| {
                let (group, head) = (task / num_kv_heads, task % num_kv_heads);
                let rows = groups[group];
                let prompt = &self.prompts[rows[0].prompt];
                let own: Vec<(&[f32], &[f32])> =
                    rows.iter().map(|row| self.slots[row.slot].head(heads, head, row.len + 1)).collect();
                let queries = decode::Queries {
                    rows: &qkv[starts[group] * width + head * part_width..],
                    stride: width,
                    heads: queries_a_key,
                    d_head,
                };
                decode::attend(&queries, prompt.head(heads, head, prompt.capacity), &own, scratch)
            })
            .collect();
        let out_width = num_heads * d_head;
        let mut out = vec![0.0; rows.len() * out_width];
        for (task, part) in parts.iter().enumerate() {
            let (group, head) = (task / num_kv_heads, task % num_kv_heads);
            for (row, part) in part.chunks_exact(part_width).enumerate() {
                let start = (starts[group] + row) * out_width + head * part_width;
                out[start..][..part_width].copy_from_slice(part);
            }
        }
        Tensor::from_data(TensorData::new(out, [rows.len(), out_width]), &device)
    }
}

fn turn(rows: &mut [f32], heads: HeadConfig, rotary: Option<&Rotary>) {
    let Some(rotary) = rotary else { return };
    let turned = (heads.num_heads + heads.num_kv_heads) * heads.d_head;
    kernels::rotate_in_place(rows, rotary.tables(), (heads.row_width(), turned, heads.d_head), 1.0);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::tensor::{Distribution, Tolerance};

    use super::*;
    use crate::{RotaryConfig, packed_attention};

    const HEADS: HeadConfig = HeadConfig { num_heads: 4, num_kv_heads: 2, d_head: 8 };

    fn rotary(positions: &[usize]) -> Rotary {
        let positions: Vec<_> = positions.iter().map(|&position| [position; 3]).collect();
        Rotary::new(&RotaryConfig::new(8, 100.0), &positions, &Device::flex())
    }

    fn random(rows: usize) -> Tensor<2> {
        Tensor::random([rows, HEADS.row_width()], Distribution::Normal(0.0, 1.0), &Device::flex())
    }

    /// Prompts of 5 and 3 tokens; two completions of the first, one of the second that starts a step later.
    #[test]
    fn token_by_token_equals_the_packed_pass() {
        let prompts = random(8);
        let completions = [random(3), random(3), random(2)];
        let all = Tensor::cat([vec![prompts.clone()], completions.to_vec()].concat(), 0);
        let positions: Vec<usize> = [0..5, 0..3, 5..8, 5..8, 3..5].into_iter().flatten().collect();
        let layout = AttentionLayout::new(HEADS, &[5, 3], true)
            .with_completions(&[vec![3, 3], vec![2]])
            .with_rotary(rotary(&positions));
        let expected = packed_attention(all, &Arc::new(layout));
        let alone = |rows: Tensor<2>, len: usize| {
            let positions: Vec<usize> = (0..len).collect();
            let layout = AttentionLayout::new(HEADS, &[len], true).with_rotary(rotary(&positions));
            HostKv::of_prompts(&rows, &layout)
        };
        let mut cache = alone(prompts.clone().narrow(0, 0, 5), 5);
        cache.open(2, 3);
        let mut late = alone(prompts.narrow(0, 5, 3), 3);
        late.open(1, 3);
        let row = |prompt, slot, len| StepRow { prompt, slot, len };
        let token = |completion: usize, t: usize| completions[completion].clone().narrow(0, t, 1);
        let first = cache.attend(
            Tensor::cat(vec![token(0, 0), token(1, 0)], 0),
            &rotary(&[5, 5]),
            &[row(0, 0, 0), row(0, 1, 0)],
        );
        cache.append(late);
        let second = cache.attend(
            Tensor::cat(vec![token(0, 1), token(1, 1), token(2, 0)], 0),
            &rotary(&[6, 6, 3]),
            &[row(0, 0, 1), row(0, 1, 1), row(1, 2, 0)],
        );
        // The first completion has ended.
        let open = [row(0, 1, 2), row(1, 2, 1)];
        cache.retain(&open);
        let third = cache.attend(Tensor::cat(vec![token(1, 2), token(2, 1)], 0), &rotary(&[7, 4]), &open);
        let near = |got: Tensor<2>, rows: &[usize]| {
            let rows = crate::indices(rows, &Device::flex());
            let expected = expected.clone().select(0, rows).into_data();
            got.into_data().assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
        };
        near(first, &[8, 11]);
        near(second, &[9, 12, 14]);
        near(third, &[13, 15]);
        assert!(cache.slots[0].key.is_empty(), "a slot that nobody needs gives its memory back");
    }

    #[test]
    fn a_new_token_writes_its_own_place_only() {
        let layout = AttentionLayout::new(HEADS, &[4], true);
        let mut cache = HostKv::of_prompts(&random(4), &layout);
        cache.open(1, 100);
        let at = |cache: &HostKv| (cache.slots[0].key.as_ptr(), cache.prompts[0].key.as_ptr());
        let before = (at(&cache), cache.prompts[0].key.clone());
        for len in 0..3 {
            let row = StepRow { prompt: 0, slot: 0, len };
            cache.attend(random(1), &rotary(&[4 + len]), &[row]);
        }
        assert_eq!((at(&cache), cache.prompts[0].key.clone()), before, "neither moved nor copied");
        let written = |place: usize| cache.slots[0].key[place * 8..][..8].iter().any(|&value| value != 0.0);
        assert!(written(2) && !written(3));
    }
}
