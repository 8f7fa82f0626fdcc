//! Selective Sample Replay: samples that taught something are trained again (VL-Rethinker, arXiv 2504.08837, section 3.2).
//!
//! A buffer keeps the newest samples with an advantage other than 0; one is drawn with a chance proportional to
//! `|A|^alpha`.
//!
//! Deviation 1: draws are without replacement, so that a batch never holds the same sample twice.

use std::collections::VecDeque;

/// Samples with their advantages, the oldest dropped first.
#[derive(Debug, Clone)]
pub struct ReplayBuffer<T> {
    items: VecDeque<(f32, T)>,
    capacity: usize,
    alpha: f64,
}

impl<T: Clone> ReplayBuffer<T> {
    /// An empty buffer of at most `capacity` samples; `alpha` of 0 draws evenly, 1 in proportion to `|A|`.
    pub fn new(capacity: usize, alpha: f64) -> Self {
        Self { items: VecDeque::new(), capacity, alpha }
    }

    /// Keeps a sample, unless its advantage is 0 or no number.
    pub fn push(&mut self, advantage: f32, item: T) {
        if advantage == 0.0 || !advantage.is_finite() || self.capacity == 0 {
            return;
        }
        if self.items.len() == self.capacity {
            self.items.pop_front();
        }
        self.items.push_back((advantage, item));
    }

    /// All samples, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter().map(|(_, item)| item)
    }

    /// Samples held.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Draws up to `count` samples; `uniform` gives numbers in `[0, 1)`, from a seeded generator.
    pub fn draw(&self, count: usize, mut uniform: impl FnMut() -> f64) -> Vec<T> {
        let mut left: Vec<(f64, usize)> = self
            .items
            .iter()
            .enumerate()
            .map(|(i, (a, _))| (f64::from(a.abs()).powf(self.alpha), i))
            .collect();
        let mut drawn = Vec::new();
        while drawn.len() < count && !left.is_empty() {
            let total: f64 = left.iter().map(|(weight, _)| weight).sum();
            let mut target = uniform() * total;
            let found = left.iter().position(|(weight, _)| {
                target -= weight;
                target < 0.0
            });
            let (_, index) = left.remove(found.unwrap_or(left.len() - 1));
            drawn.push(self.items[index].1.clone());
        }
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_advantage() {
        let mut buffer = ReplayBuffer::new(3, 1.0);
        for (advantage, name) in [(9.0, "dropped"), (1.0, "a"), (0.0, "none"), (-3.0, "b"), (1.0, "c")] {
            buffer.push(advantage, name);
        }
        assert_eq!(buffer.len(), 3);
        // Shares: a up to 0.2, b up to 0.8, c up to 1.
        for (uniform, expected) in [(0.1, "a"), (0.3, "b"), (0.79, "b"), (0.81, "c")] {
            assert_eq!(buffer.draw(1, || uniform), [expected]);
        }
        assert_eq!(buffer.draw(9, || 0.0), ["a", "b", "c"]);
    }

    #[test]
    fn an_empty_buffer_gives_nothing() {
        assert!(ReplayBuffer::<u8>::new(0, 1.0).draw(2, || 0.5).is_empty());
    }
}
