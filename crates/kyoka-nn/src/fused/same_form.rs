//! Tests: two forms of an operation are one.

use burn::tensor::{Device, Distribution, Tensor, Tolerance};

pub fn random<const D: usize>(dims: [usize; D]) -> Tensor<D> {
    Tensor::random(dims, Distribution::Uniform(-3.0, 3.0), &Device::flex())
}

/// Values, and gradients of a weighted sum, of the fused and of the composed form.
pub fn assert_same<const D: usize, const E: usize>(
    x: Tensor<D>,
    fused: impl Fn(Tensor<D>) -> Tensor<E>,
    composed: impl Fn(Tensor<D>) -> Tensor<E>,
) {
    let run = |form: &dyn Fn(Tensor<D>) -> Tensor<E>, weights: Option<Tensor<E>>| {
        let leaf = x.clone().autodiff().require_grad();
        let output = form(leaf.clone());
        let weights = weights.unwrap_or_else(|| random(output.dims()));
        let gradients = (output.clone() * weights.clone()).sum().backward();
        (output.inner(), leaf.grad(&gradients).unwrap(), weights)
    };
    let (value, gradient, weights) = run(&fused, None);
    let (expected_value, expected_gradient, _) = run(&composed, Some(weights));
    let near = Tolerance::<f32>::absolute(2e-5).set_relative(2e-5);
    value.into_data().assert_approx_eq(&expected_value.into_data(), near);
    gradient.into_data().assert_approx_eq(&expected_gradient.into_data(), near);
}
