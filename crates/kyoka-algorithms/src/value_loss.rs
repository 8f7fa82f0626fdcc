//! What the critic minimises, and how well it does.
//!
//! Clipped value loss (PPO's public code; verl, TRL):
//! `1/2 max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2)`; without `c` the plain `1/2 (V - R)^2`.

use burn::tensor::{Bool, Tensor};

/// What the loss is made of; all tensors have shape `[R, T]`.
#[derive(Debug, Clone)]
pub struct ValueLossInput {
    /// Values of the critic being trained; carries the gradient.
    pub values: Tensor<2>,
    /// Values at the start of the batch.
    pub old_values: Tensor<2>,
    /// What they should be: `Advantages::value_targets`.
    pub targets: Tensor<2>,
    /// True on the tokens that count.
    pub loss_mask: Tensor<2, Bool>,
}

/// The loss per token, 0 outside the mask; the reduction is a separate step.
///
/// # Shapes
/// - output: `[R, T]`
///
/// # Panics
/// If the shapes disagree.
pub fn value_loss(input: ValueLossInput, clip: Option<f64>) -> Tensor<2> {
    let ValueLossInput { values, old_values, targets, loss_mask } = input;
    let expected = values.dims();
    let got = [old_values.dims(), targets.dims(), loss_mask.dims()];
    assert!(got.iter().all(|&dims| dims == expected), "value_loss: expected {expected:?}, got {got:?}");
    let outside = loss_mask.bool_not();
    let error = (values.clone() - targets.clone()).mask_fill(outside.clone(), 0.0);
    let free = error.square();
    let squared = match clip {
        None => free,
        Some(c) => {
            let moved = (values - old_values.clone()).mask_fill(outside.clone(), 0.0).clamp(-c, c);
            let cut = moved + (old_values - targets).mask_fill(outside, 0.0);
            free.max_pair(cut.square())
        }
    };
    squared * 0.5
}

/// Negative log-likelihood of the completions that were right (VAPO, arXiv 2504.05118, equation 9): `-log p_t` at the
/// tokens of positive completions, 0 elsewhere.
///
/// The paper adds `mu` (0.1) times its mean over those tokens: divide the sum by the number of true entries of
/// `loss_mask` in positive rows of the whole batch. A batch without a positive completion adds nothing.
///
/// # Shapes
/// - `policy_logprobs`, `loss_mask`: `[R, T]`
/// - `positive`: `[R]`, true where the outcome reward says the completion is right
/// - output: `[R, T]`
pub fn positive_nll(
    policy_logprobs: Tensor<2>,
    loss_mask: Tensor<2, Bool>,
    positive: Tensor<1, Bool>,
) -> Tensor<2> {
    let [r, t] = policy_logprobs.dims();
    assert_eq!(loss_mask.dims(), [r, t], "loss_mask: expected {:?}, got {:?}", [r, t], loss_mask.dims());
    assert_eq!(positive.dims(), [r], "positive: expected {:?}, got {:?}", [r], positive.dims());
    let counts = loss_mask.bool_and(positive.unsqueeze_dim::<2>(1).expand([r, t]));
    policy_logprobs.neg().mask_fill(counts.bool_not(), 0.0)
}

/// `1 - Var(target - value) / Var(target)`: 1 is a perfect critic, 0 one that knows the mean; 0 where targets are equal.
pub fn explained_variance(values: &[f32], targets: &[f32]) -> f64 {
    assert_eq!(values.len(), targets.len(), "expected {} values, got {}", targets.len(), values.len());
    let variance = |values: &mut dyn Iterator<Item = f64>| {
        let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
        for value in values {
            count += 1.0;
            let distance = value - mean;
            mean += distance / count;
            squares += distance * (value - mean);
        }
        squares / f64::max(count, 1.0)
    };
    let total = variance(&mut targets.iter().map(|&target| f64::from(target)));
    let errors = targets.iter().zip(values).map(|(&target, &value)| f64::from(target) - f64::from(value));
    if total == 0.0 { 0.0 } else { 1.0 - variance(&mut errors.into_iter()) / total }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn row(values: &[f32]) -> Tensor<2> {
        Tensor::<1>::from_floats(values, &Device::default()).unsqueeze()
    }

    fn evaluate(clip: Option<f64>) -> (Vec<f32>, Vec<f32>) {
        let values = row(&[1.0, 1.0, f32::NAN]).autodiff().require_grad();
        let loss = value_loss(
            ValueLossInput {
                values: values.clone(),
                old_values: row(&[0.0, 0.9, 1e30]),
                targets: row(&[2.0, 0.0, -1e30]),
                loss_mask: Tensor::<2, Bool>::from_bool([[true, true, false]], &Device::default()),
            },
            clip,
        );
        let gradients = loss.clone().sum().backward();
        let gradient = values.grad(&gradients).unwrap();
        (loss.into_data().try_to_vec().unwrap(), gradient.into_data().try_to_vec().unwrap())
    }

    #[test]
    fn hand_case() {
        assert_eq!(evaluate(None), (vec![0.5, 0.5, 0.0], vec![-1.0, 1.0, 0.0]));
        // 0 + 0.5 is further from 2 than 1 is: 1.5^2 / 2, no gradient. 1 lies within 0.9 +- 0.5.
        assert_eq!(evaluate(Some(0.5)), (vec![1.125, 0.5, 0.0], vec![0.0, 1.0, 0.0]));
    }

    #[test]
    fn only_positive_completions_are_imitated() {
        let device = Device::default();
        let nll = positive_nll(
            Tensor::from_floats([[-1.0, f32::NAN], [-2.0, -3.0]], &device),
            Tensor::<2, Bool>::from_bool([[true, false], [true, true]], &device),
            Tensor::<1, Bool>::from_bool([true, false].as_slice(), &device),
        );
        assert_eq!(nll.into_data().try_to_vec::<f32>().unwrap(), [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn explained_variance_by_hand() {
        assert_eq!(explained_variance(&[0.0, 1.0], &[0.0, 1.0]), 1.0);
        assert_eq!(explained_variance(&[0.5, 0.5], &[0.0, 1.0]), 0.0);
        assert_eq!(explained_variance(&[0.3, 0.5], &[1.0, 1.0]), 0.0);
        assert_eq!(explained_variance(&[], &[]), 0.0);
    }
}
