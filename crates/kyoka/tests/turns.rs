//! Completions of several turns, with words, pictures and sounds seen in between: one engine samples and learns there too.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use burn::tensor::Device;
use kyoka::{
    MediaAugment, MultimodalTask, Policy, PolicyConfig,
    core::{
        CausalLm, Distribution, Episode, Episodes, MediaRef, Modality, PackedCompletion, PackedGroup, Part,
        Prompt, Reply, Rollout, RolloutEngine, RolloutError, RolloutGroup, RolloutPrompt, RolloutRequest,
        Sample, SamplingConfig, StopReason, Task,
    },
    rollout::{LocalEngine, TurnByTurn},
    text::Tokenizer,
};

const NEW_TOKENS: usize = 14;

/// A fresh policy, prompts, and what is shown between turns: words, a picture, a sound, all of them.
struct Setup {
    task: MultimodalTask,
    policy: Policy,
    prompts: Vec<Prompt>,
    shown: Vec<Prompt>,
}

fn setup() -> Setup {
    let data = tempfile::tempdir().unwrap();
    let (sound, picture) = (data.path().join("tone.wav"), data.path().join("gradient.png"));
    kyoka_testing::write_tone(&sound, 0.3);
    kyoka_testing::write_grey_png(&picture, 28, |x, y| (x * 9 + y) as u8);
    let image = || Part::Media(MediaRef::file(Modality::Image, &picture));
    let audio = || Part::Media(MediaRef::file(Modality::Audio, &sound));
    let text = |words: &str| Part::Text(words.to_owned());
    let tokenizer =
        Tokenizer::from_bytes(include_bytes!("../../kyoka-text/tests/tiny_tokenizer.json")).unwrap();
    let config = PolicyConfig::tiny(tokenizer.vocab_size());
    let task = MultimodalTask::new(tokenizer, config.clone(), MediaAugment::default(), 1);
    let prompt = |parts: Vec<Part>| {
        let sample = Sample { id: "q".into(), ..Sample::asking(parts) };
        task.prompt(&sample, None).unwrap()
    };
    let prompts = vec![
        prompt(vec![text("How many of the pictures show the spoken item?")]),
        prompt(vec![image(), image(), text("How many?")]),
        prompt(vec![audio(), text("item?")]),
    ];
    let shown = [
        vec![text("the pictures")],
        vec![image()],
        vec![audio(), text("many?")],
        vec![text("How"), image(), audio(), image()],
    ];
    let shown = shown.map(|parts| task.observation(&parts, Some(task.tokenizer().end_id())).unwrap());
    Setup { policy: config.build(5, &Device::flex()), task, prompts, shown: shown.into() }
}

/// Shows one thing after the other, which first follows from prompt and completion; prompts are counted from a number.
struct Shows<'a>(&'a [Prompt], usize);

struct Showing<'a> {
    shown: &'a [Prompt],
    next: usize,
    turns: usize,
}

impl Episodes for Shows<'_> {
    fn max_observation_tokens(&self) -> usize {
        150
    }

    fn open(&self, index: usize, place: usize) -> Result<Box<dyn Episode + '_>, RolloutError> {
        Ok(Box::new(Showing { shown: self.0, next: self.1 + index + place, turns: 0 }))
    }
}

impl Episode for Showing<'_> {
    fn answer(&mut self, turn: &[u32], _: StopReason) -> Result<Reply, RolloutError> {
        assert!(!turn.is_empty());
        (self.next, self.turns) = (self.next + 1, self.turns + 1);
        let seen = self.shown[self.next % self.shown.len()].clone();
        let next = if self.turns == 4 { Err(StopReason::Turns) } else { Ok(seen) };
        Ok(Reply { reward: Some(self.turns as f32), next })
    }
}

