//! Mini-batches: a batch of completions split into several optimizer updates, as PPO's minibatches.
//!
//! Advantages, their whitening and the old log-probabilities are those of the whole batch; the denominators of the loss
//! are those of the part (arXiv 1707.06347, algorithm 1; verl's `ppo_mini_batch_size`, which counts prompts, counts
//! completions here).

use kyoka_algorithms::Reduction;

use super::credited::Credited;

/// The rows of each of `parts` mini-batches: even shares of the `num_fresh` first rows and of the `num_replayed` ones that
/// follow, in order, so that the completions of a prompt stay together where they can.
///
/// Parts without a row are left out.
pub(super) fn split(num_fresh: usize, num_replayed: usize, parts: usize) -> Vec<Vec<usize>> {
    let share = |part: usize, count: usize| part * count / parts..(part + 1) * count / parts;
    let rows = |part: usize| -> Vec<usize> {
        let replayed = share(part, num_replayed).map(|row| num_fresh + row);
        share(part, num_fresh).chain(replayed).collect()
    };
    (0..parts).map(rows).filter(|rows| !rows.is_empty()).collect()
}

impl Credited {
    /// Gives the completions of a mini-batch weights from the lengths of the mini-batch, and all others none.
    pub fn restrict(&mut self, rows: &[usize], reduction: Reduction, max_new_tokens: usize) {
        let lengths: Vec<usize> = rows.iter().map(|&row| self.lengths[row]).collect();
        self.weights.fill(0.0);
        for (&row, weight) in rows.iter().zip(reduction.weights(&lengths, max_new_tokens)) {
            self.weights[row] = if self.left_behind[row] { 0.0 } else { weight };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credited(lengths: Vec<usize>) -> Credited {
        let rows = lengths.len();
        Credited { lengths, weights: vec![0.0; rows], left_behind: vec![false; rows], ..Credited::default() }
    }

    #[test]
    fn every_row_is_in_one_part() {
        assert_eq!(split(6, 0, 1), [[0, 1, 2, 3, 4, 5]]);
        assert_eq!(split(6, 3, 3), [[0, 1, 6], [2, 3, 7], [4, 5, 8]]);
        assert_eq!(split(2, 0, 4), [[0], [1]]);
        for (fresh, replayed, parts) in [(7, 5, 3), (64, 0, 16), (1, 1, 2), (0, 0, 2)] {
            let mut rows = split(fresh, replayed, parts).concat();
            rows.sort_unstable();
            assert_eq!(rows, (0..fresh + replayed).collect::<Vec<_>>(), "{fresh} {replayed} {parts}");
        }
    }

    #[test]
    fn denominators_are_those_of_the_part() {
        let mut credited = credited(vec![1, 3, 0, 4]);
        credited.restrict(&[0, 1], Reduction::TokenMean, 10);
        assert_eq!(credited.weights, [0.25, 0.25, 0.0, 0.0]);
        credited.restrict(&[2, 3], Reduction::SequenceMeanTokenMean, 10);
        assert_eq!(credited.weights, [0.0, 0.0, 0.0, 0.25]);
        credited.restrict(&[2, 3], Reduction::AllRowsTokenMean, 10);
        assert_eq!(credited.weights, [0.0, 0.0, 0.0, 0.125]);
    }

    #[test]
    fn one_part_is_the_batch() {
        for reduction in
            [Reduction::TokenMean, Reduction::SequenceMeanTokenMean, Reduction::SequenceMeanTokenSumNorm]
        {
            let mut credited = credited(vec![1, 3, 0, 4]);
            credited.restrict(&split(4, 0, 1)[0], reduction, 10);
            assert_eq!(credited.weights, reduction.weights(&[1, 3, 0, 4], 10));
        }
    }

    #[test]
    fn what_was_left_behind_keeps_its_place_in_the_denominators() {
        let mut credited = credited(vec![2, 2]);
        credited.left_behind[0] = true;
        credited.restrict(&[0, 1], Reduction::TokenMean, 10);
        assert_eq!(credited.weights, [0.0, 0.25]);
    }
}
