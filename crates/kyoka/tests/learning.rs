//! Every preset teaches a tiny policy to repeat the token it is shown.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use burn::tensor::Device;
use kyoka::{
    algorithms::{AlgorithmConfig, AlgorithmOverrides, Preset},
    core::{
        AudioInput, Completion, ImageInput, Prompt, Reward, RewardContext, RewardError, RewardFn, Rollout,
        RolloutEngine, Sample, SamplingConfig,
    },
    fusion::{Decoder, DecoderConfig, MultimodalLm, NoEncoder},
    nn::WeightInit,
    rollout::LocalEngine,
    trainer::{
        AdamWConfig, CheckpointPolicy, CheckpointStore, LearningRate, Observer, RlConfig, RlStage, Schedule,
        Session, StepReport, Task, TaskError, TrainError,
    },
};

type Policy = MultimodalLm<NoEncoder<ImageInput>, NoEncoder<AudioInput>>;

/// All tokens are words; none ends a completion.
const WORDS: u32 = 8;
const NEW_TOKENS: usize = 3;

/// Shows a word; the completion's text is its token ids.
struct Echo;

impl Task for Echo {
    fn prompt(&self, sample: &Sample, _: Option<&[u64]>) -> Result<Prompt, TaskError> {
        Ok(Prompt { token_ids: vec![sample.answer.as_ref().unwrap().parse()?], ..Prompt::default() })
    }

    fn target(&self, _: &Sample) -> Result<Vec<u32>, TaskError> {
        Err("nothing is imitated here".into())
    }

    fn read(&self, rollout: &Rollout, max_new_tokens: usize) -> Completion {
        let text = rollout.token_ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        Completion { text, token_spans: Vec::new(), finished: true, max_new_tokens }
    }
}

/// The share of the completion's tokens that repeat the word.
struct Repeats;

impl RewardFn for Repeats {
    fn name(&self) -> &str {
        "repeats"
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let word = context.sample.answer.as_deref().unwrap();
        let right = completion.text.split(' ').filter(|&token| token == word).count() as f32;
        let total = right / NEW_TOKENS as f32;
        let parts = vec![("accuracy".to_owned(), f32::from(total == 1.0))];
        Ok(Reward { total: Some(total), parts, steps: Vec::new() })
    }
}

#[derive(Default)]
struct Curves {
    reward: Vec<f64>,
    explained_variance: Vec<f64>,
}

impl Observer for Curves {
    fn on_step(&mut self, report: &StepReport) -> Result<(), TrainError> {
        self.reward.push(report.metrics.get("reward/total").unwrap());
        self.explained_variance.extend(report.metrics.get("explained_variance"));
        Ok(())
    }

    fn on_eval(
        &mut self,
        _: &'static str,
        _: usize,
        _: &[kyoka::trainer::EvalReport],
    ) -> Result<(), TrainError> {
        Ok(())
    }
}

fn samples() -> Vec<Sample> {
    let sample = |word: u32| Sample {
        id: word.to_string(),
        parts: Vec::new(),
        answer: Some(word.to_string()),
        steps: Vec::new(),
        completion: None,
        origin: Default::default(),
    };
    (0..WORDS).map(sample).collect()
}

fn policy() -> Policy {
    let config = DecoderConfig {
        d_model: 32,
        num_layers: 2,
        num_heads: 2,
        num_kv_heads: 1,
        d_head: 16,
        d_hidden: 48,
        tie_embeddings: false,
        ..DecoderConfig::tiny(WORDS as usize)
    };
    let device = Device::flex().autodiff();
    Policy::text_only(Decoder::new(&config, &mut WeightInit::new(5, &device)))
}

fn config(algorithm: AlgorithmOverrides, steps: usize) -> RlConfig {
    RlConfig {
        data: "words".to_owned(),
        steps,
        prompts_per_step: 8,
        group_size: 8,
        algorithm,
        sampling: SamplingConfig { max_new_tokens: NEW_TOKENS, ..SamplingConfig::default() },
        learning_rate: LearningRate {
            peak: 3e-3,
            schedule: Schedule::Constant,
            warmup_steps: 0,
            final_share: 1.0,
        },
        optimizer: AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() },
        augment: false,
        max_refills: 2,
        tokens_per_micro_batch: 400,
        eval_every: 0,
    }
}

/// Runs, or goes on with, a stage whose checkpoints lie in `folder`; gives the policy and the curves.
fn run_in(folder: &Path, config: &RlConfig, every: usize) -> (Policy, Curves) {
    let engine = |policy: Policy| -> Box<dyn RolloutEngine> {
        Box::new(LocalEngine::new(policy, u32::MAX, Vec::new()))
    };
    let samples = samples();
    let mut stage = RlStage::new(config, &Echo, (&Repeats, &engine), &samples, 1).unwrap();
    let store = CheckpointStore::new(folder.to_owned(), CheckpointPolicy { every, keep_last: 9 }, Vec::new());
    let mut session = Session::new(policy(), 1, store);
    session.resume(|_| config.optimizer).unwrap();
    let mut curves = Curves::default();
    session.run_stage(0, &mut stage, &mut curves, &|_| Ok(Vec::new())).unwrap();
    (session.model, curves)
}