impl Setup {
    fn engine(&self) -> LocalEngine<Policy> {
        let tokenizer = self.task.tokenizer();
        let mut engine = LocalEngine::new(tokenizer.end_id(), tokenizer.banned_ids());
        // A fresh policy draws all tokens alike: a fifth of them ends a turn.
        let banned = engine.banned_ids.clone();
        let all = (0..tokenizer.vocab_size() as u32).filter(|id| !banned.contains(id));
        engine.end_ids = all.filter(|id| id % 5 == 0).collect();
        engine.with_model(&self.policy)
    }

    fn generate(&self, engine: &impl RolloutEngine<Policy>, temperature: f32) -> Vec<RolloutGroup> {
        self.generate_of(engine, 0..self.prompts.len(), temperature)
    }

    fn generate_of(
        &self,
        engine: &impl RolloutEngine<Policy>,
        prompts: std::ops::Range<usize>,
        temperature: f32,
    ) -> Vec<RolloutGroup> {
        let sampling =
            SamplingConfig { temperature, max_new_tokens: NEW_TOKENS, ..SamplingConfig::default() };
        let request = RolloutRequest {
            prompts: &RolloutPrompt::numbered(&self.prompts)[prompts.clone()],
            group_size: 4,
            sampling: &sampling,
            seed: 3,
            episodes: Some(&Shows(&self.shown, prompts.start)),
        };
        engine.generate_all(request).unwrap()
    }

    fn score(&self, groups: &[PackedGroup<'_>], temperature: f32) -> Vec<Vec<f32>> {
        let banned = self.task.tokenizer().banned_ids();
        let scored = self.policy.score(groups, &Distribution { temperature, banned: &banned });
        let [_, width] = scored.dims();
        let flat: Vec<f32> = scored.into_data().try_to_vec().unwrap();
        flat.chunks_exact(width).map(<[f32]>::to_vec).collect()
    }
}

fn packed(groups: &[RolloutGroup]) -> Vec<PackedGroup<'_>> {
    groups
        .iter()
        .map(|group| PackedGroup {
            prompt: &group.prompt,
            completions: group.rollouts.iter().map(PackedCompletion::from).collect(),
        })
        .collect()
}

#[test]
fn what_was_seen_between_turns_is_read_the_same_by_sampler_and_trainer() {
    let setup = setup();
    let groups = setup.generate(&setup.engine(), 0.9);
    let all = packed(&groups);
    let together = setup.score(&all, 0.9);
    let alone = all.iter().flat_map(|group| {
        let single = |&completion| PackedGroup { prompt: group.prompt, completions: vec![completion] };
        group.completions.iter().map(single).collect::<Vec<_>>()
    });
    let one_by_one: Vec<Vec<f32>> = alone.flat_map(|single| setup.score(&[single], 0.9)).collect();
    let rollouts: Vec<&Rollout> = groups.iter().flat_map(|group| &group.rollouts).collect();
    let (mut after_turns, mut kinds) = (0, [0; 2]);
    for scored in [together, one_by_one] {
        for (rollout, scored) in rollouts.iter().zip(&scored) {
            let first_end = rollout.turns[0].end;
            for (place, (old, new)) in rollout.logprobs.iter().zip(scored).enumerate() {
                let ratio = (new - old).exp();
                assert!((ratio - 1.0).abs() < 1e-5, "token {place}: ratio {ratio}");
                after_turns += usize::from(place >= first_end);
            }
            assert!(scored[rollout.token_ids.len()..].iter().all(|&padding| padding == 0.0));
        }
    }
    for seen in
        rollouts.iter().flat_map(|rollout| &rollout.turns).filter_map(|turn| turn.observation.as_ref())
    {
        kinds[0] += seen.images.len();
        kinds[1] += seen.audios.len();
    }
    assert!(after_turns > 100 && kinds[0] > 8 && kinds[1] > 8, "{after_turns} tokens, {kinds:?}");
    assert!(rollouts.iter().any(|rollout| rollout.stop_reason == StopReason::Turns));
    assert!(rollouts.iter().any(|rollout| rollout.stop_reason == StopReason::Length));
}

