//! What a log-probability is a log-probability of.

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};

/// What is added to the logit of a banned token: it vanishes in every softmax, and unlike minus infinity it makes no
/// number out of which `0 * infinity` could come.
const BANNED: f32 = -1e30;

/// The distribution over the next token: logits divided by the temperature, banned tokens taken out, then softmax.
///
/// Sampler, old, current and reference log-probabilities, divergences and entropies of a training step are all of the
/// one distribution that completions are drawn from; top-k, top-p and min-p would come after it. Supervised and
/// preference stages use the default: temperature 1, nothing banned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distribution<'a> {
    /// Divides the logits; above 0. Default 1.
    pub temperature: f32,
    /// Tokens that are never drawn; ids outside the vocabulary are passed over. Default none.
    pub banned: &'a [u32],
}

impl Default for Distribution<'_> {
    fn default() -> Self {
        Self { temperature: 1.0, banned: &[] }
    }
}

impl Distribution<'_> {
    /// The logits whose softmax is this distribution, in 32 bits.
    ///
    /// # Shapes
    /// - input and output: `[N, V]`
    pub fn logits(&self, logits: Tensor<2>) -> Tensor<2> {
        let [_, vocab] = logits.dims();
        // Probabilities of a large vocabulary need more digits than bf16 has.
        let logits = logits.cast(FloatDType::F32);
        let logits = match self.ban(vocab, &logits.device().without_autodiff()) {
            Some(ban) => logits + ban,
            None => logits,
        };
        // A product: the gradient of Burn's division by a number is rounded to f32.
        if self.temperature == 1.0 { logits } else { logits * (1.0 / f64::from(self.temperature)) }
    }

    /// What takes the banned tokens out of a softmax when it is added to the logits, `[1, V]`; `None` if none is banned.
    pub fn ban(&self, vocab: usize, device: &Device) -> Option<Tensor<2>> {
        let mut ban = vec![0.0_f32; vocab];
        let mut any = false;
        for id in self.banned_within(vocab) {
            ban[id] = BANNED;
            any = true;
        }
        any.then(|| Tensor::from_data(TensorData::new(ban, [1, vocab]), (device, DType::F32)))
    }

    /// The banned ids that a vocabulary of this size has.
    pub fn banned_within(&self, vocab: usize) -> impl Iterator<Item = usize> {
        self.banned.iter().map(|&id| id as usize).filter(move |&id| id < vocab)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::activation::log_softmax;

    use super::*;

    #[test]
    fn hand_case_and_its_gradient() {
        let logits = Tensor::<2>::from_floats([[0.0, 9.0, 2.0 * 3.0_f32.ln()]], &Device::default());
        let logits = logits.autodiff().require_grad();
        let distribution = Distribution { temperature: 2.0, banned: &[1, 7] };
        let logprobs = log_softmax(distribution.logits(logits.clone()), 1);
        let gradients = logprobs.clone().narrow(1, 2, 1).sum().backward();
        let logprobs: Vec<f32> = logprobs.into_data().try_to_vec().unwrap();
        // Weights 1 and 3 are left.
        assert!((logprobs[0] - 0.25_f32.ln()).abs() < 1e-6 && (logprobs[2] - 0.75_f32.ln()).abs() < 1e-6);
        assert!(logprobs[1] < -1e29);
        let gradient: Vec<f32> = logits.grad(&gradients).unwrap().into_data().try_to_vec().unwrap();
        let near = |got: f32, expected: f32| (got - expected).abs() < 1e-6;
        assert!(near(gradient[0], -0.125) && gradient[1] == 0.0 && near(gradient[2], 0.125), "{gradient:?}");
    }
}
