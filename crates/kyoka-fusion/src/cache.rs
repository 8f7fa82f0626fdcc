//! The cache of a decoder: prompts once, completions in slots.

use burn::tensor::Device;
use kyoka_nn::{CompletionKv, HostKv, Position, PrefixKv, StepRow, indices};

use crate::packing::PromptPlaces;

/// Keys and values of a batch of prompts and of the completions under way.
pub enum DecoderCache {
    /// In host memory, for the CPU: rows come and go one by one.
    Host(HostCache),
    /// In tensors on a device: rows in rectangles, one for all prompts that were read together.
    Device(Vec<DeviceCache>),
}

impl DecoderCache {
    /// Number of open rows.
    pub fn num_rows(&self) -> usize {
        match self {
            Self::Host(cache) => cache.rows.len(),
            Self::Device(cohorts) => cohorts.iter().map(|cohort| cohort.slots.len()).sum(),
        }
    }

    /// Keeps the given rows, in increasing order.
    pub(crate) fn retain(&mut self, rows: &[usize], device: &Device) {
        match self {
            Self::Host(cache) => cache.retain(rows),
            Self::Device(cohorts) => retain_in_cohorts(cohorts, rows, device),
        }
    }

    /// Rows of `more` come after the own ones.
    ///
    /// # Panics
    /// If one lies in host memory and the other does not.
    pub(crate) fn append(&mut self, more: Self) {
        match (self, more) {
            (Self::Host(cache), Self::Host(more)) => cache.append(more),
            (Self::Device(cohorts), Self::Device(more)) => cohorts.extend(more),
            _ => panic!("cache: rows of a host cache and of a device cache cannot be joined"),
        }
    }
}

/// Rows are numbered cohort by cohort; a cohort without rows goes.
fn retain_in_cohorts(cohorts: &mut Vec<DeviceCache>, rows: &[usize], device: &Device) {
    let mut first = 0;
    cohorts.retain_mut(|cohort| {
        let count = cohort.slots.len();
        let own: Vec<usize> = rows
            .iter()
            .filter(|&&row| (first..first + count).contains(&row))
            .map(|row| row - first)
            .collect();
        first += count;
        if !own.is_empty() && own.len() < count {
            cohort.retain(&own, device);
        }
        !own.is_empty()
    });
}

/// Takes the given open rows out of their rectangles, each into one of its own behind all others; gives the number of
/// rectangles before them.
pub(crate) fn split_off(cohorts: &mut Vec<DeviceCache>, rows: &[usize], device: &Device) -> usize {
    let (mut alone, mut kept, mut first) = (Vec::with_capacity(rows.len()), Vec::new(), 0);
    for cohort in cohorts.iter() {
        for row in first..first + cohort.slots.len() {
            match rows.binary_search(&row) {
                Ok(_) => alone.push(cohort.alone(row - first, device)),
                Err(_) => kept.push(row),
            }
        }
        first += cohort.slots.len();
    }
    retain_in_cohorts(cohorts, &kept, device);
    let others = cohorts.len();
    cohorts.extend(alone);
    others
}

/// Every prompt once, a slot for every completion, nothing padded.
pub struct HostCache {
    pub(crate) layers: Vec<HostKv>,
    /// Position of the first completion token of each prompt.
    pub(crate) starts: Vec<usize>,
    /// Open rows; those of a prompt stand together, unless segments were appended to some.
    pub(crate) rows: Vec<StepRow>,
    /// Position of each row's next token.
    pub(crate) next: Vec<usize>,
    /// Slots opened so far.
    pub(crate) num_slots: usize,
}

impl HostCache {
    pub(crate) fn branch(&mut self, group_size: usize, max_tokens: usize) {
        let slots = self.starts.len() * group_size;
        self.layers.iter_mut().for_each(|layer| layer.open(slots, max_tokens));
        self.rows = (0..slots).map(|slot| StepRow { prompt: slot / group_size, slot, len: 0 }).collect();
        self.next = self.rows.iter().map(|row| self.starts[row.prompt]).collect();
        self.num_slots = slots;
    }

    /// Puts the given rows, in increasing order, behind all others.
    fn move_to_end(&mut self, rows: &[usize]) {
        let others = (0..self.rows.len()).filter(|row| rows.binary_search(row).is_err());
        let order: Vec<usize> = others.chain(rows.iter().copied()).collect();
        self.rows = order.iter().map(|&row| self.rows[row]).collect();
        self.next = order.iter().map(|&row| self.next[row]).collect();
    }

