//! REINFORCE++: discounted token returns, whitened over the batch (arXiv 2501.03262, section 3).
//!
//! `G_t = r_t + gamma G_{t+1}`, `A_t = (G_t - mean) / sqrt(var + 1e-8)` over all tokens of the batch
//!
//! The divergence belongs to the token rewards. Deviation 1: the small term is that of verl, inside the root.

use kyoka_core::{AdvantageError, AdvantageEstimator, Advantages, GroupRewards};

use super::{
    outcome::{check, returns_to_go},
    whitening::whitened_tokens,
};

/// Globally whitened returns.
#[derive(Debug, Clone, Copy)]
pub struct ReinforcePlusPlus {
    /// Discount of the next token's return, in [0, 1]. Default 1.
    pub gamma: f64,
}

impl Default for ReinforcePlusPlus {
    fn default() -> Self {
        Self { gamma: 1.0 }
    }
}

impl AdvantageEstimator for ReinforcePlusPlus {
    fn credits_equal_rewards(&self) -> bool {
        true
    }

    fn min_group_size(&self) -> usize {
        1
    }

    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
        check("reinforce_plus_plus", self.min_group_size(), groups)?;
        let rows: Vec<(&GroupRewards, usize)> =
            groups.iter().flat_map(|group| (0..group.totals.len()).map(move |i| (group, i))).collect();
        let per_token = whitened_tokens(rows.len(), |row, returns| {
            let (group, completion) = rows[row];
            returns_to_go(group, completion, self.gamma, returns);
        });
        Ok(Advantages { per_token, ..Advantages::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::assert_close, *};

    #[test]
    fn hand_case() {
        // Returns with gamma 0.5: 0.5, 1 and 0. Mean 0.5, variance 0.5 / 2.
        let group = GroupRewards { totals: vec![1.0, 0.0], lengths: vec![2, 1], ..Default::default() };
        let advantages = ReinforcePlusPlus { gamma: 0.5 }.estimate(&[group]).unwrap();
        assert_close(&advantages.per_token.concat(), &[0.0, 1.0, -1.0]);
    }
}
