//! BCO: completions that are good or bad, told apart by a classifier (arXiv 2404.04656, equation 12).
//!
//! With the reward `r = beta log p(y) / p_ref(y)` and the shift `d`, the mean of all rewards so far without gradient:
//! `-log sigmoid(r - d)` for desirable completions, `-log sigmoid(-(r - d))` for the others. TRL counts the batch itself in `d`;
//! here those before it count, which spares a pass. The first batch has rewards of 0 in both.

use burn::tensor::{Bool, Tensor, activation::log_sigmoid};

/// Binary classifier optimisation.
#[derive(Debug, Clone, Copy)]
pub struct Bco {
    /// Strength of the reference; greater than 0. Default 0.1.
    pub beta: f64,
    /// Weight of desirable completions. Default 1.
    pub desirable_weight: f64,
    /// Weight of undesirable completions. Default 1.
    pub undesirable_weight: f64,
    /// The mean of the rewards so far; state of the run, see [`Bco::next_reward_shift`]. Default 0.
    pub reward_shift: f64,
}

impl Default for Bco {
    fn default() -> Self {
        Self { beta: 0.1, desirable_weight: 1.0, undesirable_weight: 1.0, reward_shift: 0.0 }
    }
}

impl Bco {
    /// The loss of each completion.
    ///
    /// # Shapes
    /// - `log_ratios`: `[N]`, `log p(y) / p_ref(y)`; carries the gradient
    /// - `desirable`: `[N]`
    /// - output: `[N]`
    pub fn evaluate(&self, log_ratios: Tensor<1>, desirable: Tensor<1, Bool>) -> Tensor<1> {
        let (expected, got) = (log_ratios.dims(), desirable.dims());
        assert_eq!(got, expected, "desirable: expected {expected:?}, got {got:?}");
        let ones = log_ratios.clone().detach().ones_like();
        let sign = ones.clone().neg().mask_fill(desirable.clone(), 1.0);
        let weight = (ones * self.undesirable_weight).mask_fill(desirable, self.desirable_weight);
        log_sigmoid((log_ratios * self.beta - self.reward_shift) * sign).neg() * weight
    }

    /// The reward shift after a batch, and of how many rewards it is the mean; `count` is of how many it was.
    pub fn next_reward_shift(&self, count: u64, log_ratios: &[f64]) -> (f64, u64) {
        let (before, all) = (count as f64, count + log_ratios.len() as u64);
        let sum = before * self.reward_shift + self.beta * log_ratios.iter().sum::<f64>();
        if all == 0 { (self.reward_shift, 0) } else { (sum / all as f64, all) }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::{
        super::tests::{assert_close, column},
        *,
    };

    #[test]
    fn hand_case() {
        let log_ratios = column(&[1.0, 1.0, 3.0]).autodiff().require_grad();
        let bco = Bco { beta: 1.0, undesirable_weight: 2.0, reward_shift: 1.0, ..Bco::default() };
        let desirable = Tensor::<1, Bool>::from_bool([true, false, false].as_slice(), &Device::default());
        let loss = bco.evaluate(log_ratios.clone(), desirable);
        let gradients = loss.clone().sum().backward();
        let (half, far) = (2.0_f32.ln(), (1.0 + 2.0_f32.exp()).ln());
        assert_close(&loss.into_data().try_to_vec::<f32>().unwrap(), &[half, 2.0 * half, 2.0 * far]);
        let gradient: Vec<f32> = log_ratios.grad(&gradients).unwrap().into_data().try_to_vec().unwrap();
        assert_close(&gradient, &[-0.5, 1.0, 2.0 / (1.0 + (-2.0_f32).exp())]);
    }

    #[test]
    fn the_shift_is_the_mean_of_all_rewards() {
        let bco = Bco { beta: 0.5, reward_shift: 2.0, ..Bco::default() };
        assert_eq!(bco.next_reward_shift(4, &[1.0, 3.0]), ((4.0 * 2.0 + 0.5 * 4.0) / 6.0, 6));
        assert_eq!(Bco::default().next_reward_shift(0, &[]), (0.0, 0));
    }

    #[test]
    fn far_completions_stay_finite() {
        let log_ratios = column(&[-5000.0, 5000.0]).autodiff().require_grad();
        let desirable = Tensor::<1, Bool>::from_bool([true, false].as_slice(), &Device::default());
        let loss = Bco::default().evaluate(log_ratios.clone(), desirable);
        let gradients = loss.clone().sum().backward();
        let gradient: Vec<f32> = log_ratios.grad(&gradients).unwrap().into_data().try_to_vec().unwrap();
        assert_close(&loss.into_data().try_to_vec::<f32>().unwrap(), &[500.0, 500.0]);
        assert_close(&gradient, &[-0.1, 0.1]);
    }

    #[test]
    fn it_is_the_quality_term_of_mpo() {
        let (chosen, rejected) = (column(&[0.4, -1.3]), column(&[0.9, -0.2]));
        let (bco, zeros) = (Bco { reward_shift: 0.07, ..Bco::default() }, || column(&[0.0, 0.0]));
        let of = |log_ratios: Tensor<1>, good: bool| {
            bco.evaluate(
                log_ratios,
                Tensor::<1, Bool>::from_bool([good, good].as_slice(), &Device::default()),
            )
        };
        let both = of(chosen.clone(), true) + of(rejected.clone(), false);
        let mpo = super::super::Mpo {
            preference_weight: 0.0,
            quality_weight: 1.0,
            generation_weight: 0.0,
            reward_shift: 0.07,
            ..Default::default()
        };
        let mixed = mpo.evaluate(super::super::Pairs {
            chosen_logprobs: chosen,
            rejected_logprobs: rejected,
            reference_chosen: zeros(),
            reference_rejected: zeros(),
            chosen_lengths: column(&[1.0, 1.0]),
            rejected_lengths: column(&[1.0, 1.0]),
        });
        let numbers = |tensor: Tensor<1>| tensor.into_data().try_to_vec::<f32>().unwrap();
        assert_close(&numbers(both), &numbers(mixed));
    }
}
