//! Groups of completions as rows of one pass.

use burn::tensor::Tensor;
use kyoka_core::PackedGroup;
use kyoka_nn::{Position, indices};

/// Where the tokens of a batch of prompts stand.
#[derive(Debug, Clone, Default)]
pub(crate) struct PromptPlaces {
    /// Tokens of each prompt.
    pub lengths: Vec<usize>,
    /// Position of every token, prompt after prompt.
    pub positions: Vec<Position>,
    /// Position of each prompt's first completion token.
    pub next: Vec<usize>,
}

impl PromptPlaces {
    /// Prompts of running text.
    #[cfg(test)]
    pub fn text(lengths: &[usize]) -> Self {
        let positions = lengths.iter().flat_map(|&len| (0..len).map(|place| [place; 3])).collect();
        Self { lengths: lengths.to_vec(), positions, next: lengths.to_vec() }
    }
}

/// The rows of a training pass: all prompts, then all completions prompt by prompt, nothing padded.
pub(crate) struct Packing {
    /// Tokens of each prompt.
    pub prompt_lens: Vec<usize>,
    /// Tokens that are read of each completion: all but the last.
    pub completion_lens: Vec<Vec<usize>>,
    /// Position of every row.
    pub positions: Vec<Position>,
    /// Token ids of the completions' rows.
    pub completion_ids: Vec<usize>,
    /// For every target, the row that predicts it.
    pub predictors: Vec<usize>,
    /// Token ids to predict, completion by completion.
    pub targets: Vec<usize>,
    /// For every place of the `[R, T]` result, the target it holds; the number of targets where padded.
    pub places: Vec<usize>,
    /// Rows and columns of the result.
    pub shape: [usize; 2],
}

impl Packing {
    pub fn new(groups: &[PackedGroup<'_>], places: PromptPlaces) -> Self {
        let completions = || groups.iter().flat_map(|group| &group.completions);
        let longest = completions().map(|ids| ids.len()).max().unwrap_or(0);
        assert!(longest > 0, "score: expected at least one completion token, got none");
        let read = |group: &PackedGroup<'_>| group.completions.iter().map(|ids| ids.len() - 1).collect();
        if let Some(b) = groups.iter().position(|group| group.prompt.is_empty()) {
            panic!("score: the prompt of group {b} is empty");
        }
        if let Some(row) = completions().position(|ids| ids.is_empty()) {
            panic!("score: completion {row} is empty");
        }
        let num_targets: usize = completions().map(|ids| ids.len()).sum();
        let mut packing = Self {
            completion_lens: groups.iter().map(read).collect(),
            positions: places.positions,
            completion_ids: Vec::new(),
            predictors: Vec::with_capacity(num_targets),
            targets: Vec::with_capacity(num_targets),
            places: Vec::new(),
            shape: [completions().count(), longest],
            prompt_lens: places.lengths,
        };
        let mut prompt_end = 0;
        for (group, &first_position) in groups.iter().zip(&places.next) {
            prompt_end += group.prompt.len();
            for ids in &group.completions {
                // The prompt's last row predicts the first token, every token's row the next one.
                packing.predictors.push(prompt_end - 1);
                let start = packing.positions.len();
                packing.predictors.extend(start..start + ids.len() - 1);
                packing.positions.extend((0..ids.len() - 1).map(|t| [first_position + t; 3]));
                packing.completion_ids.extend(ids[..ids.len() - 1].iter().map(|&id| id as usize));
                let first = packing.targets.len();
                packing.targets.extend(ids.iter().map(|&id| id as usize));
                packing
                    .places
                    .extend((0..longest).map(|t| if t < ids.len() { first + t } else { num_targets }));
            }
        }
        packing
    }

    /// One row a target to `[R, T, D]`, 0 where padded.
    pub fn unpack(&self, rows: Tensor<2>) -> Tensor<3> {
        let [_, d] = rows.dims();
        let device = rows.device();
        let padding = Tensor::zeros([1, d], (&device, rows.dtype()));
        let [r, t] = self.shape;
        Tensor::cat(vec![rows, padding], 0).select(0, indices(&self.places, &device)).reshape([r, t, d])
    }
}

#[cfg(test)]
mod tests {
    use kyoka_core::Prompt;

    use super::*;

    #[test]
    fn rows_predictors_and_places_of_two_groups() {
        let prompt = |ids: &[u32]| Prompt { token_ids: ids.to_vec(), ..Prompt::default() };
        let (long, short) = (prompt(&[1, 2, 3]), prompt(&[4]));
        let groups = [
            PackedGroup { prompt: &long, completions: vec![&[10, 11, 12], &[13]] },
            PackedGroup { prompt: &short, completions: vec![&[14, 15]] },
        ];
        let packing = Packing::new(&groups, PromptPlaces::text(&[3, 1]));
        // Rows: prompts 0..3 and 3..4, then 10 11 at 4..6, nothing of 13, 14 at 6..7.
        assert_eq!(packing.positions, [0, 1, 2, 0, 3, 4, 1].map(|position| [position; 3]));
        assert_eq!(packing.completion_ids, [10, 11, 14]);
        assert_eq!(packing.targets, [10, 11, 12, 13, 14, 15]);
        assert_eq!(packing.predictors, [2, 4, 5, 2, 3, 6]);
        assert_eq!(packing.places, [0, 1, 2, 3, 6, 6, 4, 5, 6]);
        assert_eq!(packing.shape, [3, 3]);
    }
}
