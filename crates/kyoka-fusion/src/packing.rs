//! Groups of completions as rows of one pass.

use std::ops::Range;

use burn::tensor::Tensor;
use kyoka_core::{PackedCompletion, PackedGroup, Segment};
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
    /// Token ids of the completions' rows that the policy drew.
    pub completion_ids: Vec<usize>,
    /// Where each row is found among embeddings of prompts, then of observations, then of `completion_ids`; empty where
    /// nothing was observed: they are the rows in their order.
    pub sources: Vec<usize>,
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
    /// Lays out a pass; `seen` are the places of what was observed in the completions, in their order.
    pub fn new(groups: &[PackedGroup<'_>], places: PromptPlaces, seen: &PromptPlaces) -> Self {
        let completions = || groups.iter().flat_map(|group| &group.completions);
        let longest = completions().map(|completion| completion.len()).max().unwrap_or(0);
        assert!(longest > 0, "score: expected at least one completion token, got none");
        if let Some(b) = groups.iter().position(|group| group.prompt.is_empty()) {
            panic!("score: the prompt of group {b} is empty");
        }
        if let Some(row) = completions().position(|completion| completion.is_empty()) {
            panic!("score: completion {row} is empty");
        }
        let num_targets: usize = completions().map(|completion| completion.len()).sum();
        let mut packing = Self {
            completion_lens: Vec::with_capacity(groups.len()),
            completion_ids: Vec::new(),
            sources: (0..places.positions.len()).collect(),
            positions: places.positions,
            predictors: Vec::with_capacity(num_targets),
            targets: Vec::with_capacity(num_targets),
            places: Vec::new(),
            shape: [completions().count(), longest],
            prompt_lens: places.lengths,
        };
        let mut observed = Observed { places: seen, first_row: packing.positions.len(), segment: 0, row: 0 };
        let mut prompt_end = 0;
        for (group, &first_position) in groups.iter().zip(&places.next) {
            prompt_end += group.prompt.len();
            let mut lens = Vec::with_capacity(group.completions.len());
            for completion in &group.completions {
                let first = packing.targets.len();
                lens.push(packing.add(*completion, (prompt_end - 1, first_position), &mut observed));
                let held = |t| if t < completion.len() { first + t } else { num_targets };
                packing.places.extend((0..longest).map(held));
            }
            packing.completion_lens.push(lens);
        }
        if observed.places.lengths.is_empty() {
            packing.sources.clear();
        }
        packing
    }

    /// Adds the rows of a completion whose first token the row `predictor` predicts; gives their number.
    fn add(
        &mut self,
        completion: PackedCompletion<'_>,
        (mut predictor, mut position): (usize, usize),
        observed: &mut Observed<'_>,
    ) -> usize {
        let start = self.positions.len();
        let first_drawn = observed.first_row + observed.places.positions.len();
        for segment in completion.segments() {
            match segment {
                Segment::Policy(tokens) => {
                    for t in tokens {
                        // The prompt's last row predicts the first token, every row what comes behind it.
                        let id = completion.token_ids[t] as usize;
                        self.predictors.push(predictor);
                        self.targets.push(id);
                        if t + 1 == completion.len() {
                            break;
                        }
                        predictor = self.positions.len();
                        self.positions.push([position; 3]);
                        self.sources.push(first_drawn + self.completion_ids.len());
                        self.completion_ids.push(id);
                        position += 1;
                    }
                }
                Segment::Environment(_) => {
                    let (rows, next) = observed.next();
                    let places = &observed.places.positions[rows.clone()];
                    self.positions.extend(places.iter().map(|place| place.map(|axis| axis + position)));
                    self.sources.extend(rows.map(|row| observed.first_row + row));
                    predictor = self.positions.len() - 1;
                    position += next;
                }
            }
        }
        self.positions.len() - start
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

/// What was observed in the completions of a pass, one segment after the other.
struct Observed<'a> {
    places: &'a PromptPlaces,
    /// Where their embeddings begin.
    first_row: usize,
    segment: usize,
    row: usize,
}

impl Observed<'_> {
    /// Rows of the next segment among those observed, and the positions that it takes.
    fn next(&mut self) -> (Range<usize>, usize) {
        let rows = self.row..self.row + self.places.lengths[self.segment];
        let next = self.places.next[self.segment];
        (self.row, self.segment) = (rows.end, self.segment + 1);
        (rows, next)
    }
}

#[cfg(test)]
mod tests {
    use kyoka_core::{AnsweredTurn, Prompt};

    use super::*;

    #[test]
    fn rows_predictors_and_places_of_two_groups() {
        let prompt = |ids: &[u32]| Prompt { token_ids: ids.to_vec(), ..Prompt::default() };
        let (long, short) = (prompt(&[1, 2, 3]), prompt(&[4]));
        let groups = [
            PackedGroup { prompt: &long, completions: vec![(&[10, 11, 12]).into(), (&[13]).into()] },
            PackedGroup { prompt: &short, completions: vec![(&[14, 15]).into()] },
        ];
        let packing = Packing::new(&groups, PromptPlaces::text(&[3, 1]), &PromptPlaces::default());
        // Rows: prompts 0..3 and 3..4, then 10 11 at 4..6, nothing of 13, 14 at 6..7.
        assert_eq!(packing.positions, [0, 1, 2, 0, 3, 4, 1].map(|position| [position; 3]));
        assert_eq!(packing.completion_ids, [10, 11, 14]);
        assert_eq!(packing.targets, [10, 11, 12, 13, 14, 15]);
        assert_eq!(packing.predictors, [2, 4, 5, 2, 3, 6]);
        assert_eq!(packing.places, [0, 1, 2, 3, 6, 6, 4, 5, 6]);
        assert_eq!(packing.shape, [3, 3]);
        assert!(packing.sources.is_empty(), "rows stand as they are embedded");
    }

    #[test]
    fn what_was_observed_is_read_where_it_stands_and_predicts_what_comes_behind_it() {
        let prompt = |ids: &[u32]| Prompt { token_ids: ids.to_vec(), ..Prompt::default() };
        let (asked, seen) = (prompt(&[1, 2]), prompt(&[20, 21]));
        let turn = |end, observation| AnsweredTurn { end, reward: None, observation };
        // 10 11 | 20 21 | 12 13, whose last turn ended without an answer; and 14 alone.
        let turns = [turn(2, Some(seen)), turn(4, None)];
        let first = PackedCompletion { token_ids: &[10, 11, 12, 13], turns: &turns };
        let groups = [PackedGroup { prompt: &asked, completions: vec![first, (&[14]).into()] }];
        let packing = Packing::new(&groups, PromptPlaces::text(&[2]), &PromptPlaces::text(&[2]));
        // Rows: the prompt 0..2, then 10 11 20 21 12 at 2..7.
        assert_eq!(packing.positions, [0, 1, 2, 3, 4, 5, 6].map(|position| [position; 3]));
        assert_eq!(packing.completion_ids, [10, 11, 12]);
        assert_eq!(packing.sources, [0, 1, 4, 5, 2, 3, 6]);
        assert_eq!(packing.targets, [10, 11, 12, 13, 14]);
        assert_eq!(packing.predictors, [1, 2, 5, 6, 1]);
        assert_eq!((packing.completion_lens, packing.shape), (vec![vec![5, 0]], [2, 4]));
    }
}
