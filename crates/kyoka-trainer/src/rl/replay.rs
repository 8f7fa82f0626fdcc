//! Selective Sample Replay: completions that taught something are trained again.
//!
//! The buffer belongs to the run's state: a checkpoint holds it, and a resumed run draws what an undisturbed one draws.

use kyoka_algorithms::{ReplaySettings, filter::ReplayBuffer};
use kyoka_core::{Prompt, Rollout, Sample, StopReason, Stream, stream_rng};
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::{
    credited::Credited,
    groups::{JudgedGroup, Place},
};

/// A completion as it was when it was sampled.
#[derive(Debug, Clone)]
pub(super) struct Replayed {
    /// Its row of the split, and the place of the row's random changes: they make the same prompt again.
    pub row: usize,
    pub place: Place,
    pub rollout: Rollout,
    pub advantages: Vec<f32>,
    /// Log-probabilities that the ratio is taken against: those of the policy that sampled it, as the trainer scored it
    /// where the mismatch is corrected. What lies between it and the policy of today is drift, which the ratio is for.
    pub old_logprobs: Vec<f32>,
    /// Factors of the loss for the mismatch of then; empty without a correction.
    pub corrections: Vec<f64>,
    /// Tokens that a rejection left; empty without one.
    pub kept: Vec<bool>,
    pub right: bool,
}

/// A [`Replayed`] on disk; numbers by their bits, so that nothing is rounded.
#[derive(Serialize, Deserialize)]
struct Stored {
    row: usize,
    place: Place,
    token_ids: Vec<u32>,
    logprob_bits: Vec<u32>,
    advantage_bits: Vec<u32>,
    /// Absent in buffers of earlier versions: the sampler's.
    #[serde(default)]
    old_logprob_bits: Option<Vec<u32>>,
    #[serde(default)]
    correction_bits: Vec<u64>,
    #[serde(default)]
    kept: Vec<bool>,
    stop_reason: StopReason,
    right: bool,
}

/// The buffer and how it is used.
pub(super) struct Replay {
    settings: ReplaySettings,
    buffer: ReplayBuffer<Replayed>,
}

/// Mean magnitude of a completion's advantages.
pub(super) fn magnitude(advantages: &[f32]) -> f32 {
    advantages.iter().map(|a| a.abs()).sum::<f32>() / advantages.len().max(1) as f32
}

impl Replay {
    /// An empty buffer.
    pub fn new(settings: ReplaySettings) -> Self {
        Self { settings, buffer: ReplayBuffer::new(settings.capacity, settings.alpha) }
    }

