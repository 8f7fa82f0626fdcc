//! VC-PPO: one lambda for the actor, another for the critic (arXiv 2503.01491, section 3.2).
//!
//! Advantages are GAE with `lambda_actor`, value targets `A + V` of GAE with `lambda_critic`. With a critic's lambda of
//! 1 the target is the return itself, and no value decays on its way through a long completion.

use kyoka_core::{AdvantageError, AdvantageEstimator, Advantages, GroupRewards};

use super::gae::Rows;

/// GAE, actor and critic apart.
#[derive(Debug, Clone, Copy)]
pub struct DecoupledGae {
    /// Discount of the future, in [0, 1]. Default 1.
    pub gamma: f64,
    /// Lambda of the advantages. Default 0.95.
    pub lambda_actor: f64,
    /// Lambda of the value targets. Default 1.
    pub lambda_critic: f64,
    /// Whether advantages are whitened over the batch. Default true.
    pub whiten: bool,
}

impl Default for DecoupledGae {
    fn default() -> Self {
        Self { gamma: 1.0, lambda_actor: 0.95, lambda_critic: 1.0, whiten: true }
    }
}

impl AdvantageEstimator for DecoupledGae {
    fn min_group_size(&self) -> usize {
        1
    }

    fn needs_values(&self) -> bool {
        true
    }

    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
        let rows = Rows::new("decoupled_gae", groups)?;
        Ok(rows.estimate((self.gamma, self.whiten), |_| (self.lambda_actor, self.lambda_critic)))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::assert_close, *};

    #[test]
    fn hand_case() {
        // d = 0.5, 0.5; the actor's lambda 0: A = d; the critic's 1: targets are the return.
        let group = GroupRewards {
            totals: vec![1.5],
            lengths: vec![2],
            values: vec![vec![0.5, 1.0]],
            ..Default::default()
        };
        let gae = DecoupledGae { lambda_actor: 0.0, whiten: false, ..DecoupledGae::default() };
        let got = gae.estimate(&[group]).unwrap();
        assert_close(&got.per_token[0], &[0.5, 0.5]);
        assert_close(&got.value_targets[0], &[1.5, 1.5]);
    }
}
