//! A coefficient that holds the divergence near a target (Ziegler et al. 2019, arXiv 1909.08593, section 2.2).
//!
//! `e = clip(KL / target - 1, -0.2, 0.2)`, `coef <- coef (1 + e n / horizon)`, once a step of `n` completions

use serde::{Deserialize, Serialize};

/// Settings of the controller; the coefficient itself is state of the run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AdaptiveKl {
    /// Wanted mean divergence of a token or completion, whichever is passed in; greater than 0.
    pub target: f64,
    /// Completions over which a coefficient that is always too low grows by a fifth; greater than 0. Default 10000.
    pub horizon: f64,
}

impl AdaptiveKl {
    /// The next coefficient after a step of `num_completions` with a mean divergence of `kl`.
    ///
    /// A divergence that is not a number leaves it as it is.
    pub fn next(self, coef: f64, kl: f64, num_completions: usize) -> f64 {
        if kl.is_nan() {
            return coef;
        }
        let error = (kl / self.target - 1.0).clamp(-0.2, 0.2);
        coef * (1.0 + error * num_completions as f64 / self.horizon)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_case() {
        let controller = AdaptiveKl { target: 6.0, horizon: 1000.0 };
        assert!((controller.next(0.2, 6.6, 100) - 0.2 * 1.01).abs() < 1e-12);
        assert!((controller.next(0.2, 60.0, 100) - 0.2 * 1.02).abs() < 1e-12);
        assert!((controller.next(0.2, 0.0, 100) - 0.2 * 0.98).abs() < 1e-12);
        assert_eq!(controller.next(0.2, f64::NAN, 100), 0.2);
    }
}
