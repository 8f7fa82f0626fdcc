//! The policy in bfloat16, weights and activations, with 32-bit losses and optimizer. The CPU is asked for it here only to
//! test what other devices do: its own operations are in 32 bits, and recipes refuse bf16 there.

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::{DType, Device, FloatDType, Tensor},
};
use kyoka::{
    core::{AudioInput, CausalLm, Distribution, ImageInput, PackedGroup, Prompt},
    fusion::{Decoder, DecoderConfig, MultimodalLm, NoEncoder},
    nn::WeightInit,
    trainer::{AdamW, AdamWConfig},
};

type Policy = MultimodalLm<NoEncoder<ImageInput>, NoEncoder<AudioInput>>;

const VOCAB: usize = 32;

struct Formats(Vec<DType>);

impl ModuleVisitor for Formats {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(param.val().dtype());
    }
}

#[test]
fn a_policy_in_bf16_learns_a_completion_and_samples_as_it_scores() {
    let mut device = Device::flex();
    device.configure(FloatDType::BF16).unwrap();
    let mut init = WeightInit::new(5, &device.autodiff());
    let mut policy = Policy::text_only(Decoder::new(&DecoderConfig::tiny(VOCAB), &mut init));
    let prompt = Prompt { token_ids: vec![3, 1, 4, 1, 5], ..Prompt::default() };
    let completion = [9, 2, 6, 5];
    let groups = [PackedGroup { prompt: &prompt, completions: vec![(&completion).into()] }];
    // Bans and temperature act on widened logits.
    let distribution = Distribution { temperature: 0.7, banned: &[0, 1, 31] };
    let mut optimizer = AdamW::new(AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() });
    let mut losses: Vec<f32> = Vec::new();
    for _ in 0..40 {
        let logprobs = policy.score(&groups, &distribution);
        assert_eq!(logprobs.dtype(), DType::F32, "log-probabilities are in 32 bits");
        let loss = logprobs.mean().neg();
        losses.push(loss.clone().into_scalar());
        let gradients = GradientsParams::from_grads(loss.backward(), &policy);
        policy = optimizer.step(2e-3, policy, gradients).unwrap();
    }
    assert!((losses[0] - (VOCAB as f32 - 3.0).ln()).abs() < 0.7, "it starts at chance: {losses:?}");
    assert!(losses[39] < 0.3, "it learns: {losses:?}");
    let mut formats = Formats(Vec::new());
    policy.visit(&mut formats);
    assert!(formats.0.iter().all(|&format| format == DType::BF16), "weights stay in bf16");

    let policy = policy.valid();
    let scored: Vec<f32> = policy.score(&groups, &distribution).into_data().try_into_vec().unwrap();
    let prefill = policy.prefill(&[&prompt]);
    let (mut cache, mut logits) = (prefill.cache, prefill.logits);
    policy.branch(&mut cache, 1, 4);
    for (token, scored) in completion.iter().zip(scored) {
        let logits_now = distribution.logits(logits);
        let logprobs: Vec<f32> =
            burn::tensor::activation::log_softmax(logits_now, 1).into_data().try_into_vec().unwrap();
        let stepped = logprobs[*token as usize];
        assert!((stepped - scored).abs() < 0.05, "token {token}: {stepped} step by step, {scored} scored");
        logits = policy.decode(&mut cache, &[*token]);
    }
}
