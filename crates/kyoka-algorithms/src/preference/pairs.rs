//! Pairs of a preferred and a rejected completion.

use burn::tensor::Tensor;

/// What pairwise losses see; all tensors have shape `[N]`.
#[derive(Debug, Clone)]
pub struct Pairs {
    /// Log-probability of each preferred completion under the policy; carries the gradient.
    pub chosen_logprobs: Tensor<1>,
    /// Log-probability of each rejected completion under the policy; carries the gradient.
    pub rejected_logprobs: Tensor<1>,
    /// The same under the reference; unread by losses that need none.
    pub reference_chosen: Tensor<1>,
    /// The same under the reference.
    pub reference_rejected: Tensor<1>,
    /// Tokens of each preferred completion, at least 1.
    pub chosen_lengths: Tensor<1>,
    /// Tokens of each rejected completion, at least 1.
    pub rejected_lengths: Tensor<1>,
}

impl Pairs {
    /// `log p / p_ref` of the preferred completions, then of the rejected ones.
    ///
    /// # Panics
    /// If the shapes disagree.
    pub fn log_ratios(&self) -> (Tensor<1>, Tensor<1>) {
        self.check();
        (
            self.chosen_logprobs.clone() - self.reference_chosen.clone(),
            self.rejected_logprobs.clone() - self.reference_rejected.clone(),
        )
    }

    /// How much more the policy has moved towards the preferred completion than towards the rejected one:
    /// `h = log p(c) / p_ref(c) - log p(r) / p_ref(r)`, each side divided by its length on request.
    pub fn margin(&self, length_normalised: bool) -> Tensor<1> {
        let (chosen, rejected) = self.log_ratios();
        if length_normalised {
            chosen / self.chosen_lengths.clone() - rejected / self.rejected_lengths.clone()
        } else {
            chosen - rejected
        }
    }

    pub(super) fn check(&self) {
        let expected = self.chosen_logprobs.dims();
        let check = |name, tensor: &Tensor<1>| {
            let got = tensor.dims();
            assert_eq!(got, expected, "{name}: expected {expected:?}, got {got:?}");
        };
        check("rejected_logprobs", &self.rejected_logprobs);
        check("reference_chosen", &self.reference_chosen);
        check("reference_rejected", &self.reference_rejected);
        check("chosen_lengths", &self.chosen_lengths);
        check("rejected_lengths", &self.rejected_lengths);
    }
}

/// For the log: the share of pairs whose preferred completion has the higher implicit reward
/// ([`PreferenceLoss::rewards`](super::PreferenceLoss::rewards)), and the mean difference. Without a pair both are 0.
///
/// # Panics
/// If there are not as many rewards on both sides.
pub fn reward_metrics(chosen: &[f64], rejected: &[f64]) -> (f64, f64) {
    assert_eq!(rejected.len(), chosen.len(), "rejected: expected {}, got {}", chosen.len(), rejected.len());
    let margins = || chosen.iter().zip(rejected).map(|(chosen, rejected)| chosen - rejected);
    let count = chosen.len().max(1) as f64;
    (margins().filter(|&margin| margin > 0.0).count() as f64 / count, margins().sum::<f64>() / count)
}
