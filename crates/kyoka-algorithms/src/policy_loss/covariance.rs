//! Which tokens drive the entropy down: the covariance of log-probability and advantage (arXiv 2505.22617, equation 10).

use burn::tensor::{Tensor, TensorData};

use super::masked::Masked;

/// `cov_t = (A_t - mean A) (log p_t - mean log p)` of every token that counts, with its flat index, means over those.
///
/// The means are those of the tensors given, as in verl: with several micro-batches each has its own.
pub(super) fn covariances(tokens: &Masked) -> Vec<(usize, f64)> {
    let mask: Vec<bool> = tokens.mask.clone().into_data().iter::<bool>().collect();
    let values = |tensor: Tensor<2>| -> Vec<f64> { tensor.into_data().iter::<f64>().collect() };
    let (logprobs, advantages) =
        (values(tokens.logprobs.clone().detach()), values(tokens.advantages.clone()));
    let counting: Vec<usize> = (0..mask.len()).filter(|&index| mask[index]).collect();
    let mean = |values: &[f64]| {
        counting.iter().map(|&index| values[index]).sum::<f64>() / counting.len().max(1) as f64
    };
    let (mean_logprob, mean_advantage) = (mean(&logprobs), mean(&advantages));
    let covariance =
        |&index: &usize| (index, (advantages[index] - mean_advantage) * (logprobs[index] - mean_logprob));
    counting.iter().map(covariance).collect()
}

/// A tensor shaped like the tokens that is true at the flat indices chosen.
pub(super) fn chosen_mask(
    tokens: &Masked,
    chosen: impl Iterator<Item = usize>,
) -> Tensor<2, burn::tensor::Bool> {
    let [rows, columns] = tokens.mask.dims();
    let mut flags = vec![false; rows * columns];
    chosen.for_each(|index| flags[index] = true);
    Tensor::from_data(TensorData::new(flags, [rows, columns]), &tokens.mask.device())
}
