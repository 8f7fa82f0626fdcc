//! The cache of a decoder: prompts once, completions in slots.

use burn::tensor::Device;
use kyoka_nn::{CompletionKv, PrefixKv, indices};

/// Keys and values of a batch of prompts and of the completions under way.
///
/// Completions sit in a rectangle of slots, `G` for each prompt that still has open rows. Rows that finish leave
/// their slot empty; when a quarter of the slots is empty, or a prompt has no open row, the rectangle is packed anew.
pub struct DecoderCache {
    pub(crate) prefix: Vec<PrefixKv>,
    pub(crate) completion: Vec<CompletionKv>,
    /// Tokens of each prompt.
    pub(crate) prompt_lengths: Vec<usize>,
    /// Slots a prompt.
    pub(crate) group_size: usize,
    /// Completion tokens written.
    pub(crate) t: usize,
    /// Flat slot of each open row.
    pub(crate) slots: Vec<usize>,
}

impl DecoderCache {
    /// Number of slots, empty ones included.
    pub fn num_slots(&self) -> usize {
        self.prompt_lengths.len() * self.group_size
    }

    /// Number of open rows.
    pub fn num_rows(&self) -> usize {
        self.slots.len()
    }

    /// Keeps the given open rows.
    pub(crate) fn retain(&mut self, rows: &[usize], device: &Device) {
        self.slots = rows.iter().map(|&row| self.slots[row]).collect();
        let mut slots_of_group: Vec<(usize, Vec<usize>)> = Vec::new();
        for &slot in &self.slots {
            let group = slot / self.group_size;
            match slots_of_group.last_mut() {
                Some((last, slots)) if *last == group => slots.push(slot),
                _ => slots_of_group.push((group, vec![slot])),
            }
        }
        let group_size = slots_of_group.iter().map(|(_, slots)| slots.len()).max().unwrap_or(0);
        if slots_of_group.len() * group_size * 4 <= self.num_slots() * 3 && group_size > 0 {
            self.pack(&slots_of_group, group_size, device);
        }
    }

    fn pack(&mut self, groups: &[(usize, Vec<usize>)], group_size: usize, device: &Device) {
        // Groups with fewer rows repeat their first slot: its results are not read.
        let flat: Vec<usize> = groups
            .iter()
            .flat_map(|(_, slots)| (0..group_size).map(|g| slots.get(g).copied().unwrap_or(slots[0])))
            .collect();
        let flat = indices(&flat, device);
        for layer in &mut self.completion {
            layer.keep(groups.len(), &flat);
        }
        let kept: Vec<usize> = groups.iter().map(|&(group, _)| group).collect();
        if kept.len() < self.prompt_lengths.len() {
            let rows = indices(&kept, device);
            for layer in &mut self.prefix {
                layer.key = layer.key.clone().select(0, rows.clone());
                layer.value = layer.value.clone().select(0, rows.clone());
                layer.bias = layer.bias.take().map(|bias| bias.select(0, rows.clone()));
            }
            self.prompt_lengths = kept.iter().map(|&group| self.prompt_lengths[group]).collect();
        }
        self.slots = groups
            .iter()
            .enumerate()
            .flat_map(|(b, (_, slots))| (0..slots.len()).map(move |g| b * group_size + g))
            .collect();
        self.group_size = group_size;
    }
}
