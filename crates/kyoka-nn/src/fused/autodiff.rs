//! Gradients of the fused operations.

use std::sync::Arc;

use burn::backend::{
    Autodiff, Backend,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::FloatTensor,
};

use super::{
    Targets,
    ops::{FusedBackward, FusedOps},
};
use crate::AttentionLayout;

/// Hands each parent its gradient.
macro_rules! register {
    ($grads:expr, $parents:expr, $values:expr) => {
        for (parent, value) in $parents.into_iter().zip($values) {
            if let Some(parent) = parent {
                $grads.register::<B>(parent.id, value);
            }
        }
    };
}

/// A differentiable operation: nodes of its parents, what its backward pass keeps, and its output.
macro_rules! tracked {
    ($backward:expr, [$($node:expr),+], $state:expr, $output:expr) => {
        match $backward.prepare::<C>([$($node),+]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish($state, $output),
            OpsKind::UnTracked(prep) => prep.finish($output),
        }
    };
}

impl<B: Backend + FusedBackward, C: CheckpointStrategy> FusedOps for Autodiff<B, C> {
    fn fused_rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct RmsNorm;
        impl<B: Backend + FusedBackward> Backward<B, 2> for RmsNorm {
            type State = (B::FloatTensorPrimitive, B::FloatTensorPrimitive, f32);
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (x, gamma, epsilon) = ops.state;
                register!(grads, ops.parents, B::rms_norm_backward(x, gamma, grad, epsilon));
            }
        }
        let nodes = (x.node(), gamma.node());
        let (x, gamma) = (x.into_primitive(), gamma.into_primitive());
        let output = B::fused_rms_norm(x.clone(), gamma.clone(), epsilon);
        tracked!(RmsNorm, [nodes.0, nodes.1], (x, gamma, epsilon), output)
    }

    fn fused_layer_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct LayerNorm;
        impl<B: Backend + FusedBackward> Backward<B, 3> for LayerNorm {
            type State = (B::FloatTensorPrimitive, B::FloatTensorPrimitive, f32);
            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (x, gamma, epsilon) = ops.state;
                register!(grads, ops.parents, B::layer_norm_backward(x, gamma, grad, epsilon));
            }
        }
        let nodes = (x.node(), gamma.node(), beta.node());
        let (x, gamma) = (x.into_primitive(), gamma.into_primitive());
        let output = B::fused_layer_norm(x.clone(), gamma.clone(), beta.into_primitive(), epsilon);
        tracked!(LayerNorm, [nodes.0, nodes.1, nodes.2], (x, gamma, epsilon), output)
    }

    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Gelu;
        impl<B: Backend + FusedBackward> Backward<B, 1> for Gelu {
            type State = B::FloatTensorPrimitive;
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                register!(grads, ops.parents, [B::fused_gelu_backward(ops.state, grad)]);
            }
        }
        let node = x.node();
        let x = x.into_primitive();
        let output = B::fused_gelu(x.clone());
        tracked!(Gelu, [node], x, output)
    }

    fn fused_gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct GeluTanh;
        impl<B: Backend + FusedBackward> Backward<B, 1> for GeluTanh {
            type State = B::FloatTensorPrimitive;
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                register!(grads, ops.parents, [B::gelu_tanh_backward(ops.state, grad)]);
            }
        }
        let node = x.node();
        let x = x.into_primitive();
        let output = B::fused_gelu_tanh(x.clone());
        tracked!(GeluTanh, [node], x, output)
    }

    fn fused_swiglu(gate_up: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Swiglu;
        impl<B: Backend + FusedBackward> Backward<B, 1> for Swiglu {
            type State = B::FloatTensorPrimitive;
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                register!(grads, ops.parents, [B::swiglu_backward(ops.state, grad)]);
            }
        }
        let node = gate_up.node();
        let gate_up = gate_up.into_primitive();
        let output = B::fused_swiglu(gate_up.clone());
        tracked!(Swiglu, [node], gate_up, output)
    }

    fn fused_softmax(scores: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Softmax;
        impl<B: Backend + FusedBackward> Backward<B, 1> for Softmax {
            type State = B::FloatTensorPrimitive;
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                register!(grads, ops.parents, [B::fused_softmax_backward(ops.state, grad)]);
            }
        }
        let node = scores.node();
        let output = B::fused_softmax(scores.into_primitive());
        tracked!(Softmax, [node], output.clone(), output)
    }

    fn head_logprobs(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        tied: bool,
        targets: Arc<Targets>,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct HeadLogprobs;
        impl<B: Backend + FusedBackward> Backward<B, 2> for HeadLogprobs {
            type State = ([B::FloatTensorPrimitive; 2], bool, Arc<Targets>);
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (inputs, tied, targets) = ops.state;
                register!(grads, ops.parents, B::head_logprobs_backward(inputs, tied, targets, grad));
            }
        }
        let nodes = (hidden.node(), weight.node());
        let (hidden, weight) = (hidden.into_primitive(), weight.into_primitive());
        let output = B::head_logprobs(hidden.clone(), weight.clone(), tied, targets.clone());
        tracked!(HeadLogprobs, [nodes.0, nodes.1], ([hidden, weight], tied, targets), output)
    }

    fn fused_attention(qkv: FloatTensor<Self>, layout: Arc<AttentionLayout>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Attention;
        impl<B: Backend + FusedBackward> Backward<B, 1> for Attention {
            type State = (B::FloatTensorPrimitive, Arc<AttentionLayout>);
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (qkv, layout) = ops.state;
                register!(grads, ops.parents, [B::attention_backward(qkv, layout, grad)]);
            }
        }
        let node = qkv.node();
        let qkv = qkv.into_primitive();
        let output = B::fused_attention(qkv.clone(), layout.clone());
        tracked!(Attention, [node], (qkv, layout), output)
    }

    fn fused_rotate(
        heads: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        direction: f32,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Rotate;
        impl<B: Backend + FusedBackward> Backward<B, 1> for Rotate {
            type State = (B::FloatTensorPrimitive, B::FloatTensorPrimitive, f32);
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (cos, sin, direction) = ops.state;
                register!(grads, ops.parents, [B::fused_rotate(grad, cos, sin, -direction)]);
            }
        }
        let node = heads.node();
        let (cos, sin) = (cos.into_primitive(), sin.into_primitive());
        let output = B::fused_rotate(heads.into_primitive(), cos.clone(), sin.clone(), direction);
        tracked!(Rotate, [node], (cos, sin, direction), output)
    }
}
