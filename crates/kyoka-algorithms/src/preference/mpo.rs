//! MPO: mixed preference optimisation (arXiv 2411.10442, equations 1 to 5).
//!
//! `loss = w_p DPO + w_q BCO + w_g SFT` with
//! `BCO = -log sigmoid(beta l_c - shift) - log sigmoid(-(beta l_r - shift))`, `l = log p / p_ref`, the shift being a
//! running mean of past rewards `beta l`, and `SFT = -log p(c) / |c|`.

use burn::tensor::{Tensor, activation::log_sigmoid};

use super::{Dpo, Pairs};

/// Preference, quality and generation in one loss.
#[derive(Debug, Clone, Copy)]
pub struct Mpo {
    /// Strength of the reference in DPO and BCO; greater than 0. Default 0.1.
    pub beta: f64,
    /// Weight of DPO. Default 0.8.
    pub preference_weight: f64,
    /// Weight of BCO. Default 0.2.
    pub quality_weight: f64,
    /// Weight of the likelihood of the preferred completion. Default 1.
    pub generation_weight: f64,
    /// The running mean of past rewards; state of the run, see [`Mpo::next_reward_shift`]. Default 0.
    pub reward_shift: f64,
}

impl Default for Mpo {
    fn default() -> Self {
        Self {
            beta: 0.1,
            preference_weight: 0.8,
            quality_weight: 0.2,
            generation_weight: 1.0,
            reward_shift: 0.0,
        }
    }
}

impl Mpo {
    /// The loss of each pair.
    ///
    /// # Shapes
    /// - output: `[N]`
    pub fn evaluate(&self, pairs: Pairs) -> Tensor<1> {
        let (chosen, rejected) = pairs.log_ratios();
        let good = log_sigmoid(chosen * self.beta - self.reward_shift);
        let bad = log_sigmoid((rejected * self.beta - self.reward_shift).neg());
        let quality = (good + bad).neg();
        let generation = (pairs.chosen_logprobs.clone() / pairs.chosen_lengths.clone()).neg();
        let preference = Dpo { beta: self.beta, ..Dpo::default() }.evaluate(pairs);
        preference * self.preference_weight
            + quality * self.quality_weight
            + generation * self.generation_weight
    }

    /// The reward shift after a batch: `0.99 shift + 0.01 mean` over the rewards `beta l`, given the log-ratios of both
    /// sides; without any it stays.
    pub fn next_reward_shift(&self, log_ratios: &[f64]) -> f64 {
        if log_ratios.is_empty() {
            return self.reward_shift;
        }
        let mean = self.beta * log_ratios.iter().sum::<f64>() / log_ratios.len() as f64;
        0.99 * self.reward_shift + 0.01 * mean
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{assert_close, evaluate},
        *,
    };

    #[test]
    fn the_reward_shift_follows_the_mean_reward() {
        let mpo = Mpo { beta: 0.5, reward_shift: 1.0, ..Mpo::default() };
        assert!((mpo.next_reward_shift(&[3.0, -1.0]) - (0.99 + 0.01 * 0.5)).abs() < 1e-12);
        assert_eq!(mpo.next_reward_shift(&[]), 1.0);
    }

    #[test]
    fn hand_case() {
        // Chosen 1, rejected -1: beta h = 1, beta l = 0.5 and -0.5; SFT 1/2.
        let pair = [-1.0, -3.0, -2.0, -2.0, 2.0, 4.0];
        let mpo = Mpo { beta: 0.5, ..Mpo::default() };
        let (loss, _, _) = evaluate(|pairs| mpo.evaluate(pairs), &[pair]);
        let right = |x: f32| (1.0 + (-x).exp()).ln();
        assert_close(&loss, &[0.8 * right(1.0) + 0.2 * 2.0 * right(0.5) + 0.5]);
    }
}
