//! Operations that a step spends its time in, fused on the CPU.
//!
//! Burn composes these from element-wise passes that run on one core and write a tensor each. On the flex backend they
//! are single passes over rows here, vectorised and spread over the cores, with hand-written backward passes. On every
//! other device the composed form runs; tests hold the two against each other, values and gradients.

mod composed;

#[cfg_attr(not(feature = "flex"), expect(dead_code, reason = "only the fused operations use it"))]
mod attention;
#[cfg(feature = "flex")]
mod autodiff;
pub(crate) mod decode;
#[cfg(feature = "flex")]
mod flex;
mod gemm;
#[cfg(feature = "flex")]
mod head;
#[cfg_attr(not(feature = "flex"), expect(dead_code, reason = "only the fused operations use all of them"))]
pub(crate) mod kernels;
#[cfg(feature = "flex")]
mod ops;
#[cfg(test)]
pub(crate) mod same_form;

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use kyoka_core::Distribution;

use crate::AttentionLayout;

/// Whether the fused form exists for a device.
#[cfg(feature = "flex")]
pub(crate) fn is_fused(device: &Device) -> bool {
    matches!(device.clone().without_autodiff().as_dispatch(), burn::backend::DispatchDevice::Flex(_))
}

#[cfg(not(feature = "flex"))]
pub(crate) fn is_fused(_: &Device) -> bool {
    false
}

/// Calls the fused operation where it exists, for 32-bit numbers, else the composed one.
macro_rules! fused_or_composed {
    ($x:expr, $fused:expr, $composed:expr) => {{
        #[cfg(feature = "flex")]
        if is_fused(&$x.device()) && $x.dtype() == burn::tensor::DType::F32 {
            use burn::backend::Dispatch;
            use ops::FusedOps;
            return Tensor::from_dispatch($fused);
        }
        $composed
    }};
}

/// Root-mean-square norm: `x / sqrt(mean(x²) + eps) * gamma`.
///
/// # Shapes
/// - input and output: `[N, D]`
/// - gamma: `[D]`
pub fn rms_norm(x: Tensor<2>, gamma: Tensor<1>, epsilon: f64) -> Tensor<2> {
    let _ = is_fused;
    fused_or_composed!(
        x,
        Dispatch::fused_rms_norm(x.into_dispatch(), gamma.into_dispatch(), epsilon as f32),
        composed::rms_norm(x, gamma, epsilon)
    )
}

/// Layer norm: `(x - mean) / sqrt(var + eps) * gamma + beta`.
///
/// # Shapes
/// - input and output: `[N, D]`
/// - gamma and beta: `[D]`
pub fn layer_norm(x: Tensor<2>, gamma: Tensor<1>, beta: Tensor<1>, epsilon: f64) -> Tensor<2> {
    fused_or_composed!(
        x,
        Dispatch::fused_layer_norm(
            x.into_dispatch(),
            gamma.into_dispatch(),
            beta.into_dispatch(),
            epsilon as f32
        ),
        burn::tensor::module::layer_norm(x, gamma, Some(beta), epsilon)
    )
}

/// `x Phi(x)` with the exact distribution function.
///
/// # Shapes
/// - input and output: `[N, D]`
pub fn gelu(x: Tensor<2>) -> Tensor<2> {
    fused_or_composed!(x, Dispatch::fused_gelu(x.into_dispatch()), burn::tensor::activation::gelu(x))
}

/// `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x³)))`.
///
/// # Shapes
/// - input and output: `[N, D]`
pub fn gelu_tanh(x: Tensor<2>) -> Tensor<2> {
    fused_or_composed!(x, Dispatch::fused_gelu_tanh(x.into_dispatch()), composed::gelu_tanh(x))
}

/// `silu(gate) * up` for `[gate, up]` side by side.
///
/// # Shapes
/// - input: `[N, 2 H]`
/// - output: `[N, H]`
pub fn swiglu(gate_up: Tensor<2>) -> Tensor<2> {
    fused_or_composed!(gate_up, Dispatch::fused_swiglu(gate_up.into_dispatch()), composed::swiglu(gate_up))
}

/// Softmax over the last dimension.
pub fn softmax<const D: usize>(scores: Tensor<D>) -> Tensor<D> {
    fused_or_composed!(
        scores,
        Dispatch::fused_softmax(scores.into_dispatch()),
        burn::tensor::activation::softmax(scores, D - 1)
    )
}

