//! VAPO: the actor's lambda grows with the completion (arXiv 2504.05118, section 4.2).
//!
//! `lambda_actor = max(0, 1 - 1 / (alpha l))` with `l` the length; the critic's lambda is 1. The weights of the
//! temporal differences then sum to `alpha l`, a fixed share of the completion.
//!
//! Deviation 1: `alpha l` below 1 would make lambda negative; it is 0 there.

use kyoka_core::{AdvantageError, AdvantageEstimator, Advantages, GroupRewards};

use super::gae::Rows;

/// GAE whose horizon is a share of the length.
#[derive(Debug, Clone, Copy)]
pub struct LengthAdaptiveGae {
    /// Discount of the future, in [0, 1]. Default 1.
    pub gamma: f64,
    /// Share of the completion that the horizon spans; above 0. Default 0.05.
    pub alpha: f64,
    /// Whether advantages are whitened over the batch. Default true.
    pub whiten: bool,
}

impl Default for LengthAdaptiveGae {
    fn default() -> Self {
        Self { gamma: 1.0, alpha: 0.05, whiten: true }
    }
}

impl LengthAdaptiveGae {
    /// The actor's lambda for a completion of `length` tokens.
    pub fn lambda(&self, length: usize) -> f64 {
        (1.0 - 1.0 / (self.alpha * length.max(1) as f64)).max(0.0)
    }
}

impl AdvantageEstimator for LengthAdaptiveGae {
    fn min_group_size(&self) -> usize {
        1
    }

    fn needs_values(&self) -> bool {
        true
    }

    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
        let rows = Rows::new("length_adaptive_gae", groups)?;
        Ok(rows.estimate((self.gamma, self.whiten), |length| (self.lambda(length), 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::assert_close, *};

    #[test]
    fn hand_case() {
        let vapo = LengthAdaptiveGae { alpha: 1.0, whiten: false, ..LengthAdaptiveGae::default() };
        assert_eq!(vapo.lambda(2), 0.5);
        // d = 0.5, 0.5: A_2 = 0.5, A_1 = 0.5 + 0.5 * 0.5.
        let group = GroupRewards {
            totals: vec![1.5],
            lengths: vec![2],
            values: vec![vec![0.5, 1.0]],
            ..Default::default()
        };
        assert_close(&vapo.estimate(&[group]).unwrap().per_token[0], &[0.75, 0.5]);
    }

    #[test]
    fn short_completions_have_no_negative_lambda() {
        let vapo = LengthAdaptiveGae::default();
        assert_eq!([vapo.lambda(0), vapo.lambda(1), vapo.lambda(20)], [0.0; 3]);
        assert!((vapo.lambda(1000) - 0.98).abs() < 1e-12);
    }
}
