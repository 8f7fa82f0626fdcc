//! The same operations from Burn's own, for every device.

use burn::tensor::{Int, Tensor, TensorData, activation};

use super::Targets;

pub fn gelu_tanh(x: Tensor<2>) -> Tensor<2> {
    let inner = (x.clone() + x.clone().powi_scalar(3) * 0.044_715) * (2.0 / std::f64::consts::PI).sqrt();
    x * (inner.tanh() + 1.0) * 0.5
}

pub fn swiglu(gate_up: Tensor<2>) -> Tensor<2> {
    let [_, d_both] = gate_up.dims();
    let gate = gate_up.clone().narrow(1, 0, d_both / 2);
    activation::silu(gate) * gate_up.narrow(1, d_both / 2, d_both / 2)
}

pub fn head_logprobs(hidden: Tensor<2>, weight: Tensor<2>, tied: bool, targets: &Targets) -> Tensor<2> {
    target_logprobs(hidden.matmul(if tied { weight.transpose() } else { weight }), targets)
}

pub fn target_logprobs(logits: Tensor<2>, targets: &Targets) -> Tensor<2> {
    let logits = targets.distribution().logits(logits);
    let ids: Vec<i64> = targets.ids.iter().map(|&target| target as i64).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [targets.ids.len(), 1]), &logits.device());
    activation::log_softmax(logits, 1).gather(1, ids)
}

pub fn rotate(heads: Tensor<3>, cos: &Tensor<3>, sin: &Tensor<3>) -> Tensor<3> {
    let [_, _, d_head] = heads.dims();
    let half = d_head / 2;
    let first = heads.clone().narrow(2, 0, half);
    let second = heads.clone().narrow(2, half, half);
    let turned = Tensor::cat(vec![second.neg(), first], 2);
    heads * cos.clone() + turned * sin.clone()
}

pub fn rms_norm(x: Tensor<2>, gamma: Tensor<1>, epsilon: f64) -> Tensor<2> {
    let scale = (x.clone().powi_scalar(2).mean_dim(1) + epsilon).sqrt().recip();
    x * scale * gamma.unsqueeze()
}