/// What each completion drew, where its turns ended and what they earned, and how it ended.
type Drawn = (Vec<u32>, Vec<(usize, Option<f32>)>, StopReason);

fn drawn(groups: &[RolloutGroup]) -> Vec<Drawn> {
    let turns = |rollout: &Rollout| rollout.turns.iter().map(|turn| (turn.end, turn.reward)).collect();
    let rollouts = groups.iter().flat_map(|group| &group.rollouts);
    rollouts.map(|rollout| (rollout.token_ids.clone(), turns(rollout), rollout.stop_reason)).collect()
}

#[test]
fn going_on_where_a_completion_stands_is_asking_again_behind_all_that_went_before() {
    let setup = setup();
    let here = drawn(&setup.generate(&setup.engine(), 0.0));
    assert_eq!(here, drawn(&setup.generate(&TurnByTurn(setup.engine()), 0.0)));
    let turns: usize = here.iter().map(|(_, turns, _)| turns.len()).sum();
    assert!(turns > here.len(), "{turns} turns of {} completions", here.len());
}

#[test]
fn completions_of_several_turns_do_not_depend_on_how_prompts_are_batched() {
    let setup = setup();
    let all = drawn(&setup.generate(&setup.engine(), 1.0));
    for max_rows in [4, 8] {
        let mut engine = setup.engine();
        engine.max_rows = max_rows;
        assert_eq!(all, drawn(&setup.generate(&engine, 1.0)), "{max_rows} rows at once");
    }
}

#[test]
fn a_conversation_asked_turn_by_turn_does_not_depend_on_its_neighbours() {
    let setup = setup();
    let engine = TurnByTurn(setup.engine());
    let together = drawn(&setup.generate(&engine, 1.0));
    let alone: Vec<Drawn> = (0..setup.prompts.len())
        .flat_map(|index| drawn(&setup.generate_of(&engine, index..index + 1, 1.0)))
        .collect();
    assert_eq!(together, alone);
}

#[test]
fn what_has_no_room_is_not_begun_and_a_broken_environment_is_named() {
    struct Broken;
    impl Episodes for Broken {
        fn max_observation_tokens(&self) -> usize {
            1
        }
        fn open(&self, index: usize, _: usize) -> Result<Box<dyn Episode + '_>, RolloutError> {
            if index == 2 {
                return Err(RolloutError::Environment { index, source: "no board".into() });
            }
            Ok(Box::new(Showing { shown: &[], next: 0, turns: 0 }))
        }
    }
    let setup = setup();
    let sampling = SamplingConfig { max_new_tokens: NEW_TOKENS, ..SamplingConfig::default() };
    let request = |episodes| RolloutRequest {
        prompts: &[],
        group_size: 1,
        sampling: &sampling,
        seed: 3,
        episodes: Some(episodes),
    };
    let prompts = RolloutPrompt::numbered(&setup.prompts);
    let asked = RolloutRequest { prompts: &prompts, ..request(&Broken) };
    let said = setup.engine().generate_all(asked).unwrap_err().to_string();
    assert_eq!(said, "environment: prompt 2: no board");
    struct Narrow<'a>(Shows<'a>);
    impl Episodes for Narrow<'_> {
        fn max_observation_tokens(&self) -> usize {
            0
        }
        fn open(&self, index: usize, place: usize) -> Result<Box<dyn Episode + '_>, RolloutError> {
            self.0.open(index, place)
        }
    }
    let narrow = Narrow(Shows(&setup.shown, 0));
    let asked = RolloutRequest { prompts: &prompts, ..request(&narrow) };
    for group in setup.engine().generate_all(asked).unwrap() {
        let Rollout { turns, stop_reason, .. } = &group.rollouts[0];
        assert_eq!((turns.len(), *stop_reason), (1, StopReason::Observations));
        assert!(turns[0].observation.is_none() && turns[0].reward == Some(1.0));
    }
}
