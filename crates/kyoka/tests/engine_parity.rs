//! One engine samples and learns: the trainer's log-probabilities of a rollout are the sampler's.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::{Device, Gradients, Tensor},
};
use kyoka::{
    MediaAugment, MultimodalTask, Policy, PolicyConfig,
    core::{
        CausalLm, Distribution, MediaRef, Modality, PackedGroup, ParameterPath, Part, Prompt, RolloutEngine,
        RolloutPrompt, RolloutRequest, Sample, SamplingConfig, Task,
    },
    rollout::LocalEngine,
    text::Tokenizer,
};

struct Setup {
    task: MultimodalTask,
    policy: Policy,
    prompts: Vec<Prompt>,
}

/// A fresh policy, and prompts with text only, pictures, a sound, and all of them, of different lengths.
fn setup(device: &Device) -> Setup {
    let data = tempfile::tempdir().unwrap();
    let sound = data.path().join("tone.wav");
    kyoka_testing::write_tone(&sound, 0.3);
    let picture = data.path().join("gradient.png");
    kyoka_testing::write_grey_png(&picture, 28, |x, y| (x * 9 + y) as u8);

    let image = || Part::Media(MediaRef::file(Modality::Image, &picture));
    let audio = || Part::Media(MediaRef::file(Modality::Audio, &sound));
    let text = |words: &str| Part::Text(words.to_owned());
    let questions = [
        vec![text("How many of the pictures show the spoken item?")],
        vec![image(), image(), text("How many?")],
        vec![audio(), text("item?")],
        vec![image(), text("the"), image(), audio(), image(), text("How many of the pictures")],
    ];
    let tokenizer =
        Tokenizer::from_bytes(include_bytes!("../../kyoka-text/tests/tiny_tokenizer.json")).unwrap();
    let config = PolicyConfig::tiny(tokenizer.vocab_size());
    let task = MultimodalTask::new(tokenizer, config.clone(), MediaAugment::default(), 1);
    let prompts = questions.map(|parts| {
        let sample = Sample { id: "q".into(), ..Sample::asking(parts) };
        task.prompt(&sample, None).unwrap()
    });
    Setup { task, policy: config.build(5, device), prompts: prompts.into() }
}

/// Token ids and sampled log-probabilities, group by group.
fn sample(setup: &Setup, group_size: usize, temperature: f32) -> Vec<Vec<(Vec<u32>, Vec<f32>)>> {
    let tokenizer = setup.task.tokenizer();
    let engine = LocalEngine::new(tokenizer.end_id(), tokenizer.banned_ids()).with_model(&setup.policy);
    let sampling = SamplingConfig { temperature, max_new_tokens: 12, ..SamplingConfig::default() };
    let request = RolloutRequest {
        prompts: &RolloutPrompt::numbered(&setup.prompts),
        group_size,
        sampling: &sampling,
        seed: 3,
        episodes: None,
    };
    let groups = engine.generate_all(request).unwrap();
    let rows = groups.into_iter().map(|group| {
        group.rollouts.into_iter().enumerate().map(|(place, mut rollout)| {
            // Completions of different lengths, as in training.
            let length = 12 - (place * 5) % 11;
            rollout.token_ids.truncate(length);
            rollout.logprobs.truncate(length);
            (rollout.token_ids, rollout.logprobs)
        })
    });
    rows.map(Iterator::collect).collect()
}

/// Every prompt with its completions.
fn packed<'a>(setup: &'a Setup, sampled: &'a [Vec<(Vec<u32>, Vec<f32>)>]) -> Vec<PackedGroup<'a>> {
    let groups = setup.prompts.iter().zip(sampled);
    let completions = |rows: &'a [(Vec<u32>, Vec<f32>)]| rows.iter().map(|(ids, _)| ids.into()).collect();
    groups.map(|(prompt, rows)| PackedGroup { prompt, completions: completions(rows) }).collect()
}

