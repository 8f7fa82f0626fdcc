//! The completions of a step, packed into micro-batches, and what the loss needs of them.

use burn::tensor::{Bool, DType, Device, Tensor, TensorData};
use kyoka_core::{Distribution, PackedGroup, Rollout};

use super::groups::JudgedGroup;
use crate::{PackItem, plan_micro_batches};

/// All completions of a step, numbered group by group.
pub(super) struct Rows<'a> {
    groups: &'a [JudgedGroup<'a>],
    first_row: Vec<usize>,
    scoring: Scoring<'a>,
}

/// How the completions of a step are scored.
#[derive(Clone, Copy)]
pub(super) struct Scoring<'a> {
    /// Most tokens a micro-batch.
    pub token_budget: usize,
    /// Whether layers are computed again on the way back.
    pub recompute: bool,
    /// What the completions were drawn from.
    pub distribution: Distribution<'a>,
}

/// A completion of a micro-batch.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub rollout: &'a Rollout,
    /// Its number in the step.
    pub number: usize,
}

/// Completions that go through the model together.
pub(super) struct MicroBatch<'a> {
    pub rows: Vec<Row<'a>>,
    pub packed: Vec<PackedGroup<'a>>,
    /// What every log-probability, divergence and entropy of the completions is of.
    pub distribution: Distribution<'a>,
}

impl<'a> Rows<'a> {
    pub fn new(groups: &'a [JudgedGroup<'a>], scoring: Scoring<'a>) -> Self {
        let first = groups.iter().scan(0, |next, group| {
            *next += group.rollouts.len();
            Some(*next - group.rollouts.len())
        });
        Self { groups, first_row: first.collect(), scoring }
    }

    /// Whether layers are computed again on the way back.
    pub fn recompute(&self) -> bool {
        self.scoring.recompute
    }

    pub fn iter(&self) -> impl Iterator<Item = &'a Rollout> {
        self.groups.iter().flat_map(|group| &group.rollouts)
    }

    /// The completions for which `taken` holds, as micro-batches.
    pub fn micro_batches(&self, taken: impl Fn(usize) -> bool) -> Vec<MicroBatch<'a>> {
        let places = |group: usize| -> Vec<usize> {
            let all = 0..self.groups[group].rollouts.len();
            all.filter(|place| taken(self.first_row[group] + place)).collect()
        };
        let items: Vec<(usize, Vec<usize>)> = (0..self.groups.len())
            .map(|group| (group, places(group)))
            .filter(|(_, places)| !places.is_empty())
            .collect();
        let rollout = |group: usize, place: usize| &self.groups[group].rollouts[place];
        let pack_items: Vec<PackItem> = items
            .iter()
            .map(|(group, places)| PackItem {
                prompt_len: self.groups[*group].prompt.len(),
                completion_lens: places.iter().map(|&place| rollout(*group, place).num_tokens()).collect(),
            })
            .collect();
        let micro_batch = |parts: Vec<(usize, Vec<usize>)>| {
            let distribution = self.scoring.distribution;
            let mut batch = MicroBatch { rows: Vec::new(), packed: Vec::new(), distribution };
            for (item, chosen) in parts {
                let (group, places) = &items[item];
                let rows = chosen.iter().map(|&at| Row {
                    rollout: rollout(*group, places[at]),
                    number: self.first_row[*group] + places[at],
                });
                let rows: Vec<Row<'a>> = rows.collect();
                let completions = rows.iter().map(|row| row.rollout.into()).collect();
                batch.packed.push(PackedGroup { prompt: &self.groups[*group].prompt, completions });
                batch.rows.extend(rows);
            }
            batch
        };
        plan_micro_batches(&pack_items, self.scoring.token_budget).into_iter().map(micro_batch).collect()
    }

    /// A number for every token of every completion, without gradient: `evaluate` gives `[R, T]` for a micro-batch.
    pub fn tokens(&self, evaluate: impl Fn(&MicroBatch<'a>) -> Tensor<2>) -> Vec<Vec<f32>> {
        let mut numbers: Vec<Vec<f32>> = vec![Vec::new(); self.iter().count()];
        for batch in self.micro_batches(|_| true) {
            let table = evaluate(&batch);
            let [_, t] = table.dims();
            let values: Vec<f32> = table.into_data().try_into_vec_as().expect("numbers of a float tensor");
            for (row, values) in batch.rows.iter().zip(values.chunks_exact(t.max(1))) {
                numbers[row.number] = values[..row.rollout.token_ids.len()].to_vec();
            }
        }
        numbers
    }
}

impl MicroBatch<'_> {
    /// A `[R, T]` tensor of 32-bit numbers, one a token; padding holds 0.
    pub fn table(&self, device: &Device, value: &dyn Fn(Row<'_>, usize) -> f32) -> Tensor<2> {
        let t = self.rows.iter().map(|row| row.rollout.token_ids.len()).max().unwrap_or(0);
        let mut values = vec![0.0; self.rows.len() * t];
        for (place, row) in self.rows.iter().enumerate() {
            for token in 0..row.rollout.token_ids.len() {
                values[place * t + token] = value(*row, token);
            }
        }
        Tensor::from_data(TensorData::new(values, [self.rows.len(), t]), (device, DType::F32))
    }

    /// True on the tokens for which `counts` holds.
    pub fn mask(&self, device: &Device, counts: &dyn Fn(Row<'_>, usize) -> bool) -> Tensor<2, Bool> {
        self.table(device, &|row, token| f32::from(counts(row, token))).greater_scalar(0.5)
    }
}
