//! Sampler and trainer speak of one distribution: logits over the temperature, without the banned tokens.
#![expect(clippy::unwrap_used, reason = "a test")]

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::{Device, Int, Tensor, TensorData, activation::log_softmax},
};
use kyoka::{
    core::{
        AudioInput, CausalLm, Distribution, ImageInput, PackedGroup, ParameterPath, Prompt, Recompute,
        RolloutEngine, RolloutGroup, RolloutPrompt, RolloutRequest, SamplingConfig,
    },
    fusion::{Decoder, DecoderConfig, MultimodalLm, NoEncoder},
    nn::{Linears, LowRank, LowRankConfig, NamedLinears, WeightInit},
    rollout::LocalEngine,
};

type Policy = MultimodalLm<NoEncoder<ImageInput>, NoEncoder<AudioInput>>;

const VOCAB: usize = 23;
const BANNED: [u32; 4] = [0, 7, 22, 99];

/// A policy whose logits differ by several nats, so that temperature and bans matter.
fn policy(tie_embeddings: bool, device: &Device) -> Policy {
    let config = DecoderConfig { tie_embeddings, ..DecoderConfig::tiny(VOCAB) };
    let mut init = WeightInit::new(3, device);
    let mut decoder = Decoder::new(&config, &mut init);
    decoder.embedding = init.uniform([VOCAB, config.d_model], 0.3);
    Policy::text_only(decoder)
}

fn prompts() -> Vec<Prompt> {
    let prompt = |ids: &[u32]| Prompt { token_ids: ids.to_vec(), ..Prompt::default() };
    vec![prompt(&[1, 2, 3]), prompt(&[9]), prompt(&[4, 4, 8, 15, 16])]
}

fn sampled(policy: &Policy, temperature: f32, draw_on_device: bool) -> Vec<RolloutGroup> {
    let mut engine = LocalEngine::new(5, BANNED.to_vec()).with_model(policy);
    engine.draw_on_device = Some(draw_on_device);
    let sampling = SamplingConfig { temperature, max_new_tokens: 9, ..SamplingConfig::default() };
    let prompts = prompts();
    let asked = RolloutPrompt::numbered(&prompts);
    let request =
        RolloutRequest { prompts: &asked, group_size: 6, sampling: &sampling, seed: 3, episodes: None };
    engine.generate_all(request).unwrap()
}

fn packed(groups: &[RolloutGroup]) -> Vec<PackedGroup<'_>> {
    groups
        .iter()
        .map(|group| PackedGroup {
            prompt: &group.prompt,
            completions: group.rollouts.iter().map(Into::into).collect(),
        })
        .collect()
}

/// Log-probability of the token that comes after `ids`, and entropy there, from the logits by hand.
fn by_hand(policy: &Policy, ids: &[u32], next: u32, temperature: f32) -> (f64, f64) {
    let prompt = Prompt { token_ids: ids.to_vec(), ..Prompt::default() };
    let logits: Vec<f32> = policy.valid().trace(&[&prompt]).logits.into_data().try_into_vec().unwrap();
    let last = &logits[logits.len() - VOCAB..];
    let allowed = |id: &usize| !BANNED.contains(&(*id as u32));
    let scaled = |id: usize| f64::from(last[id]) / f64::from(temperature);
    let norm = (0..VOCAB).filter(allowed).map(|id| scaled(id).exp()).sum::<f64>().ln();
    let logprob = |id: usize| scaled(id) - norm;
    let entropy = -(0..VOCAB).filter(allowed).map(|id| logprob(id).exp() * logprob(id)).sum::<f64>();
    (logprob(next as usize), entropy)
}

#[test]
fn log_probabilities_and_entropies_are_those_of_what_is_drawn() {
    let policy = policy(true, &Device::flex().autodiff());
    for temperature in [0.3, 1.0, 3.0] {
        let distribution = Distribution { temperature, banned: &BANNED };
        for draw_on_device in [false, true] {
            let groups = sampled(&policy, temperature, draw_on_device);
            let scores = policy.score(&packed(&groups), &distribution);
            let [_, width] = scores.dims();
            let scores: Vec<f32> = scores.into_data().try_into_vec().unwrap();
            let rollouts = groups.iter().flat_map(|g| g.rollouts.iter().map(move |r| (&g.prompt, r)));
            let (mut entropy, mut tokens) = (0.0, 0);
            for ((prompt, rollout), scores) in rollouts.zip(scores.chunks_exact(width)) {
                for (t, &token) in rollout.token_ids.iter().enumerate() {
                    assert!(!BANNED.contains(&token));
                    let before = [&prompt.token_ids, &rollout.token_ids[..t]].concat();
                    let (logprob, hand) = by_hand(&policy, &before, token, temperature);
                    let ratio = f64::from(scores[t] - rollout.logprobs[t]).exp();
                    assert!((ratio - 1.0).abs() < 1e-5, "temperature {temperature}: ratio {ratio}");
                    assert!((f64::from(rollout.logprobs[t]) - logprob).abs() < 2e-5);
                    assert!((f64::from(rollout.entropies[t]) - hand).abs() < 2e-5);
                    entropy += f64::from(rollout.entropies[t]);
                    tokens += 1;
                }
            }
            assert!(tokens > 60 && entropy / f64::from(tokens) < 20.0_f64.ln());
        }
    }
}

