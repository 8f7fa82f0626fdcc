//! Completions that join others and end at once.
#![expect(clippy::unwrap_used, reason = "a test")]

use burn::tensor::Device;
use kyoka::{
    core::{
        AudioInput, ImageInput, Prompt, RolloutEngine, RolloutGroup, RolloutPrompt, RolloutRequest,
        SamplingConfig,
    },
    fusion::{Decoder, DecoderConfig, MultimodalLm, NoEncoder},
    nn::WeightInit,
    rollout::LocalEngine,
};

type Policy = MultimodalLm<NoEncoder<ImageInput>, NoEncoder<AudioInput>>;

const VOCAB: u32 = 64;
const NEW_TOKENS: usize = 8;

fn policy() -> Policy {
    let device = Device::flex();
    let config =
        DecoderConfig { num_layers: 2, tie_embeddings: false, ..DecoderConfig::tiny(VOCAB as usize) };
    let mut init = WeightInit::new(8, &device);
    let mut decoder = Decoder::new(&config, &mut init);
    decoder.embedding = init.uniform([VOCAB as usize, config.d_model], 0.5);
    Policy::text_only(decoder)
}

fn generate(engine: &LocalEngine<Policy>, words: &[u32]) -> Vec<RolloutGroup> {
    let prompt = |&word: &u32| Prompt { token_ids: vec![word], ..Prompt::default() };
    let prompts: Vec<Prompt> = words.iter().map(prompt).collect();
    let sampling = SamplingConfig::greedy(NEW_TOKENS);
    let asked = RolloutPrompt::numbered(&prompts);
    let request =
        RolloutRequest { prompts: &asked, group_size: 1, sampling: &sampling, seed: 1, episodes: None };
    engine.generate_all(request).unwrap()
}

/// The likeliest completion of every one-word prompt.
fn chains(policy: &Policy) -> Vec<Vec<u32>> {
    let engine = LocalEngine::new(u32::MAX, Vec::new()).with_model(policy);
    let words: Vec<u32> = (0..VOCAB).collect();
    generate(&engine, &words).into_iter().map(|mut group| group.rollouts.remove(0).token_ids).collect()
}

/// An end token, a prompt that it ends at once, and prompts that it ends later or never, of at least two lengths.
fn scenario(chains: &[Vec<u32>]) -> (u32, u32, Vec<u32>) {
    let found = (0..VOCAB).find_map(|end| {
        let place = |word: &u32| chains[*word as usize].iter().position(|&token| token == end);
        let words = || 0..VOCAB;
        let at_once = words().find(|word| place(word) == Some(0))?;
        let early = words().find(|word| matches!(place(word), Some(1..5)))?;
        let never = words().find(|word| place(word).is_none())?;
        Some((end, at_once, vec![early, never]))
    });
    found.expect("a policy with random weights says one thing after another")
}

#[test]
fn a_cohort_that_ends_at_its_first_token_joins_nobody() {
    let policy = policy();
    let chains = chains(&policy);
    let (end, at_once, others) = scenario(&chains);
    let mut engine = LocalEngine::new(end, Vec::new()).with_model(&policy);
    // 512 completions at first; the last 40 prompts join when a few of them have ended.
    let words: Vec<u32> = (0..512).map(|row| others[row % 2]).chain([at_once; 40]).collect();
    let expected = |word: u32| -> Vec<u32> {
        let chain = &chains[word as usize];
        let length = chain.iter().position(|&token| token == end).map_or(NEW_TOKENS, |place| place + 1);
        chain[..length].to_vec()
    };
    for draw_on_device in [false, true] {
        engine.draw_on_device = Some(draw_on_device);
        let groups = generate(&engine, &words);
        assert_eq!(groups.len(), words.len());
        for (group, &word) in groups.iter().zip(&words) {
            assert_eq!(group.rollouts[0].token_ids, expected(word), "after {word}");
        }
    }
}
