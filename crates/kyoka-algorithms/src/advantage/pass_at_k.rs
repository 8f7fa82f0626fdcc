//! Pass@k as the reward, in closed form (arXiv 2508.10751, section 2.4).
//!
//! With `N` completions of which `M` are right (reward above 0), the mean over all subsets of `k` and the spread are
//! `m = 1 - C(N-M, k) / C(N, k)` and `s = sqrt(m (1 - m))`; then
//! `A_right = (1 - m) / s`, `A_wrong = (1 - m - C(N-M-1, k-1) / C(N-1, k-1)) / s`.
//!
//! A group with `s = 0` gets no credit. Rewards count as right or wrong only; `k` is at most the group size.

use kyoka_core::{AdvantageError, AdvantageEstimator, Advantages, GroupRewards};

use super::outcome::outcome_advantages;

/// Credit for a group that solves the prompt at least once in `k` tries.
#[derive(Debug, Clone, Copy)]
pub struct PassAtK {
    /// Tries; at least 1 and at most the group size.
    pub k: usize,
}

/// The unbiased estimate of the chance that one of `k` of `n` completions is right when `c` are (arXiv 2107.03374,
/// equation 1): `1 - C(n - c, k) / C(n, k)`.
///
/// # Panics
/// If `k` or `c` exceed `n`.
pub fn pass_at_k(n: usize, c: usize, k: usize) -> f64 {
    assert!(k <= n && c <= n, "expected k and c of at most {n}, got {k} and {c}");
    1.0 - none_right(n, c, k)
}

/// `C(n - c, k) / C(n, k)` as a product, which no large number enters.
fn none_right(n: usize, c: usize, k: usize) -> f64 {
    if k > n - c {
        return 0.0;
    }
    (n - c + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product()
}

impl AdvantageEstimator for PassAtK {
    fn min_group_size(&self) -> usize {
        self.k.max(2)
    }

    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
        assert!(self.k >= 1, "pass_at_k: expected k of at least 1, got 0");
        outcome_advantages("pass_at_k", self.min_group_size(), groups, |outcomes| {
            let n = outcomes.len();
            let right = outcomes.iter().filter(|&&outcome| outcome > 0.0).count();
            let missed = none_right(n, right, self.k);
            let std = (missed * (1.0 - missed)).sqrt();
            if std == 0.0 || right == 0 || right == n {
                return vec![0.0; n];
            }
            let missed_beside = none_right(n - 1, right, self.k - 1);
            let credit =
                |outcome: &f64| if *outcome > 0.0 { missed / std } else { (missed - missed_beside) / std };
            outcomes.iter().map(credit).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{assert_close, firsts},
        *,
    };

    #[test]
    fn hand_case() {
        // N = 4, M = 1, k = 2: 1 - m = C(3, 2) / C(4, 2) = 1/2, s = 1/2; C(2, 1) / C(3, 1) = 2/3.
        let wrong = (0.5 - 2.0 / 3.0) / 0.5;
        assert_close(&firsts(&PassAtK { k: 2 }, &[1.0, 0.0, 0.0, 0.0]), &[1.0, wrong, wrong, wrong]);
    }

    #[test]
    fn chances_by_hand() {
        assert!((pass_at_k(8, 3, 1) - 0.375).abs() < 1e-12);
        assert_eq!(pass_at_k(8, 8, 4), 1.0);
        assert_eq!(pass_at_k(8, 0, 4), 0.0);
        assert!((pass_at_k(200, 1, 100) - 0.5).abs() < 1e-12);
    }
}