/// Gradients of all parameters by name.
fn gradients(policy: &Policy, gradients: GradientsParams) -> Vec<(String, Vec<f32>)> {
    struct Collect(GradientsParams, ParameterPath, Vec<(String, Vec<f32>)>);
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.0.remove::<D>(param.id).expect("every parameter takes part");
            self.2.push((self.1.name(), gradient.into_data().try_into_vec().unwrap()));
        }
        fn enter_module(&mut self, name: &str, container: &str) {
            self.1.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.1.exit();
        }
    }
    let mut collect = Collect(gradients, ParameterPath::default(), Vec::new());
    policy.visit(&mut collect);
    collect.2
}

fn assert_close(got: &[(String, Vec<f32>)], expected: &[(String, Vec<f32>)]) {
    assert_eq!(got.len(), expected.len());
    for ((name, a), (_, b)) in got.iter().zip(expected) {
        let distance: f32 = a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum::<f32>().sqrt();
        let length: f32 = b.iter().map(|y| y.powi(2)).sum::<f32>().sqrt();
        assert!(distance <= 1e-4 * length.max(1e-3), "{name}: {distance} of {length}");
    }
}

/// The fused output head, the head after recomputed layers, and logits in full give the same gradients.
#[test]
fn every_way_back_gives_the_gradients_of_the_distribution() {
    for tie_embeddings in [true, false] {
        let policy = policy(tie_embeddings, &Device::flex().autodiff());
        let distribution = Distribution { temperature: 0.6, banned: &BANNED };
        let groups = sampled(&policy, 0.6, false);
        let groups = packed(&groups);
        let fused = policy.score(&groups, &distribution).sum().backward();
        let fused = gradients(&policy, GradientsParams::from_grads(fused, &policy));

        let (logprobs, hidden) = policy.score_with_hidden(&groups, &distribution);
        let [r, t, d] = hidden.dims();
        let logits = distribution.logits(policy.logits(hidden.reshape([r * t, d])));
        let mut targets = vec![0_i64; r * t];
        let mut counted = vec![0.0_f32; r * t];
        for (row, ids) in groups.iter().flat_map(|group| &group.completions).enumerate() {
            for (place, &id) in ids.token_ids.iter().enumerate() {
                targets[row * t + place] = i64::from(id);
                counted[row * t + place] = 1.0;
            }
        }
        let device = logprobs.device().without_autodiff();
        let targets = Tensor::<2, Int>::from_data(TensorData::new(targets, [r * t, 1]), &device);
        let counted = Tensor::<2>::from_data(TensorData::new(counted, [r * t, 1]), &device);
        let composed = (log_softmax(logits, 1).gather(1, targets) * counted).sum();
        let (a, b) = (logprobs.sum().into_scalar::<f32>(), composed.clone().into_scalar::<f32>());
        assert!((a - b).abs() < 1e-3, "{a} fused, {b} composed");
        let composed = gradients(&policy, GradientsParams::from_grads(composed.backward(), &policy));
        assert_close(&fused, &composed);

        let cut = policy.score_cut(&groups, &distribution, false);
        let mut above = cut.logprobs.sum().backward();
        let mut accumulator = burn::optim::GradientsAccumulator::new();
        policy
            .backward_cut(&groups, cut.saved, &mut above, &mut |part| accumulator.accumulate(&policy, part));
        accumulator.accumulate(&policy, GradientsParams::from_grads(above, &policy));
        assert_close(&gradients(&policy, accumulator.grads()), &fused);
    }
}

/// An adapter on the output matrix is part of what is scored, as it is of what samples.
#[test]
fn an_adapter_on_the_output_is_scored_as_it_samples() {
    let device = Device::flex();
    let mut init = WeightInit::new(9, &device);
    let mut policy = policy(false, &device);
    let mut linears = NamedLinears::new();
    policy.linears("", &mut linears);
    let (_, head) = linears.into_iter().find(|(name, _)| name.ends_with("head")).unwrap();
    let config = LowRankConfig { rank: 2, scale: 1.0, dropout: 0.0 };
    let mut adapter = LowRank::new(config, 128, 0..VOCAB, &mut init);
    adapter.b = init.uniform([2, VOCAB], 2.0);
    head.adapters.push(adapter);
    let groups = sampled(&policy, 1.0, false);
    let scores = policy.score(&packed(&groups), &Distribution { temperature: 1.0, banned: &BANNED });
    let [_, width] = scores.dims();
    let scores: Vec<f32> = scores.into_data().try_into_vec().unwrap();
    let rollouts = groups.iter().flat_map(|group| &group.rollouts);
    for (rollout, scores) in rollouts.zip(scores.chunks_exact(width)) {
        for (sampled, scored) in rollout.logprobs.iter().zip(scores) {
            assert!(((scored - sampled).exp() - 1.0).abs() < 1e-5, "{sampled} sampled, {scored} scored");
        }
    }
}
