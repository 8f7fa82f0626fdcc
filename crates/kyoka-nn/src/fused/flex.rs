//! The fused operations on flex tensors: shapes and memory; the arithmetic is in `kernels`.

use std::sync::Arc;

use burn::{
    backend::{Flex, TensorMetadata, tensor::FloatTensor},
    tensor::{Shape, TensorData},
};

use super::{
    Targets, attention, head, kernels,
    ops::{FusedBackward, FusedOps},
};

use crate::AttentionLayout;

type Flat = FloatTensor<Flex>;

/// Contiguous values and the length of a row.
fn rows(tensor: &Flat) -> (Flat, usize) {
    let width = *tensor.shape().last().expect("fused operations take tensors with a row");
    (tensor.to_contiguous(), width)
}

fn values(tensor: &Flat) -> &[f32] {
    tensor.as_slice().expect("a contiguous f32 tensor")
}

fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Flat {
    Flat::from_data(TensorData::new(values, shape.into()))
}

impl FusedOps for Flex {
    fn fused_rms_norm(x: Flat, gamma: Flat, epsilon: f32) -> Flat {
        let (x, width) = rows(&x);
        let gamma = gamma.to_contiguous();
        tensor(kernels::rms_norm(values(&x), values(&gamma), width, epsilon), x.shape())
    }

    fn fused_layer_norm(x: Flat, gamma: Flat, beta: Flat, epsilon: f32) -> Flat {
        let (x, width) = rows(&x);
        let (gamma, beta) = (gamma.to_contiguous(), beta.to_contiguous());
        tensor(kernels::layer_norm(values(&x), values(&gamma), values(&beta), width, epsilon), x.shape())
    }

    fn fused_gelu(x: Flat) -> Flat {
        let (x, _) = rows(&x);
        tensor(kernels::gelu(values(&x)), x.shape())
    }

    fn fused_gelu_tanh(x: Flat) -> Flat {
        let (x, _) = rows(&x);
        tensor(kernels::gelu_tanh(values(&x)), x.shape())
    }

    fn fused_swiglu(gate_up: Flat) -> Flat {
        let (gate_up, width) = rows(&gate_up);
        let out = kernels::swiglu(values(&gate_up), width);
        let count = out.len() / (width / 2);
        tensor(out, [count, width / 2])
    }

    fn fused_softmax(scores: Flat) -> Flat {
        let (scores, width) = rows(&scores);
        tensor(kernels::softmax(values(&scores), width), scores.shape())
    }

    fn head_logprobs(hidden: Flat, weight: Flat, tied: bool, targets: Arc<Targets>) -> Flat {
        let (hidden, weight) = (hidden.to_contiguous(), weight.to_contiguous());
        let out = head::logprobs(output_head(&hidden, &weight, tied), values(&hidden), &targets);
        tensor(out, [targets.ids.len(), 1])
    }

    fn fused_attention(qkv: Flat, layout: Arc<AttentionLayout>) -> Flat {
        let qkv = qkv.to_contiguous();
        let width = layout.heads.num_heads * layout.heads.d_head;
        tensor(attention::attention(values(&qkv), &layout), [layout.num_rows(), width])
    }

    fn fused_rotate(heads: Flat, cos: Flat, sin: Flat, direction: f32) -> Flat {
        let (heads, d_head) = rows(&heads);
        let (cos, sin) = (cos.to_contiguous(), sin.to_contiguous());
        let num_heads = heads.shape()[1];
        let out = kernels::rotate(values(&heads), values(&cos), values(&sin), (num_heads, d_head), direction);
        tensor(out, heads.shape())
    }
}

impl FusedBackward for Flex {
    fn rms_norm_backward(x: Flat, gamma: Flat, grad: Flat, epsilon: f32) -> [Flat; 2] {
        let (x, width) = rows(&x);
        let (gamma, grad) = (gamma.to_contiguous(), grad.to_contiguous());
        let (dx, dgamma) =
            kernels::rms_norm_backward(values(&x), values(&gamma), values(&grad), width, epsilon);
        [tensor(dx, x.shape()), tensor(dgamma, [width])]
    }

    fn layer_norm_backward(x: Flat, gamma: Flat, grad: Flat, epsilon: f32) -> [Flat; 3] {
        let (x, width) = rows(&x);
        let (gamma, grad) = (gamma.to_contiguous(), grad.to_contiguous());
        let (dx, dgamma, dbeta) =
            kernels::layer_norm_backward(values(&x), values(&gamma), values(&grad), width, epsilon);
        [tensor(dx, x.shape()), tensor(dgamma, [width]), tensor(dbeta, [width])]
    }

    fn attention_backward(qkv: Flat, layout: Arc<AttentionLayout>, grad: Flat) -> Flat {
        let (qkv, grad) = (qkv.to_contiguous(), grad.to_contiguous());
        tensor(attention::attention_backward(values(&qkv), values(&grad), &layout), qkv.shape())
    }

    fn fused_gelu_backward(x: Flat, grad: Flat) -> Flat {
        let (x, grad) = (x.to_contiguous(), grad.to_contiguous());
        tensor(kernels::gelu_backward(values(&x), values(&grad)), x.shape())
    }

    fn gelu_tanh_backward(x: Flat, grad: Flat) -> Flat {
        let (x, grad) = (x.to_contiguous(), grad.to_contiguous());
        tensor(kernels::gelu_tanh_backward(values(&x), values(&grad)), x.shape())
    }

    fn swiglu_backward(gate_up: Flat, grad: Flat) -> Flat {
        let (gate_up, width) = rows(&gate_up);
        let grad = grad.to_contiguous();
        tensor(kernels::swiglu_backward(values(&gate_up), values(&grad), width), gate_up.shape())
    }

    fn fused_softmax_backward(weights: Flat, grad: Flat) -> Flat {
        let (weights, width) = rows(&weights);
        let grad = grad.to_contiguous();
        tensor(kernels::softmax_backward(values(&weights), values(&grad), width), weights.shape())
    }

    fn head_logprobs_backward(
        [hidden, weight]: [Flat; 2],
        tied: bool,
        targets: Arc<Targets>,
        grad: Flat,
    ) -> [Flat; 2] {
        let (hidden, weight, grad) = (hidden.to_contiguous(), weight.to_contiguous(), grad.to_contiguous());
        let head = output_head(&hidden, &weight, tied);
        let (dhidden, dweight) = head::logprobs_backward(head, values(&hidden), &targets, values(&grad));
        [tensor(dhidden, hidden.shape()), tensor(dweight, weight.shape())]
    }
}

fn output_head<'a>(hidden: &Flat, weight: &'a Flat, tied: bool) -> head::Head<'a> {
    let (d_model, shape) = (hidden.shape()[1], weight.shape());
    head::Head { weight: values(weight), d_model, vocab: if tied { shape[0] } else { shape[1] }, tied }
}
