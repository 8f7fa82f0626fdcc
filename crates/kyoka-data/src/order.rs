//! Which row comes when.

use std::sync::Mutex;

use kyoka_core::{Stream, stream_rng};
use rand::seq::SliceRandom;

/// An endless order of rows: every epoch holds each row once, shuffled by seed and epoch.
///
/// The order is a function of the position alone, so the position is all that a checkpoint keeps.
#[derive(Debug)]
pub struct Shuffled {
    num_rows: usize,
    seed: u64,
    epoch: Mutex<Option<(u64, Vec<usize>)>>,
}

impl Shuffled {
    /// An order over `num_rows` rows.
    ///
    /// # Panics
    /// If there is no row.
    pub fn new(num_rows: usize, seed: u64) -> Self {
        assert!(num_rows > 0, "shuffled order: expected at least one row, got none");
        Self { num_rows, seed, epoch: Mutex::new(None) }
    }

    /// The row at a position, counted from the start of the run.
    pub fn row(&self, position: u64) -> usize {
        let (epoch, place) = (position / self.num_rows as u64, position % self.num_rows as u64);
        let mut cached = self.epoch.lock().expect("no code panics while it holds the lock");
        if cached.as_ref().is_none_or(|(number, _)| *number != epoch) {
            let mut rows: Vec<usize> = (0..self.num_rows).collect();
            rows.shuffle(&mut stream_rng(self.seed, Stream::Shuffle, &[epoch]));
            *cached = Some((epoch, rows));
        }
        cached.as_ref().expect("filled above").1[place as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_holds_each_row_once_in_its_own_order() {
        let order = Shuffled::new(50, 3);
        let epoch = |number: u64| (0..50).map(|i| order.row(number * 50 + i)).collect::<Vec<_>>();
        let (first, second) = (epoch(0), epoch(1));
        assert_ne!(first, second);
        for rows in [first.clone(), second] {
            let mut sorted = rows;
            sorted.sort_unstable();
            assert_eq!(sorted, (0..50).collect::<Vec<_>>());
        }
        assert_eq!(first, epoch(0), "a position names the same row whenever it is asked");
    }
}
