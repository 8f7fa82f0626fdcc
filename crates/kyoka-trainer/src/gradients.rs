//! Gradients as a whole.

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::{DType, FloatDType, Tensor},
};

/// Applies `action` to the gradient of every parameter that has one; `None` leaves it out.
fn map_gradients<M: Module>(
    module: &M,
    gradients: &mut GradientsParams,
    action: &mut dyn FnMut(Tensor<1>) -> Option<Tensor<1>>,
) {
    struct Visit<'a> {
        gradients: &'a mut GradientsParams,
        action: &'a mut dyn FnMut(Tensor<1>) -> Option<Tensor<1>>,
    }
    impl ModuleVisitor for Visit<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let Some(gradient) = self.gradients.get::<D>(param.id) else { return };
            let shape = gradient.shape();
            let count = shape.num_elements();
            if let Some(changed) = (self.action)(gradient.reshape([count])) {
                self.gradients.register(param.id, changed.reshape::<D, _>(shape));
            }
        }
    }
    module.visit(&mut Visit { gradients, action });
}

/// Euclidean norm over all parameters; NaN if any gradient is not a number.
pub fn global_norm<M: Module>(module: &M, gradients: &mut GradientsParams) -> f64 {
    let mut squares = 0.0;
    map_gradients(module, gradients, &mut |gradient| {
        squares += f64::from(gradient.cast(FloatDType::F32).square().sum().into_scalar::<f32>());
        None
    });
    squares.sqrt()
}

/// Multiplies all gradients by a factor.
pub fn scale_gradients<M: Module>(module: &M, gradients: &mut GradientsParams, factor: f64) {
    map_gradients(module, gradients, &mut |gradient| Some(gradient * factor));
}

/// In 32-bit numbers, so that sums over micro-batches lose nothing.
pub(crate) fn widened<M: Module>(module: &M, mut gradients: GradientsParams) -> GradientsParams {
    map_gradients(module, &mut gradients, &mut |gradient| {
        (gradient.dtype() != DType::F32).then(|| gradient.cast(FloatDType::F32))
    });
    gradients
}