/// The token that each row is scored for, and the distribution it is scored in.
#[derive(Debug, Clone)]
pub(crate) struct Targets {
    ids: Vec<usize>,
    temperature: f32,
    banned: Vec<u32>,
}

impl Targets {
    fn new(ids: &[usize], distribution: &Distribution<'_>) -> Self {
        let Distribution { temperature, banned } = *distribution;
        assert!(temperature > 0.0, "head: expected a temperature above 0, got {temperature}");
        Self { ids: ids.to_vec(), temperature, banned: banned.to_vec() }
    }

    fn distribution(&self) -> Distribution<'_> {
        Distribution { temperature: self.temperature, banned: &self.banned }
    }
}

/// Log-probability of one target a row, `log_softmax(z)[target]` with the logits `z = hidden weight` divided by the
/// temperature and without the banned tokens. On the CPU logits exist for a few rows at a time only, forward and
/// backward. A banned target has no finite log-probability.
///
/// # Shapes
/// - hidden: `[N, D]`
/// - weight: `[D, V]`, or `[V, D]` when it is the embedding (`tied`)
/// - output: `[N, 1]`
///
/// # Panics
/// If there is not one target a row, a target is outside the vocabulary, or the temperature is not above 0.
pub fn head_logprobs(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    tied: bool,
    targets: &[usize],
    distribution: &Distribution<'_>,
) -> Tensor<2> {
    let ([n, d_model], [rows, columns]) = (hidden.dims(), weight.dims());
    let (inner, vocab) = if tied { (columns, rows) } else { (rows, columns) };
    assert_eq!(inner, d_model, "head: expected a weight that fits hidden rows of {d_model}");
    assert_eq!(targets.len(), n, "head: expected one target a row");
    assert!(targets.iter().all(|&target| target < vocab), "head: expected targets below {vocab}");
    let targets = Targets::new(targets, distribution);
    fused_or_composed!(
        hidden,
        Dispatch::head_logprobs(hidden.into_dispatch(), weight.into_dispatch(), tied, Arc::new(targets)),
        composed::head_logprobs(hidden, weight, tied, &targets)
    )
}

/// Log-probability of one target a row from logits that are there in full.
///
/// # Shapes
/// - logits: `[N, V]`
/// - output: `[N, 1]`
pub fn target_logprobs(logits: Tensor<2>, targets: &[usize], distribution: &Distribution<'_>) -> Tensor<2> {
    composed::target_logprobs(logits, &Targets::new(targets, distribution))
}

/// Attention of a whole pass, see [`packed_attention`](crate::packed_attention); `composed` serves where there is no fused
/// form.
pub(crate) fn attention(
    qkv: Tensor<2>,
    layout: &Arc<AttentionLayout>,
    composed: impl FnOnce(Tensor<2>, &AttentionLayout) -> Tensor<2>,
) -> Tensor<2> {
    fused_or_composed!(
        qkv,
        Dispatch::fused_attention(qkv.into_dispatch(), layout.clone()),
        composed(qkv, layout)
    )
}

