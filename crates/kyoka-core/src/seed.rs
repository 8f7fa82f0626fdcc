//! Randomness as a function of where it is used.
//!
//! Every draw comes from a generator derived from the run's seed, the purpose and the indices of the place, so a
//! resumed run draws the same numbers without any generator state on disk.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What the numbers are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Initial weights.
    Init = 1,
    /// Order of the rows of an epoch.
    Shuffle = 2,
    /// Picture and sound augmentation.
    Augment = 3,
    /// Tokens of rollouts.
    Rollout = 4,
    /// Making of datasets.
    Data = 5,
    /// Completions that are replayed.
    Replay = 6,
    /// What adapters drop in training.
    Dropout = 7,
    /// Episodes of environments.
    Environment = 8,
    /// Rows that each head of an ensemble learns from.
    Bootstrap = 9,
}

/// A generator for one purpose at one place.
pub fn stream_rng(seed: u64, stream: Stream, indices: &[u64]) -> ChaCha8Rng {
    let mut state = mix(seed ^ mix(stream as u64));
    for &index in indices {
        state = mix(state ^ mix(index.wrapping_add(0x9e37_79b9_7f4a_7c15)));
    }
    ChaCha8Rng::seed_from_u64(state)
}

/// SplitMix64's finaliser (Steele, Lea, Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn same_place_gives_same_numbers_and_other_places_others() {
        let draw = |indices: &[u64]| stream_rng(7, Stream::Rollout, indices).next_u64();
        assert_eq!(draw(&[1, 2]), draw(&[1, 2]));
        assert_ne!(draw(&[1, 2]), draw(&[2, 1]));
        assert_ne!(draw(&[1, 2]), stream_rng(7, Stream::Augment, &[1, 2]).next_u64());
        assert_ne!(draw(&[0]), draw(&[0, 0]));
    }
}
