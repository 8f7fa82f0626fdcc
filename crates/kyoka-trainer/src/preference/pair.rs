//! Comparisons as token ids, scored in micro-batches that never split a pair.

use burn::tensor::{Device, Tensor, TensorData};
use kyoka_core::{CausalLm, Distribution, PackedGroup, Prompt, Task};
use kyoka_data::PreferenceRow;

use crate::{PackItem, TrainError, plan_micro_batches};

/// A prompt with the completions that are scored after it.
pub(crate) struct Comparison {
    pub prompt: Prompt,
    pub chosen: Vec<u32>,
    pub rejected: Vec<u32>,
    /// A completion of another prompt, where the loss wants one.
    pub mismatched: Option<Vec<u32>>,
}

impl Comparison {
    /// Row number `row`; its mismatched completion is one of the next row's, the preferred one in even rows.
    pub fn new(
        task: &dyn Task,
        rows: &[PreferenceRow],
        row: usize,
        with_mismatched: bool,
    ) -> Result<Self, TrainError> {
        let own = &rows[row];
        let encode =
            |row: &PreferenceRow, text: &str| task.encode(text).map_err(TrainError::row(&row.sample));
        let next = &rows[(row + 1) % rows.len()];
        let other = if row.is_multiple_of(2) { &next.chosen } else { &next.rejected };
        let has_other = with_mismatched && rows.len() > 1;
        Ok(Self {
            prompt: task.prompt(&own.sample, None).map_err(TrainError::row(&own.sample))?,
            chosen: encode(own, &own.chosen)?,
            rejected: encode(own, &own.rejected)?,
            mismatched: has_other.then(|| encode(next, other)).transpose()?,
        })
    }

    pub fn num_tokens(&self) -> usize {
        self.chosen.len() + self.rejected.len()
    }
}

/// Places of a batch as micro-batches; both completions of a pair stay together.
pub(crate) fn micro_batches(batch: &[Comparison], token_budget: usize) -> Vec<Vec<usize>> {
    let item = |pair: &Comparison| PackItem {
        prompt_len: pair.prompt.len(),
        completion_lens: vec![pair.num_tokens() + pair.mismatched.as_ref().map_or(0, Vec::len)],
    };
    let items: Vec<PackItem> = batch.iter().map(item).collect();
    let planned = plan_micro_batches(&items, token_budget);
    planned.into_iter().map(|batch| batch.into_iter().map(|(place, _)| place).collect()).collect()
}

/// The pairs at `places` as groups of two completions, the chosen one first.
pub(crate) fn pair_groups<'a>(batch: &'a [Comparison], places: &[usize]) -> Vec<PackedGroup<'a>> {
    let group = |&place: &usize| {
        let Comparison { prompt, chosen, rejected, .. } = &batch[place];
        PackedGroup { prompt, completions: vec![chosen.into(), rejected.into()] }
    };
    places.iter().map(group).collect()
}

/// A number of each completion of pairs: of the chosen and of the rejected ones.
///
/// # Shapes
/// - input: `[2 N]` or `[2 N, 1]`, as [`pair_groups`] orders them
/// - output: `[N]` each
pub(crate) fn sides<const D: usize>(of_completions: Tensor<D>) -> (Tensor<1>, Tensor<1>) {
    let n = of_completions.dims()[0] / 2;
    let of_completions: Tensor<2> = of_completions.reshape([n, 2]);
    let column = |place: usize| of_completions.clone().narrow(1, place, 1).reshape([n]);
    (column(0), column(1))
}

/// Log-probabilities of the chosen and of the rejected completions at `places`, `[N]` each.
pub(crate) fn score_pairs<M: CausalLm>(
    model: &M,
    batch: &[Comparison],
    places: &[usize],
) -> (Tensor<1>, Tensor<1>) {
    sides(model.score(&pair_groups(batch, places), &Distribution::default()).sum_dim(1))
}

/// Log-probabilities of the mismatched completions at `places`; those without one are left out.
pub(crate) fn score_mismatched<M: CausalLm>(model: &M, batch: &[Comparison], places: &[usize]) -> Vec<f32> {
    let group = |&place: &usize| {
        let completion = batch[place].mismatched.as_deref()?;
        Some(PackedGroup { prompt: &batch[place].prompt, completions: vec![completion.into()] })
    };
    let groups: Vec<PackedGroup<'_>> = places.iter().filter_map(group).collect();
    if groups.is_empty() {
        return Vec::new();
    }
    numbers(model.score(&groups, &Distribution::default()).sum_dim(1).reshape([groups.len()]))
}

pub(crate) fn numbers(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().try_into_vec_as().expect("numbers of a float tensor")
}

/// A vector of a number for each of `places`.
pub(crate) fn vector(device: &Device, places: &[usize], value: impl Fn(usize) -> f32) -> Tensor<1> {
    let values: Vec<f32> = places.iter().map(|&place| value(place)).collect();
    Tensor::from_data(TensorData::new(values, [places.len()]), device)
}
