//! The training pass that keeps the inputs of layers alone.

use std::sync::Arc;

use burn::{
    module::{Module, ModuleDisplay},
    optim::GradientsParams,
    tensor::{Gradients, Int, Tensor},
};
use kyoka_core::{
    AudioInput, CutScore, Distribution, ImageInput, ModalityEncoder, PackedGroup, Recompute, SavedPass,
};
use kyoka_nn::{AttentionLayout, Linears, indices, packed_attention};

use crate::{Decoder, MultimodalLm, packing::Packing};

/// What the backward pass needs.
struct LayerInputs {
    packing: Packing,
    layout: Arc<AttentionLayout>,
    /// Rows that go on after the last layer's attention.
    wanted: Tensor<1, Int>,
    /// Input of every layer, without gradients; `[N, D]` each.
    inputs: Vec<Tensor<2>>,
    /// Output of the last layer: the leaf at which the graph above ends.
    output: Tensor<2>,
}

impl Decoder {
    /// One layer of a packed pass; the last one goes on with the wanted rows alone.
    fn packed_layer(
        &self,
        index: usize,
        input: Tensor<2>,
        layout: &Arc<AttentionLayout>,
        wanted: &Tensor<1, Int>,
    ) -> Tensor<2> {
        let layer = &self.layers[index];
        if index + 1 < self.layers.len() {
            return layer.forward(input, |_, qkv| packed_attention(qkv, layout), |input| input);
        }
        let pick = |rows: Tensor<2>| rows.select(0, wanted.clone());
        layer.forward(input, |_, qkv| pick(packed_attention(qkv, layout)), pick)
    }
}

/// Back through one part: from its output and the slope there to the gradients of everything it is made of. `None` if
/// nothing in it is trained.
fn backward(output: Tensor<2>, slope: Tensor<2>) -> Option<Gradients> {
    let sum = (output * slope.autodiff()).sum();
    sum.is_tracked().then(|| sum.backward())
}

impl<I, A> Recompute for MultimodalLm<I, A>
where
    I: ModalityEncoder<Input = ImageInput> + Linears + ModuleDisplay,
    A: ModalityEncoder<Input = AudioInput> + Linears + ModuleDisplay,
{
    fn score_cut(
        &self,
        groups: &[PackedGroup<'_>],
        distribution: &Distribution<'_>,
        with_hidden: bool,
    ) -> CutScore {
        let packing = self.packing(groups);
        let plain = self.valid();
        let mut rows = plain.pass_input(groups, &packing);
        let device = rows.device();
        let (layout, wanted) =
            (plain.decoder.packed_layout(&packing, &device), indices(&packing.predictors, &device));
        let mut inputs = Vec::with_capacity(plain.decoder.layers.len());
        for index in 0..plain.decoder.layers.len() {
            inputs.push(rows.clone());
            rows = plain.decoder.packed_layer(index, rows, &layout, &wanted);
        }
        let output = rows.autodiff().require_grad();
        let logprobs = self.decoder.target_logprobs(output.clone(), &packing.targets, distribution);
        let logprobs = packing.unpack(logprobs).squeeze_dim(2);
        let hidden = with_hidden.then(|| packing.unpack(self.decoder.normed(output.clone())));
        CutScore {
            logprobs,
            hidden,
            saved: Box::new(LayerInputs { packing, layout, wanted, inputs, output }),
        }
    }

    fn backward_cut(
        &self,
        groups: &[PackedGroup<'_>],
        saved: SavedPass,
        gradients: &mut Gradients,
        take: &mut dyn FnMut(GradientsParams),
    ) {
        let saved = saved.downcast().expect("a pass of this model");
        let LayerInputs { packing, layout, wanted, mut inputs, output } = *saved;
        let Some(mut slope) = output.grad_remove(gradients) else { return };
        drop(output);
        while let Some(input) = inputs.pop() {
            let index = inputs.len();
            let leaf = input.autodiff().require_grad();
            let output = self.decoder.packed_layer(index, leaf.clone(), &layout, &wanted);
            let mut gradients = backward(output, slope).expect("the input of a layer is tracked");
            slope = leaf.grad_remove(&mut gradients).expect("a layer's output depends on its input");
            take(GradientsParams::from_module(&mut gradients, &self.decoder.layers[index]));
        }
        if let Some(gradients) = backward(self.pass_input(groups, &packing), slope) {
            take(GradientsParams::from_grads(gradients, self));
        }
    }
}
