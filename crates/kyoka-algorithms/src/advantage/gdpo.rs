//! GDPO: every reward normalised in its group before they are added (arXiv 2601.05242, section 3).
//!
//! `a_ik = (r_ik - mean_k) / (std_k + eps)`, `A_i = sum over k of w_k a_ik`, then whitened over the batch
//!
//! Deviation 1: the whitening counts tokens, as verl does; [`Whitening::Sequences`] counts completions, as TRL does.

use kyoka_core::{AdvantageError, AdvantageEstimator, Advantages, GroupRewards};

use super::{
    Whitening,
    outcome::{check, mean_std, spread},
    whitening::whitened_outcomes,
};

/// Several rewards, normalised apart.
#[derive(Debug, Clone, Copy)]
pub struct Gdpo {
    /// Added to the standard deviation of each part. Default 1e-6.
    pub epsilon: f64,
    /// What counts once in the batch's mean. Default tokens.
    pub whitening: Whitening,
}

impl Default for Gdpo {
    fn default() -> Self {
        Self { epsilon: 1e-6, whitening: Whitening::Tokens }
    }
}

impl AdvantageEstimator for Gdpo {
    fn min_group_size(&self) -> usize {
        2
    }

    fn needs_parts(&self) -> bool {
        true
    }

    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
        check("gdpo", self.min_group_size(), groups)?;
        let mut summed = Vec::new();
        for (group_index, group) in groups.iter().enumerate() {
            summed.extend(self.sum_of_parts(group_index, group)?);
        }
        let lengths: Vec<usize> = groups.iter().flat_map(|group| group.lengths.iter().copied()).collect();
        Ok(spread(groups, whitened_outcomes(self.whitening, &summed, &lengths)))
    }
}

impl Gdpo {
    fn sum_of_parts(&self, group_index: usize, group: &GroupRewards) -> Result<Vec<f64>, AdvantageError> {
        let (expected, got) = (group.totals.len(), group.parts.len());
        let num_parts = group.parts.first().map_or(0, Vec::len);
        if got != expected || num_parts == 0 {
            return Err(AdvantageError::MissingParts {
                estimator: "gdpo",
                group: group_index,
                expected,
                got,
            });
        }
        let mut summed = vec![0.0; expected];
        for part in 0..num_parts {
            let mut column = Vec::with_capacity(expected);
            for (completion, parts) in group.parts.iter().enumerate() {
                assert_eq!(parts.len(), num_parts, "parts: expected {num_parts}, got {}", parts.len());
                if !parts[part].is_finite() {
                    let got = parts[part];
                    return Err(AdvantageError::NotFinite { group: group_index, completion, got });
                }
                column.push(f64::from(parts[part]));
            }
            let weight = group.part_weights.get(part).map_or(1.0, |&weight| f64::from(weight));
            let (mean, std) = mean_std(&column);
            for (sum, value) in summed.iter_mut().zip(column) {
                *sum += weight * (value - mean) / (std + self.epsilon);
            }
        }
        Ok(summed)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{assert_close, group},
        *,
    };

    #[test]
    fn parts_of_any_scale_weigh_the_same() {
        let parts = vec![vec![1.0, 0.0], vec![0.0, 1000.0]];
        let balanced = GroupRewards { parts, ..group(&[0.0, 0.0]) };
        let advantages = Gdpo::default().estimate(&[balanced]).unwrap();
        assert!(advantages.per_token.concat().iter().all(|a| a.abs() < 0.02));
    }

    #[test]
    fn hand_case() {
        // Part 1: +-1/sqrt(2); part 2, weight 3: -+3/sqrt(2). Sum -+sqrt(2), variance 4: -+1/sqrt(2) after whitening.
        let parts = vec![vec![1.0, 0.0], vec![0.0, 5.0]];
        let weighted = GroupRewards { parts, part_weights: vec![1.0, 3.0], ..group(&[0.0, 0.0]) };
        let half = 0.5_f32.sqrt();
        assert_close(&Gdpo::default().estimate(&[weighted]).unwrap().per_token.concat(), &[-half, half]);
    }

    #[test]
    fn missing_parts_are_named() {
        let bare = GroupRewards { parts: vec![], ..group(&[0.0, 1.0]) };
        let error = Gdpo::default().estimate(&[bare]).unwrap_err();
        assert_eq!(error.to_string(), "group 0: gdpo needs the reward parts of 2 completions, got 0");
    }
}