    /// Completions to train beside `fresh` new ones, at `place` of the run.
    pub fn draw(&self, fresh: usize, seed: u64, place: &[u64]) -> Vec<Replayed> {
        let share = self.settings.share;
        let count = (fresh as f64 * share / (1.0 - share)).round() as usize;
        let mut rng = stream_rng(seed, Stream::Replay, place);
        self.buffer.draw(count, || (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64)
    }

    /// Keeps the completions of a step that have credit and were not filtered out.
    pub fn keep(&mut self, fresh: &[JudgedGroup<'_>], credited: &Credited) {
        let rollouts =
            fresh.iter().flat_map(|group| group.rollouts.iter().map(move |rollout| (group, rollout)));
        for (number, (group, rollout)) in rollouts.enumerate() {
            let advantages = &credited.advantages[number];
            if credited.weights[number] == 0.0 {
                continue;
            }
            let item = Replayed {
                row: group.row,
                place: group.place,
                // The entropies of a policy of long ago are of no use.
                rollout: Rollout { entropies: Vec::new(), ..rollout.clone() },
                advantages: advantages.clone(),
                old_logprobs: credited.old_logprobs[number].clone(),
                corrections: credited.corrections.get(number).cloned().unwrap_or_default(),
                kept: credited.kept.get(number).cloned().unwrap_or_default(),
                right: credited.right[number],
            };
            self.buffer.push(magnitude(advantages), item);
        }
    }

    /// The buffer as text.
    pub fn state(&self) -> Vec<u8> {
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect();
        let stored = |item: &Replayed| Stored {
            row: item.row,
            place: item.place,
            token_ids: item.rollout.token_ids.clone(),
            logprob_bits: bits(&item.rollout.logprobs),
            advantage_bits: bits(&item.advantages),
            old_logprob_bits: Some(bits(&item.old_logprobs)),
            correction_bits: item.corrections.iter().map(|value| value.to_bits()).collect(),
            kept: item.kept.clone(),
            stop_reason: item.rollout.stop_reason,
            right: item.right,
        };
        let items: Vec<Stored> = self.buffer.iter().map(stored).collect();
        serde_json::to_vec(&items).expect("numbers and names serialise")
    }

    /// The buffer that [`state`](Self::state) wrote, over a split of `num_rows`.
    pub fn restore(&mut self, state: &[u8], num_rows: usize) -> Result<(), String> {
        let items: Vec<Stored> = serde_json::from_slice(state).map_err(|error| error.to_string())?;
        let values = |bits: Vec<u32>| -> Vec<f32> { bits.into_iter().map(f32::from_bits).collect() };
        let mut buffer = ReplayBuffer::new(self.settings.capacity, self.settings.alpha);
        for (number, item) in items.into_iter().enumerate() {
            let expected = item.token_ids.len();
            let old_logprob_bits = item.old_logprob_bits.unwrap_or_else(|| item.logprob_bits.clone());
            let lengths = [item.logprob_bits.len(), item.advantage_bits.len(), old_logprob_bits.len()];
            let optional = [item.correction_bits.len(), item.kept.len()];
            let fits = optional.iter().all(|&length| length == 0 || length == expected);
            if lengths != [expected; 3] || !fits || item.row >= num_rows {
                return Err(format!(
                    "completion {number}: expected a row below {num_rows} and {expected} numbers a token, got row {} and {lengths:?}, {optional:?}",
                    item.row
                ));
            }
            let advantages = values(item.advantage_bits);
            let (logprobs, stop_reason) = (values(item.logprob_bits), item.stop_reason);
            let rollout = Rollout::of_turn(item.token_ids, logprobs, Vec::new(), stop_reason);
            buffer.push(
                magnitude(&advantages),
                Replayed {
                    row: item.row,
                    place: item.place,
                    rollout,
                    advantages,
                    old_logprobs: values(old_logprob_bits),
                    corrections: item.correction_bits.into_iter().map(f64::from_bits).collect(),
                    kept: item.kept,
                    right: item.right,
                },
            );
        }
        self.buffer = buffer;
        Ok(())
    }
}

impl Replayed {
    /// A group of this completion alone, its prompt made again; it is not judged anew.
    pub fn group<'a>(&self, sample: &'a Sample, prompt: Prompt) -> JudgedGroup<'a> {
        JudgedGroup {
            sample,
            row: self.row,
            place: self.place,
            prompt,
            rollouts: vec![self.rollout.clone()],
            completions: Vec::new(),
            rewards: Vec::new(),
            greedy_total: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(row: usize, advantage: f32) -> Replayed {
        let logprobs = vec![-0.1, f32::MIN_POSITIVE];
        let rollout = Rollout::of_turn(vec![3, 4], logprobs, Vec::new(), StopReason::EndToken);
        Replayed {
            row,
            place: [1, u64::MAX, 2, 3],
            rollout,
            advantages: vec![advantage; 2],
            old_logprobs: vec![-0.2, f32::MIN_POSITIVE],
            corrections: vec![1.0, 0.1 + 0.2],
            kept: vec![true, false],
            right: true,
        }
    }

    fn replay() -> Replay {
        let mut replay = Replay::new(ReplaySettings { share: 0.25, capacity: 4, alpha: 1.0 });
        for (row, advantage) in [(0, 0.3), (1, -2.0), (2, 1e-7)] {
            replay.buffer.push(advantage, item(row, advantage));
        }
        replay
    }

    #[test]
    fn a_restored_buffer_draws_the_same_bits() {
        let (first, mut second) = (replay(), Replay::new(replay().settings));
        second.restore(&first.state(), 3).unwrap();
        assert_eq!(second.state(), first.state());
        for step in 0..20 {
            // A quarter of the whole batch: one replayed beside three fresh ones.
            let rows = |replay: &Replay| -> Vec<usize> {
                replay.draw(3, 7, &[0, step]).iter().map(|item| item.row).collect()
            };
            assert_eq!((rows(&first).len(), rows(&first)), (1, rows(&second)));
        }
    }

    #[test]
    fn a_buffer_of_another_split_is_refused() {
        let error = replay().restore(&replay().state(), 2).unwrap_err();
        assert!(error.contains("completion 2: expected a row below 2"), "{error}");
        assert!(replay().restore(b"[", 2).is_err());
    }

    #[test]
    fn a_buffer_of_an_earlier_version_is_read() {
        let mut stored: serde_json::Value = serde_json::from_slice(&replay().state()).unwrap();
        for item in stored.as_array_mut().unwrap() {
            for field in ["old_logprob_bits", "correction_bits", "kept"] {
                item.as_object_mut().unwrap().remove(field);
            }
        }
        let mut old = Replay::new(replay().settings);
        old.restore(&serde_json::to_vec(&stored).unwrap(), 3).unwrap();
        let drawn = old.draw(3, 7, &[0, 0]);
        assert_eq!((&drawn[0].old_logprobs, drawn[0].corrections.len()), (&drawn[0].rollout.logprobs, 0));
    }
}