    /// Makes room in the rows for segments of which `places` tells, behind all other rows: where each of their tokens goes,
    /// and its position.
    pub(crate) fn extend(&mut self, rows: &[usize], places: &PromptPlaces) -> (Vec<StepRow>, Vec<Position>) {
        self.move_to_end(rows);
        let first = self.rows.len() - rows.len();
        let (mut steps, mut positions) = (Vec::new(), Vec::with_capacity(places.positions.len()));
        let own = places.lengths.iter().zip(&places.next);
        for ((row, next), (&length, &taken)) in
            self.rows[first..].iter_mut().zip(&mut self.next[first..]).zip(own)
        {
            let start = positions.len();
            let tokens = &places.positions[start..start + length];
            positions.extend(tokens.iter().map(|place| place.map(|axis| axis + *next)));
            steps.extend((0..length).map(|t| StepRow { len: row.len + t, ..*row }));
            row.len += length;
            *next += taken;
        }
        (steps, positions)
    }

    pub(crate) fn retain(&mut self, rows: &[usize]) {
        self.rows = rows.iter().map(|&row| self.rows[row]).collect();
        self.next = rows.iter().map(|&row| self.next[row]).collect();
        self.layers.iter_mut().for_each(|layer| layer.retain(&self.rows));
    }

    /// Rows of `more` come after the own ones.
    pub(crate) fn append(&mut self, more: Self) {
        let (prompts, slots) = (self.starts.len(), self.num_slots);
        let renumbered =
            |row: &StepRow| StepRow { prompt: row.prompt + prompts, slot: row.slot + slots, len: row.len };
        self.rows.extend(more.rows.iter().map(renumbered));
        self.layers.iter_mut().zip(more.layers).for_each(|(layer, more)| layer.append(more));
        self.next.extend(more.next);
        self.starts.extend(more.starts);
        self.num_slots += more.num_slots;
    }
}

/// Completions that were opened together, all of the same length: a rectangle of slots, `G` for each prompt that still
/// has open rows. Rows that finish leave their slot empty; when a quarter of the slots is empty, the rectangle is packed
/// anew.
pub struct DeviceCache {
    pub(crate) prefix: Vec<PrefixKv>,
    pub(crate) completion: Vec<CompletionKv>,
    /// Position of the first completion token of each prompt.
    pub(crate) starts: Vec<usize>,
    /// Slots a prompt.
    pub(crate) group_size: usize,
    /// Completion tokens written.
    pub(crate) t: usize,
    /// Flat slot of each open row.
    pub(crate) slots: Vec<usize>,
}

impl DeviceCache {
    /// Number of slots, empty ones included.
    pub(crate) fn num_slots(&self) -> usize {
        self.starts.len() * self.group_size
    }

    /// Position of the next token in every slot.
    pub(crate) fn positions(&self) -> Vec<Position> {
        let of_prompt = |&start: &usize| std::iter::repeat_n([start + self.t; 3], self.group_size);
        self.starts.iter().flat_map(of_prompt).collect()
    }

    /// What a step reads and writes of one layer: the prompts, the completions, and the place of the new token.
    pub(crate) fn layer(&mut self, index: usize) -> (&PrefixKv, &mut CompletionKv, usize) {
        (&self.prefix[index], &mut self.completion[index], self.t)
    }

    pub(crate) fn branch(&mut self, group_size: usize, max_tokens: usize, device: &Device) {
        let slots = |layer: &PrefixKv| {
            let [b, h, _, d] = layer.key.dims();
            CompletionKv::new([b, h, group_size, max_tokens, d], device)
        };
        self.completion = self.prefix.iter().map(slots).collect();
        self.group_size = group_size;
        self.t = 0;
        self.slots = (0..self.starts.len() * group_size).collect();
    }

    /// Open row number `row` as a rectangle of its own: what it has read so far is its prompt, what is left of its room its
    /// completion's.
    pub(crate) fn alone(&self, row: usize, device: &Device) -> Self {
        let slot = self.slots[row];
        let (b, g) = (slot / self.group_size, slot % self.group_size);
        let layers = self.prefix.iter().zip(&self.completion);
        let prefix: Vec<PrefixKv> =
            layers.clone().map(|(prefix, own)| own.behind(prefix, b, g..g + 1, self.t)).collect();
        let slots = |(_, own): (&PrefixKv, &CompletionKv)| own.alone(self.t, device);
        let completion = layers.map(slots).collect();
        let starts = vec![self.starts[b] + self.t];
        Self { prefix, completion, starts, group_size: 1, t: 0, slots: vec![0] }
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
        if kept.len() < self.starts.len() {
            let rows = indices(&kept, device);
            for layer in &mut self.prefix {
                layer.key = layer.key.clone().select(0, rows.clone());
                layer.value = layer.value.clone().select(0, rows.clone());
                layer.bias = layer.bias.take().map(|bias| bias.select(0, rows.clone()));
            }
            self.starts = kept.iter().map(|&group| self.starts[group]).collect();
        }
        self.slots = groups
            .iter()
            .enumerate()
            .flat_map(|(b, (_, slots))| (0..slots.len()).map(move |g| b * group_size + g))
            .collect();
        self.group_size = group_size;
    }
}