fn run(overrides: AlgorithmOverrides, steps: usize) -> Curves {
    run_in(tempfile::tempdir().unwrap().path(), &config(overrides, steps), 0).1
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn assert_learns(preset: Preset) {
    let critic = AlgorithmConfig::preset(preset).build(8).unwrap().critic.is_some();
    let overrides = AlgorithmOverrides {
        preset: Some(preset),
        critic_pretrain_steps: critic.then_some(10),
        critic_learning_rate: critic.then_some(1e-2),
        // VAPO's lambda is 0 for completions of three tokens; this makes it 5 / 6.
        length_alpha: critic.then_some(2.0),
        ..AlgorithmOverrides::default()
    };
    let curves = run(overrides, if critic { 260 } else { 160 });
    let (first, last) = (mean(&curves.reward[..3]), mean(&curves.reward[curves.reward.len() - 10..]));
    assert!(first < 0.3, "{preset:?} starts at chance, got {first}");
    assert!(last >= 0.9, "{preset:?} ends at {last}");
    if critic {
        let best = curves.explained_variance.windows(5).map(mean).fold(f64::NEG_INFINITY, f64::max);
        let early = curves.explained_variance[0];
        assert!(best > early + 0.2, "{preset:?}: explained variance {early} -> {best}");
    }
}

macro_rules! learns {
    ($($name:ident: $preset:ident,)*) => {
        $(#[test]
        fn $name() {
            assert_learns(Preset::$preset);
        })*
    };
}

learns! {
    reinforce: Reinforce,
    grpo: Grpo,
    dr_grpo: DrGrpo,
    process_grpo: ProcessGrpo,
    rloo: Rloo,
    reinforce_plus_plus: ReinforcePlusPlus,
    reinforce_plus_plus_baseline: ReinforcePlusPlusBaseline,
    remax: Remax,
    dapo: Dapo,
    cppo: Cppo,
    gpg: Gpg,
    gspo: Gspo,
    gmpo: Gmpo,
    cispo: Cispo,
    sapo: Sapo,
    opmd: Opmd,
    ppo: Ppo,
    vc_ppo: VcPpo,
    vapo: Vapo,
    open_reasoner_zero: OpenReasonerZero,
    lite_ppo: LitePpo,
    opo: Opo,
    maxrl: Maxrl,
}

#[test]
fn settings_besides_the_preset_train_too() {
    let settings: [(&str, AlgorithmOverrides); 6] = [
        ("shared critic", toml::from_str("preset = 'ppo'\ncritic = 'shared'").unwrap()),
        ("correction", toml::from_str("preset = 'grpo'\ncorrection = 'truncate_token'").unwrap()),
        ("entropy", toml::from_str("preset = 'grpo'\nentropy_coef = 0.001\nentropy_target = 0.05").unwrap()),
        ("top entropy", toml::from_str("preset = 'dapo'\ntop_entropy_share = 0.5").unwrap()),
        (
            "several updates",
            toml::from_str("preset = 'grpo'\nupdates_per_batch = 3\noff_policy_threshold = 0.5").unwrap(),
        ),
        (
            "moving reference",
            toml::from_str(
                "preset = 'grpo'\nkl_coef = 0.01\nkl_target = 0.05\nreference_every = 10\nreference_decay = 0.5",
            )
            .unwrap(),
        ),
    ];
    for (name, overrides) in settings {
        let curves = run(overrides, 160);
        let last = mean(&curves.reward[150..]);
        assert!(last >= 0.9, "{name} ends at {last}");
    }
}

#[test]
fn a_run_with_critic_and_moving_reference_resumes_to_the_same_bits() {
    let overrides = toml::from_str(
        "preset = 'vapo'\ncritic_pretrain_steps = 2\nkl_coef = 0.01\nkl_target = 0.05\nreference_every = 2",
    );
    let config = config(overrides.unwrap(), 6);
    let folder = tempfile::tempdir().unwrap();
    let weights = |policy: &Policy| -> Vec<(String, Vec<f32>)> {
        let named = kyoka::core::named_parameters(policy).into_iter();
        named.map(|(name, (_, data))| (name, data.try_into_vec().unwrap())).collect()
    };
    let straight = weights(&run_in(folder.path(), &config, 3).0);
    // As if it had been killed after the checkpoint of step 3.
    for entry in std::fs::read_dir(folder.path()).unwrap().flatten() {
        if !entry.file_name().to_string_lossy().ends_with("000003") {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
    let (policy, curves) = run_in(folder.path(), &config, 3);
    assert_eq!(curves.reward.len(), 3, "it goes on after step 3");
    assert!(weights(&policy) == straight, "the weights must be the same");
}

#[test]
fn what_the_trainer_cannot_do_is_refused() {
    let refused = |text: &str| {
        let config = RlConfig { algorithm: toml::from_str(text).unwrap(), ..toml::from_str(BARE).unwrap() };
        let engine = |_: Policy| -> Box<dyn RolloutEngine> { unreachable!("nothing runs") };
        let samples = samples();
        let stage = RlStage::<Policy>::new(&config, &Echo, (&Repeats, &engine), &samples, 1);
        stage.err().unwrap().to_string()
    };
    assert!(refused("replay_share = 0.5").contains("replay"));
    assert!(refused("preset = 'gdpo'").contains("parts"));
    assert!(refused("advantage = 'gae'").contains("needs a critic"));
}

const BARE: &str =
    "data = 'words'\nsteps = 1\nprompts_per_step = 1\ngroup_size = 4\nlearning_rate = { peak = 1e-3 }";
