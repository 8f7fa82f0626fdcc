//! What a reference that never moves thinks of the pairs, computed once and kept with the run.

use std::collections::BTreeMap;

use kyoka_core::CausalLm;
use serde::{Deserialize, Serialize};

use super::pair::{Comparison, micro_batches, numbers, score_mismatched, score_pairs};
use crate::TrainError;

/// Log-probabilities of a row under the reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ReferenceLogprobs {
    pub chosen: f32,
    pub rejected: f32,
    pub mismatched: Option<f32>,
}

/// [`ReferenceLogprobs`] by their bits, so that nothing is rounded on disk.
#[derive(Serialize, Deserialize)]
struct Stored {
    row: usize,
    chosen: u32,
    rejected: u32,
    mismatched: Option<u32>,
}

/// By row of the split.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ReferenceTable(BTreeMap<usize, ReferenceLogprobs>);

/// Pairs decoded at once.
const CHUNK: usize = 64;

impl ReferenceTable {
    /// Scores `rows`, a few at a time; `comparison` makes a row's.
    pub fn compute<M: CausalLm>(
        model: &M,
        rows: &[usize],
        token_budget: usize,
        comparison: impl Fn(usize) -> Result<Comparison, TrainError>,
    ) -> Result<Self, TrainError> {
        let mut table = BTreeMap::new();
        for chunk in rows.chunks(CHUNK) {
            let batch = chunk.iter().map(|&row| comparison(row)).collect::<Result<Vec<_>, _>>()?;
            let scores = reference_logprobs(model, &batch, token_budget);
            table.extend(chunk.iter().copied().zip(scores));
        }
        Ok(Self(table))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, row: usize) -> Option<ReferenceLogprobs> {
        self.0.get(&row).copied()
    }

    pub fn state(&self) -> Vec<u8> {
        let stored = |(&row, logprobs): (&usize, &ReferenceLogprobs)| Stored {
            row,
            chosen: logprobs.chosen.to_bits(),
            rejected: logprobs.rejected.to_bits(),
            mismatched: logprobs.mismatched.map(f32::to_bits),
        };
        let rows: Vec<Stored> = self.0.iter().map(stored).collect();
        serde_json::to_vec(&rows).expect("numbers serialise")
    }

    pub fn from_state(state: &[u8]) -> Result<Self, String> {
        let rows: Vec<Stored> = serde_json::from_slice(state).map_err(|error| error.to_string())?;
        let logprobs = |stored: Stored| ReferenceLogprobs {
            chosen: f32::from_bits(stored.chosen),
            rejected: f32::from_bits(stored.rejected),
            mismatched: stored.mismatched.map(f32::from_bits),
        };
        Ok(Self(rows.into_iter().map(|stored| (stored.row, logprobs(stored))).collect()))
    }
}

/// Log-probabilities of every pair of a batch under `model`, without gradient.
pub(super) fn reference_logprobs<M: CausalLm>(
    model: &M,
    batch: &[Comparison],
    token_budget: usize,
) -> Vec<ReferenceLogprobs> {
    let none = ReferenceLogprobs { chosen: 0.0, rejected: 0.0, mismatched: None };
    let mut scores = vec![none; batch.len()];
    for places in micro_batches(batch, token_budget) {
        let (chosen, rejected) = score_pairs(model, batch, &places);
        let sides = numbers(chosen).into_iter().zip(numbers(rejected));
        for (&place, (chosen, rejected)) in places.iter().zip(sides) {
            scores[place] = ReferenceLogprobs { chosen, rejected, mismatched: None };
        }
        let with_other = places.iter().filter(|&&place| batch[place].mismatched.is_some());
        for (&place, logprob) in with_other.zip(score_mismatched(model, batch, &places)) {
            scores[place].mismatched = Some(logprob);
        }
    }
    scores
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_survives_the_disk_to_the_bit() {
        let row = |chosen: f32, mismatched| ReferenceLogprobs { chosen, rejected: -0.1, mismatched };
        let table = ReferenceTable([(3, row(-1e-38, None)), (0, row(-7.3, Some(-2.0)))].into());
        assert_eq!(ReferenceTable::from_state(&table.state()).unwrap(), table);
        assert!(ReferenceTable::from_state(b"{}").is_err());
    }
}