fn score(policy: &Policy, groups: &[PackedGroup<'_>], distribution: &Distribution<'_>) -> Vec<Vec<f32>> {
    let scored = policy.score(groups, distribution);
    let [rows, width] = scored.dims();
    let flat: Vec<f32> = scored.into_data().try_to_vec().unwrap();
    (0..rows).map(|row| flat[row * width..(row + 1) * width].to_vec()).collect()
}

#[test]
fn trainer_and_sampler_agree_for_every_kind_of_prompt_and_every_split() {
    for temperature in [1.0, 0.4, 2.5] {
        assert_agree(temperature);
    }
}

/// Placeholders and other special tokens are banned, as in every recipe.
fn assert_agree(temperature: f32) {
    let setup = setup(&Device::flex());
    let banned = setup.task.tokenizer().banned_ids();
    assert!(!banned.is_empty());
    let distribution = Distribution { temperature, banned: &banned };
    let sampled = sample(&setup, 4, temperature);
    let all = packed(&setup, &sampled);
    let score = |groups: &[PackedGroup<'_>]| score(&setup.policy, groups, &distribution);
    let together = score(&all);
    let by_group: Vec<Vec<f32>> = all.iter().flat_map(|group| score(std::slice::from_ref(group))).collect();
    let one_by_one: Vec<Vec<f32>> = all
        .iter()
        .flat_map(|group| {
            group.completions.iter().map(|&ids| PackedGroup { prompt: group.prompt, completions: vec![ids] })
        })
        .flat_map(|single| score(&[single]))
        .collect();
    let mut tokens = 0;
    for (name, scored) in [("together", together), ("by group", by_group), ("one by one", one_by_one)] {
        for ((ids, sampled), scored) in sampled.iter().flatten().zip(&scored) {
            for (place, (old, new)) in sampled.iter().zip(scored).enumerate() {
                let ratio = (new - old).exp();
                assert!(
                    (ratio - 1.0).abs() < 1e-5,
                    "{name}, temperature {temperature}: token {place} of {ids:?}: ratio {ratio}"
                );
                tokens += 1;
            }
            assert!(scored[ids.len()..].iter().all(|&padding| padding == 0.0), "padding must hold 0");
        }
    }
    assert!(tokens > 250, "the comparison must see tokens, saw {tokens}");
}

#[test]
fn completions_do_not_depend_on_how_prompts_are_batched() {
    let setup = setup(&Device::flex());
    let tokenizer = setup.task.tokenizer();
    let generate = |max_rows: usize| {
        let mut engine =
            LocalEngine::new(tokenizer.end_id(), tokenizer.banned_ids()).with_model(&setup.policy);
        engine.max_rows = max_rows;
        let sampling = SamplingConfig { max_new_tokens: 10, ..SamplingConfig::default() };
        let request = RolloutRequest {
            prompts: &RolloutPrompt::numbered(&setup.prompts),
            group_size: 3,
            sampling: &sampling,
            seed: 9,
            episodes: None,
        };
        let groups = engine.generate_all(request).unwrap();
        groups.iter().flat_map(|g| g.rollouts.iter().map(|r| r.token_ids.clone())).collect::<Vec<_>>()
    };
    assert_eq!(generate(512), generate(3));
}

#[test]
fn sampled_tokens_are_never_placeholders() {
    let setup = setup(&Device::flex());
    let banned = setup.task.tokenizer().banned_ids();
    for (ids, _) in sample(&setup, 8, 1.0).into_iter().flatten() {
        assert!(ids.iter().all(|id| !banned.contains(id)));
    }
}

/// All gradients of a policy, flat.
fn gradients(policy: &Policy, gradients: &Gradients) -> Vec<(String, Vec<f32>)> {
    struct Collect<'a> {
        gradients: &'a Gradients,
        path: ParameterPath,
        found: Vec<(String, Vec<f32>)>,
    }
    impl ModuleVisitor for Collect<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = param.val().grad(self.gradients).expect("every parameter takes part");
            self.found.push((self.path.name(), gradient.into_data().try_to_vec().unwrap()));
        }
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
    }
    let mut collect = Collect { gradients, path: ParameterPath::default(), found: Vec::new() };
    policy.visit(&mut collect);
    collect.found
}

#[test]
fn shared_prefix_training_gives_the_gradients_of_plain_training() {
    let setup = setup(&Device::flex().autodiff());
    let sampled = sample(&setup, 3, 0.8);
    let groups = packed(&setup, &sampled);
    let banned = setup.task.tokenizer().banned_ids();
    let distribution = Distribution { temperature: 0.8, banned: &banned };
    let shared = setup.policy.score(&groups, &distribution).sum();
    let plain = groups
        .iter()
        .flat_map(|group| {
            group.completions.iter().map(|&ids| PackedGroup { prompt: group.prompt, completions: vec![ids] })
        })
        .map(|single| setup.policy.score(&[single], &distribution).sum())
        .reduce(|a, b| a + b)
        .unwrap();
    let shared = gradients(&setup.policy, &shared.backward());
    let plain = gradients(&setup.policy, &plain.backward());
    assert!(shared.len() > 60);
    for ((name, a), (_, b)) in shared.iter().zip(&plain) {
        let distance: f32 = a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum::<f32>().sqrt();
        let length: f32 = b.iter().map(|y| y.powi(2)).sum::<f32>().sqrt();
        assert!(distance <= 1e-4 * length.max(1e-3), "{name}: {distance} of {length}");
    }
}

#[test]
fn kept_features_of_frozen_encoders_change_nothing_and_every_medium_is_encoded_once() {
    let setup = setup(&Device::flex().autodiff());
    let sampled = sample(&setup, 2, 1.0);
    let groups = packed(&setup, &sampled);
    let distribution = Distribution::default();
    let expected = score(&setup.policy.valid(), &groups, &distribution);
    let kept = setup.policy.clone().with_feature_cache(1 << 20);
    // Prefill, two passes of a policy without gradients and one with them: as sampling and two epochs do.
    let prompts: Vec<&Prompt> = setup.prompts.iter().collect();
    kept.valid().prefill(&prompts);
    assert_eq!(score(&kept.valid(), &groups, &distribution), expected);
    let loss = kept.score(&groups, &distribution).sum();
    // All pictures of the setup are one file, and so are the sounds.
    assert_eq!(kept.num_encoded(), [1, 1]);
    let gradients = loss.backward();
    let plain = setup.policy.score(&groups, &distribution).sum().backward();
    let projector = |policy: &Policy, gradients: &Gradients| -> Vec<f32> {
        let tower = policy.image.as_ref().unwrap();
        let weight = &tower.projector.mlp.as_ref().unwrap().fc1.weight;
        weight.val().grad(gradients).unwrap().into_data().try_to_vec().unwrap()
    };
    let (got, expected) = (projector(&kept, &gradients), projector(&setup.policy, &plain));
    assert!(got.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs().max(1.0)));
    let encoder = &kept.image.as_ref().unwrap().encoder;
    let moved = kyoka::core::named_parameters(encoder).len();
    assert!(
        moved > 0 && GradientsParams::from_grads(gradients, encoder).is_empty(),
        "no gradient reaches it"
    );
}
