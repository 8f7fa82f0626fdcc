//! An estimator: the reward less the median of its group.

use kyoka::core::{AdvantageError, AdvantageEstimator, Advantages, GroupRewards};
use serde::Deserialize;

/// `A_i = scale (R_i - median(R))`, the same for every token of a completion.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MedianAdvantage {
    /// What the difference is multiplied by.
    pub scale: f32,
}

impl AdvantageEstimator for MedianAdvantage {
    fn min_group_size(&self) -> usize {
        2
    }

    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
        let mut per_token = Vec::new();
        for group in groups {
            let mut sorted = group.totals.clone();
            sorted.sort_by(f32::total_cmp);
            let median = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
            let rows = group.totals.iter().zip(&group.lengths);
            per_token.extend(rows.map(|(total, &length)| vec![self.scale * (total - median); length]));
        }
        Ok(Advantages { per_token, ..Advantages::default() })
    }
}
