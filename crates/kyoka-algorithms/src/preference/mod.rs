//! Losses over preferred and rejected completions, and over single ones that were taken or not.
//!
//! All work on log-probabilities of whole completions (sums over tokens), tensors `[N]`, and give one loss a pair (or a
//! completion, for KTO); the mean over the batch is a separate step. The policy's tensors carry the gradient.

mod bco;
mod bradley_terry;
mod config;
mod dpo;
mod ipo;
mod kto;
mod loss;
mod mpo;
mod pairs;
mod simpo;
mod unpaired;

pub use bco::Bco;
pub use bradley_terry::BradleyTerry;
pub use config::{PreferenceConfig, PreferenceKind, PreferenceOverrides, PreferencePreset};
pub use dpo::{Dpo, DpoForm};
pub use ipo::Ipo;
pub use kto::{Kto, KtoInput};
pub use loss::PreferenceLoss;
pub use mpo::Mpo;
pub use pairs::{Pairs, reward_metrics};
pub use simpo::Simpo;
pub use unpaired::{UnpairedConfig, UnpairedKind, UnpairedLoss};

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::*;

    pub(super) fn column(values: &[f32]) -> Tensor<1> {
        Tensor::from_floats(values, &Device::default())
    }

    /// One pair: log-probabilities chosen and rejected, of the reference, lengths.
    pub(super) type Pair = [f32; 6];

    /// Losses and gradients for the chosen and the rejected completions.
    pub(super) fn evaluate(
        loss: impl Fn(Pairs) -> Tensor<1>,
        pairs: &[Pair],
    ) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let at = |place: usize| column(&pairs.iter().map(|pair| pair[place]).collect::<Vec<f32>>());
        let chosen_logprobs = at(0).autodiff().require_grad();
        let rejected_logprobs = at(1).autodiff().require_grad();
        let losses = loss(Pairs {
            chosen_logprobs: chosen_logprobs.clone(),
            rejected_logprobs: rejected_logprobs.clone(),
            reference_chosen: at(2),
            reference_rejected: at(3),
            chosen_lengths: at(4),
            rejected_lengths: at(5),
        });
        let gradients = losses.clone().sum().backward();
        let numbers = |tensor: Tensor<1>| tensor.into_data().try_to_vec::<f32>().unwrap();
        (
            numbers(losses),
            numbers(chosen_logprobs.grad(&gradients).unwrap()),
            numbers(rejected_logprobs.grad(&gradients).unwrap()),
        )
    }

    pub(super) fn assert_close(got: &[f32], expected: &[f32]) {
        assert_eq!(got.len(), expected.len());
        for (a, b) in got.iter().zip(expected) {
            assert!((a - b).abs() <= 1e-5 * (1.0 + b.abs()), "{got:?} against {expected:?}");
        }
    }

    #[test]
    fn far_pairs_stay_finite() {
        let far: [Pair; 2] = [[-500.0, -1.0, -1.0, -500.0, 3.0, 3.0], [-1.0, -500.0, -500.0, -1.0, 3.0, 3.0]];
        let losses: [&dyn Fn(Pairs) -> Tensor<1>; 4] = [
            &|pairs| Dpo::default().evaluate(pairs),
            &|pairs| Ipo::default().evaluate(pairs),
            &|pairs| Simpo::default().evaluate(pairs),
            &|pairs| Mpo::default().evaluate(pairs),
        ];
        for loss in losses {
            let (values, chosen, rejected) = evaluate(loss, &far);
            assert!(values.iter().chain(&chosen).chain(&rejected).all(|x| x.is_finite()), "{values:?}");
        }
    }

    #[test]
    #[should_panic(expected = "rejected_logprobs: expected [2], got [1]")]
    fn shapes_that_disagree_are_a_callers_bug() {
        let two = || column(&[0.0, 0.0]);
        Dpo::default().evaluate(Pairs {
            chosen_logprobs: two(),
            rejected_logprobs: column(&[0.0]),
            reference_chosen: two(),
            reference_rejected: two(),
            chosen_lengths: two(),
            rejected_lengths: two(),
        });
    }
}
