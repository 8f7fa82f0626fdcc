//! Penalty for saying the same thing again.

use std::collections::HashSet;

use kyoka_core::{Completion, OwnSettings, Reward, RewardContext, RewardError, RewardFn, SettingsFault};
use serde::{Deserialize, Serialize};

use crate::sections::beginning;

/// The repetition penalty (arXiv 2502.03373, appendix C.2): `max_penalty (1 - unique n-grams / n-grams)`; 0 for a
/// completion too short to hold one. N-grams are of words separated by white space.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepetitionPenalty {
    /// Words of an n-gram, at least 1. Default 4.
    pub ngram: usize,
    /// Reward of a text that only repeats, at most 0. Default -1.
    pub max_penalty: f32,
}

impl Default for RepetitionPenalty {
    fn default() -> Self {
        Self { ngram: 4, max_penalty: -1.0 }
    }
}

impl OwnSettings for RepetitionPenalty {
    fn check(&self) -> Result<(), SettingsFault> {
        SettingsFault::unless(self.ngram > 0, "ngram", "at least 1", self.ngram)?;
        let penalty = self.max_penalty;
        let holds = penalty.is_finite() && penalty <= 0.0;
        SettingsFault::unless(holds, "max_penalty", "a finite number of at most 0", penalty)
    }
}

/// Most words of a completion that are looked at, in its first MiB.
const MOST_WORDS: usize = 50_000;

impl RepetitionPenalty {
    /// The penalty of any sequence: words, tokens.
    pub fn penalty<T: std::hash::Hash + Eq>(&self, items: &[T]) -> f32 {
        let ngrams = items.windows(self.ngram.max(1));
        let total = ngrams.len();
        if total == 0 {
            return 0.0;
        }
        let unique = ngrams.collect::<HashSet<_>>().len();
        self.max_penalty * (1.0 - unique as f64 / total as f64) as f32
    }
}

impl RewardFn for RepetitionPenalty {
    fn name(&self) -> &str {
        "repetition"
    }

    fn score(&self, _: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let words: Vec<&str> = beginning(&completion.text).split_whitespace().take(MOST_WORDS).collect();
        Ok(Reward::graded(self.name(), self.penalty(&words)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_case() {
        let pairs = RepetitionPenalty { ngram: 2, ..RepetitionPenalty::default() };
        // ab bc ca ab bc: 3 of 5 are new.
        assert!((pairs.penalty(&["a", "b", "c", "a", "b", "c"]) + 0.4).abs() < 1e-6);
        assert_eq!(pairs.penalty(&["a", "b", "c"]), 0.0);
        assert_eq!(pairs.penalty(&["a"]), 0.0);
        assert_eq!(RepetitionPenalty::default().penalty::<&str>(&[]), 0.0);
    }
}
