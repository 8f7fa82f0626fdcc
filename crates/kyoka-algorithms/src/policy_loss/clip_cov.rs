//! Clip-Cov: a random share of the tokens that would collapse the entropy get no gradient (arXiv 2505.22617, section 4.2).
//!
//! PPO's clipped loss, zeroed at `share` of all tokens (at least one), drawn from those whose covariance of advantage
//! and log-probability lies within `(cov_low, cov_high)` and which the clip has not cut already.
//!
//! Deviation 1: the draw is a function of the tokens themselves and of `seed`, so a run can be repeated.
//! Deviation 2: means and shares are those of the micro-batch, as in verl.

use kyoka_core::{PolicyLoss, PolicyLossInput, PolicyLossOutput};

use super::{
    ClippedLoss,
    covariance::{chosen_mask, covariances},
    masked::Masked,
};

/// Covariance-based clipping.
#[derive(Debug, Clone, Copy)]
pub struct ClipCov {
    /// The clipped loss underneath.
    pub clipped: ClippedLoss,
    /// Share of the tokens to leave out. Default 2e-4.
    pub share: f64,
    /// Least covariance of a token that may be left out. Default 1.
    pub cov_low: f64,
    /// Greatest covariance of a token that may be left out. Default 5.
    pub cov_high: f64,
    /// Which of them.
    pub seed: u64,
}

impl Default for ClipCov {
    fn default() -> Self {
        Self { clipped: ClippedLoss::default(), share: 2e-4, cov_low: 1.0, cov_high: 5.0, seed: 0 }
    }
}

impl PolicyLoss for ClipCov {
    fn evaluate(&self, input: PolicyLossInput) -> PolicyLossOutput {
        let tokens = Masked::new(input.clone());
        let output = self.clipped.evaluate(input);
        let cut: Vec<bool> = output.clipped.clone().into_data().iter::<bool>().collect();
        let all = covariances(&tokens);
        let most = ((all.len() as f64 * self.share) as usize).max(1);
        let within =
            |&&(index, cov): &&(usize, f64)| cov > self.cov_low && cov < self.cov_high && !cut[index];
        let mut candidates: Vec<(usize, f64)> = all.iter().filter(within).copied().collect();
        candidates.sort_by_key(|&(index, cov)| mix(self.seed ^ mix(index as u64 ^ cov.to_bits())));
        let left_out = chosen_mask(&tokens, candidates.iter().take(most).map(|&(index, _)| index));
        PolicyLossOutput {
            per_token: output.per_token.mask_fill(left_out.clone(), 0.0),
            clipped: output.clipped.bool_or(left_out),
        }
    }
}

/// SplitMix64's finaliser (Steele, Lea, Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{Token, assert_close, evaluate},
        *,
    };

    // Advantages 3 and -1 (mean 1), log-probabilities 0 and -2 (mean -1): covariances 2 and 2.
    const ROW: [Token; 2] = [(0.0, 0.0, 3.0, true), (-2.0, -2.0, -1.0, true)];

    #[test]
    fn hand_case() {
        let all = ClipCov { share: 1.0, ..ClipCov::default() };
        assert_eq!(evaluate(&all, &[&ROW]), (vec![0.0; 2], vec![0.0; 2]));
        let none = ClipCov { cov_high: 1.5, ..all };
        assert_close(&evaluate(&none, &[&ROW]).1, &[-3.0, 1.0]);
    }

    #[test]
    fn the_share_is_at_least_one_token_and_the_seed_decides() {
        let zeros = |seed| {
            let (loss, _) = evaluate(&ClipCov { seed, ..ClipCov::default() }, &[&ROW]);
            loss.iter().map(|&value| value == 0.0).collect::<Vec<bool>>()
        };
        assert!((0..16).all(|seed| zeros(seed).iter().filter(|&&zero| zero).count() == 1));
        assert!((0..16).any(|seed| zeros(seed) != zeros(0)));
        assert_eq!(zeros(3), zeros(3));
    }
}