/// Turns every head by its token's angles: `x cos + rotate_half(x) sin`.
///
/// # Shapes
/// - input and output: `[N, H, Dh]`
/// - cosines and sines: `[N, 1, Dh]`, without gradient
pub(crate) fn rotate(heads: Tensor<3>, cos: &Tensor<3>, sin: &Tensor<3>) -> Tensor<3> {
    fused_or_composed!(
        heads,
        Dispatch::fused_rotate(
            heads.into_dispatch(),
            cos.clone().into_dispatch(),
            sin.clone().into_dispatch(),
            1.0
        ),
        composed::rotate(heads, cos, sin)
    )
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tolerance;

    use super::{
        same_form::{assert_same, random},
        *,
    };
    use crate::WeightInit;

    #[test]
    fn norms_equal_the_composed_form() {
        let device = Device::flex();
        let mut init = WeightInit::new(1, &device);
        for (n, d) in [(1, 7), (3, 96), (500, 128)] {
            let (gamma, beta) = (init.uniform([d], 1.0).val(), init.uniform([d], 1.0).val());
            assert_same(
                random([n, d]),
                |x| rms_norm(x, gamma.clone(), 1e-6),
                |x| composed::rms_norm(x, gamma.clone(), 1e-6),
            );
            assert_same(
                random([n, d]),
                |x| layer_norm(x, gamma.clone(), beta.clone(), 1e-5),
                |x| burn::tensor::module::layer_norm(x, gamma.clone(), Some(beta.clone()), 1e-5),
            );
        }
    }

    #[test]
    fn norm_weights_get_the_composed_gradients() {
        let x = random([700, 33]);
        let gradient = |forward: &dyn Fn(Tensor<2>, Tensor<1>, f64) -> Tensor<2>| {
            let gamma = Tensor::<1>::ones([33], &Device::flex()).autodiff().require_grad();
            let gradients =
                forward(x.clone().autodiff(), gamma.clone(), 1e-6).powi_scalar(2).sum().backward();
            gamma.grad(&gradients).unwrap().into_data()
        };
        let near = Tolerance::<f32>::relative(1e-4);
        gradient(&rms_norm).assert_approx_eq(&gradient(&composed::rms_norm), near);
    }

    #[test]
    fn activations_equal_the_composed_form() {
        for (n, d) in [(1, 2), (5, 34), (700, 96)] {
            assert_same(random([n, d]), gelu, burn::tensor::activation::gelu);
            assert_same(random([n, d]), gelu_tanh, composed::gelu_tanh);
            assert_same(random([n, d]), swiglu, composed::swiglu);
            assert_same(random([n, d]), softmax, |x| burn::tensor::activation::softmax(x, 1));
        }
        let rotary: [Tensor<3>; 2] = [random([9, 1, 8]), random([9, 1, 8])];
        // Cosines and sines repeat in the second half, as `Rotary` makes them.
        let [cos, sin] = rotary.map(|table| table.clone().narrow(2, 0, 4).repeat_dim(2, 2));
        assert_same(random([9, 3, 8]), |x| rotate(x, &cos, &sin), |x| composed::rotate(x, &cos, &sin));
    }

    #[test]
    fn head_logprobs_equal_the_composed_form() {
        // The vocabulary is so large that the rows take several chunks.
        let (n, d, vocab) = (150, 6, 70_001);
        let ids: Vec<usize> = (0..n).map(|i| i * 701 % vocab).collect();
        let banned = [1, 69_999, 80_000];
        let hidden = random([n, d]);
        for (tied, temperature, banned) in
            [(false, 1.0, &[][..]), (true, 0.7, &banned), (false, 3.0, &banned)]
        {
            let distribution = Distribution { temperature, banned };
            let targets = Targets::new(&ids, &distribution);
            let weight = random(if tied { [vocab, d] } else { [d, vocab] }) * 0.3;
            assert_same(
                hidden.clone(),
                |x| head_logprobs(x, weight.clone(), tied, &ids, &distribution),
                |x| composed::head_logprobs(x, weight.clone(), tied, &targets),
            );
            assert_same(
                weight,
                |w| head_logprobs(hidden.clone(), w, tied, &ids, &distribution),
                |w| composed::head_logprobs(hidden.clone(), w, tied, &targets),
            );
        }
    }

    #[test]
    fn banned_tokens_get_no_gradient_and_no_share() {
        let (hidden, weight) = (random([3, 5]), random([5, 7]).autodiff().require_grad());
        let distribution = Distribution { temperature: 0.5, banned: &[2, 6] };
        let of = |id: usize| {
            head_logprobs(hidden.clone().autodiff(), weight.clone(), false, &[id; 3], &distribution)
        };
        let total = [0, 1, 3, 4, 5].into_iter().map(|id| of(id).exp()).reduce(|a, b| a + b).unwrap();
        let near = Tolerance::<f32>::absolute(1e-5);
        total.into_data().assert_approx_eq(&Tensor::<2>::ones([3, 1], &Device::flex()).into_data(), near);
        let gradient = weight.grad(&of(3).sum().backward()).unwrap();
        for id in [2, 6] {
            assert_eq!(gradient.clone().narrow(1, id, 1).abs().sum().into_scalar::<f32>(), 0.0);
        }
    }

    #[test]
    fn rows_without_gradient_move_nothing() {
        let hidden = random([2, 5]).autodiff().require_grad();
        let kept = {
            let weight = random([5, 7]).autodiff();
            head_logprobs(hidden.clone(), weight, false, &[1, 2], &Distribution::default()).narrow(0, 0, 1)
        };
        let gradient = hidden.grad(&kept.sum().backward()).unwrap();
        assert_eq!(gradient.narrow(0, 1, 1).abs().sum().into_scalar::<f32>(), 0.0);
    }
}
