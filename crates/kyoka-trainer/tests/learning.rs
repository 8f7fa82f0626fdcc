//! Every preset teaches a tiny policy to repeat the token it is shown.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use kyoka_algorithms::{AlgorithmConfig, AlgorithmOverrides, Preset, Reduction};
use kyoka_core::{
    AudioInput, Completion, GroupSink, ImageInput, Metrics, Reward, RewardContext, RewardError, RewardFn,
    RolloutEngine, RolloutError, RolloutRequest, Sample, SamplingConfig, Task,
};
use kyoka_data::PreferenceRow;
use kyoka_fusion::{Decoder, DecoderConfig, MultimodalLm, NoEncoder};
use kyoka_nn::WeightInit;
use kyoka_rollout::LocalEngine;
use kyoka_testing::Echo;
use kyoka_trainer::{
    AdamWConfig, CheckpointPolicy, CheckpointStore, EvalReport, LearningRate, Observer, PreferenceStage,
    PreferenceStageConfig, RewardModelConfig, RewardModelStage, RlConfig, RlParts, RlStage, Session,
    StepReport, TrainError, load_reward_model,
};

type Policy = MultimodalLm<NoEncoder<ImageInput>, NoEncoder<AudioInput>>;

/// The first tokens are words; none ends a completion.
const WORDS: u32 = 8;
/// Tokens that are never drawn: a policy that scored them would move its mass there.
const BANNED: [u32; 2] = [8, 9];
const NEW_TOKENS: usize = 3;

/// The share of the completion's tokens that repeat the word.
struct Repeats;

impl RewardFn for Repeats {
    fn name(&self) -> &str {
        "repeats"
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let word = context.sample.answers[0].as_str();
        let share = 1.0 / NEW_TOKENS as f32;
        let right = |token: &str| f32::from(token == word);
        let terms: Vec<(f32, f32)> = completion.text.split(' ').map(|token| (share, right(token))).collect();
        let total = terms.iter().map(|(_, right)| right).sum::<f32>() / NEW_TOKENS as f32;
        Ok(Reward { total: Some(total), right: Some(total == 1.0), terms, ..Reward::default() })
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

    fn on_eval(&mut self, _: &str, _: usize, _: &[EvalReport]) -> Result<(), TrainError> {
        Ok(())
    }
}

fn samples() -> Vec<Sample> {
    let sample =
        |word: u32| Sample { id: word.to_string(), answers: vec![word.to_string()], ..Sample::default() };
    (0..WORDS).map(sample).collect()
}

/// A fresh policy of [`WORDS`] words, beside which the banned tokens are likely: unmasked they would take most of the mass.
/// Masked, they change nothing.
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
    let device = Device::flex();
    let mut init = WeightInit::new(5, &device);
    let mut decoder = Decoder::new(&config, &mut init);
    let banned = BANNED.len();
    let rows = init.uniform([banned, config.d_model], 0.5).val();
    decoder.embedding = decoder.embedding.map(|words| Tensor::cat(vec![words, rows], 0));
    let columns = init.uniform([config.d_model, banned], 2.0).val();
    decoder.head = decoder.head.map(|mut head| {
        head.weight = head.weight.map(|words| Tensor::cat(vec![words, columns], 1));
        head
    });
    Policy::text_only(decoder).train()
}

fn config(algorithm: AlgorithmOverrides, steps: usize) -> RlConfig {
    RlConfig {
        steps,
        algorithm,
        sampling: SamplingConfig { max_new_tokens: NEW_TOKENS, ..SamplingConfig::default() },
        optimizer: AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() },
        augment: false,
        max_refills: 2,
        tokens_per_micro_batch: 400,
        ..RlConfig::new("words", LearningRate::fixed(3e-3))
    }
}

fn engine() -> LocalEngine<Policy> {
    LocalEngine::new(u32::MAX, BANNED.to_vec())
}

/// A stage over the words.
fn stage<'a>(
    config: &'a RlConfig,
    (reward, engine): (&'a dyn RewardFn, &'a dyn RolloutEngine<Policy>),
    samples: &'a [Sample],
) -> Result<RlStage<'a, Policy>, TrainError> {
    let algorithm = config.algorithm.build(config.group_size).map_err(TrainError::algorithm("rl"))?;
    RlStage::new("rl", config, RlParts { algorithm, task: &Echo, reward, engine, samples }, 1)
}

/// Runs, or goes on with, a stage whose checkpoints lie in `folder`; gives the policy and the curves.
fn run_in(folder: &Path, config: &RlConfig, every: usize) -> (Policy, Curves) {
    let (samples, engine) = (samples(), engine());
    let mut stage = stage(config, (&Repeats, &engine), &samples).unwrap();
    let store = CheckpointStore::new(folder.to_owned(), CheckpointPolicy { every, keep_last: 9 }, Vec::new());
    let mut session = Session::new(policy(), 1, store);
    session.resume(|_| config.optimizer).unwrap();
    let mut curves = Curves::default();
    session.run_stage(0, &mut stage, &mut curves, &|_| Ok(Vec::new())).unwrap();
    (session.state.model, curves)
}

fn run(overrides: AlgorithmOverrides, steps: usize) -> Curves {
    run_in(tempfile::tempdir().unwrap().path(), &config(overrides, steps), 0).1
}

/// What each step said.
struct Steps(Vec<Metrics>);

impl Observer for Steps {
    fn on_step(&mut self, report: &StepReport) -> Result<(), TrainError> {
        self.0.push(report.metrics.clone());
        Ok(())
    }

    fn on_eval(&mut self, _: &str, _: usize, _: &[EvalReport]) -> Result<(), TrainError> {
        Ok(())
    }
}

/// Trains on pairs of a right and a wrong repetition, or goes on; gives the policy and what each step said.
fn prefer_in(folder: &Path, config: &PreferenceStageConfig, every: usize) -> (Policy, Vec<Metrics>) {
    let rows = pair_rows();
    let mut stage = PreferenceStage::new("preference", config, &Echo, &rows, 1).unwrap();
    let store = CheckpointStore::new(folder.to_owned(), CheckpointPolicy { every, keep_last: 9 }, Vec::new());
    let mut session = Session::new(policy(), 1, store);
    session.resume(|_| config.optimizer).unwrap();
    let mut steps = Steps(Vec::new());
    session.run_stage(0, &mut stage, &mut steps, &|_| Ok(Vec::new())).unwrap();
    (session.state.model, steps.0)
}

fn pair_rows() -> Vec<PreferenceRow> {
    let row = |(number, sample): (usize, Sample)| PreferenceRow {
        sample,
        chosen: [number; NEW_TOKENS].map(|word| word.to_string()).join(" "),
        rejected: [(number + 3) % WORDS as usize; 2].map(|word| word.to_string()).join(" "),
    };
    samples().into_iter().enumerate().map(row).collect()
}

#[test]
fn a_reward_model_learns_which_completion_is_better_and_leaves_the_policy_alone() {
    let config: RewardModelConfig =
        toml::from_str("data = 'pairs'\nsteps = 30\nbatch_size = 6\nlearning_rate = { peak = 3e-3 }")
            .unwrap();
    let rows = pair_rows();
    let mut stage = RewardModelStage::new("reward_model", &config, &Echo, &rows, 1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let policy = CheckpointPolicy { every: 0, keep_last: 1 };
    let store = CheckpointStore::new(folder.path().to_owned(), policy, Vec::new());
    let mut session = Session::new(self::policy(), 1, store);
    let mut steps = Steps(Vec::new());
    session.run_stage(0, &mut stage, &mut steps, &|_| Ok(Vec::new())).unwrap();
    assert_eq!(steps.0.last().unwrap().get("preference/accuracy"), Some(1.0));
    assert!(weights(&session.state.model) == weights(&self::policy()), "the policy must stay as it is");
    let checkpoint = folder.path().join("0-reward_model-000030");
    let model = load_reward_model(&checkpoint, &session.state.model).unwrap();
    let prompt = Echo.prompt(&rows[2].sample, None).unwrap();
    let scores = model.rewards(&prompt, &[&[2, 2, 2], &[5, 5]]);
    assert!(scores[0] > scores[1] + 1.0, "{scores:?}");
}

fn preference(algorithm: &str, steps: usize) -> PreferenceStageConfig {
    let text = format!(
        "data = 'pairs'\nsteps = {steps}\nbatch_size = 6\ntokens_per_micro_batch = 20\n\
         learning_rate = {{ peak = 3e-3 }}\noptimizer = {{ weight_decay = 0.0 }}\nalgorithm = {algorithm}"
    );
    toml::from_str(&text).unwrap()
}

#[test]
fn every_preference_loss_teaches_which_completion_is_better() {
    for algorithm in [
        "'dpo'",
        "'ipo'",
        "'kto'",
        "'mpo'",
        "{ loss = 'dpo_robust', label_smoothing = 0.1 }",
        "{ loss = 'dpo_hinge' }",
        "{ loss = 'simpo', beta = 2.0 }",
    ] {
        let steps = prefer_in(tempfile::tempdir().unwrap().path(), &preference(algorithm, 40), 0).1;
        let last = |name: &str| mean(&steps[35..].iter().map(|m| m.get(name).unwrap()).collect::<Vec<_>>());
        let first = |name: &str| steps[0].get(name).unwrap();
        let gap = |of: &dyn Fn(&str) -> f64| of("logprob/chosen") - of("logprob/rejected");
        assert!(gap(&last) > gap(&first) + 2.0, "{algorithm}: {} -> {}", gap(&first), gap(&last));
        assert!(last("loss") < first("loss"), "{algorithm}: {} -> {}", first("loss"), last("loss"));
        assert_eq!(last("preference/accuracy"), 1.0, "{algorithm}");
    }
}

#[test]
fn margins_without_a_reference_are_what_the_loss_compares() {
    // Completions of three and of two tokens.
    for (algorithm, scales) in [
        ("'simpo'", [2.0 / 3.0, 2.0 / 2.0]),
        ("{ reference_free = true, beta = 0.5 }", [0.5, 0.5]),
        ("{ reference_free = true, length_normalised = true, beta = 0.5 }", [0.5 / 3.0, 0.5 / 2.0]),
    ] {
        let steps = prefer_in(tempfile::tempdir().unwrap().path(), &preference(algorithm, 2), 0).1;
        for metrics in steps {
            let of = |name: &str| metrics.get(name).unwrap();
            let expected = scales[0] * of("logprob/chosen") - scales[1] * of("logprob/rejected");
            let got = of("preference/margin");
            assert!((got - expected).abs() < 1e-5, "{algorithm}: expected {expected}, got {got}");
        }
    }
}

#[test]
fn a_reward_model_can_be_asked_for_a_margin() {
    let config: RewardModelConfig = toml::from_str(
        "data = 'pairs'\nsteps = 1\nbatch_size = 6\nmargin = 1.0\nlearning_rate = { peak = 1e-3 }",
    )
    .unwrap();
    let rows = pair_rows();
    let mut stage = RewardModelStage::new("reward_model", &config, &Echo, &rows, 1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(folder.path().to_owned(), CheckpointPolicy::default(), Vec::new());
    let mut session = Session::new(policy(), 1, store);
    let mut steps = Steps(Vec::new());
    session.run_stage(0, &mut stage, &mut steps, &|_| Ok(Vec::new())).unwrap();
    // All rewards are 0 at first: -log sigmoid(-1).
    let loss = steps.0[0].get("loss").unwrap();
    assert!((loss - (1.0 + 1.0_f64.exp()).ln()).abs() < 1e-5, "{loss}");
}

#[test]
fn preference_training_resumes_to_the_same_bits() {
    for (algorithm, reference) in [("'mpo'", 0), ("'kto'", 0), ("'dpo'", 2)] {
        let config = PreferenceStageConfig {
            reference_every: reference,
            reference_decay: if reference > 0 { 0.5 } else { 0.0 },
            ..preference(algorithm, 6)
        };
        let folder = tempfile::tempdir().unwrap();
        let straight = weights(&prefer_in(folder.path(), &config, 3).0);
        keep_only_step_3(folder.path());
        let (policy, steps) = prefer_in(folder.path(), &config, 3);
        assert_eq!(steps.len(), 3, "{algorithm} goes on after step 3");
        assert!(weights(&policy) == straight, "{algorithm}: the weights must be the same");
    }
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
        length_alpha: (preset == Preset::Vapo).then_some(2.0),
        ..AlgorithmOverrides::default()
    };
    let curves = run(overrides, if critic { 250 } else { 160 });
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
    gdpo: Gdpo,
    maxrl: Maxrl,
}

#[test]
fn settings_besides_the_preset_train_too() {
    let settings: [(&str, AlgorithmOverrides); 23] = [
        ("shared critic", toml::from_str("preset = 'ppo'\ncritic = 'shared'").unwrap()),
        ("correction", toml::from_str("preset = 'grpo'\ncorrection = 'truncate_token'").unwrap()),
        ("geometric", toml::from_str("preset = 'grpo'\ncorrection = 'mask_geometric'").unwrap()),
        (
            "replay",
            toml::from_str("preset = 'grpo'\nreplay_share = 0.5\nreplay_capacity = 64\noff_policy_threshold = 0.5")
                .unwrap(),
        ),
        (
            "the whole vocabulary",
            toml::from_str("preset = 'grpo'\nkl_coef = 0.01\nkl_estimator = 'full'").unwrap(),
        ),
        (
            "the whole vocabulary in the reward",
            toml::from_str(
                "preset = 'reinforce_plus_plus'\nkl_coef = 0.01\nkl_estimator = 'full'\nkl_placement = 'reward'",
            )
            .unwrap(),
        ),
        (
            "rejection",
            toml::from_str("correction = 'truncate_token'\nrejection = 'k1'\nrejection_level = 'sequence_mean'")
                .unwrap(),
        ),
        ("GDPO by completions", toml::from_str("preset = 'gdpo'\nwhitening = 'sequences'").unwrap()),
        (
            "mini-batches and epochs",
            toml::from_str("preset = 'grpo'\nmini_batches = 4\nupdates_per_batch = 2").unwrap(),
        ),
        ("GSPO as in its paper", toml::from_str("preset = 'gspo'\nmini_batches = 4").unwrap()),
        ("DAPO as in its paper", toml::from_str("preset = 'dapo'\nmini_batches = 16").unwrap()),
        (
            "PPO in mini-batches",
            toml::from_str("preset = 'ppo'\nmini_batches = 4\ncritic_learning_rate = 1e-2").unwrap(),
        ),
        ("pass@k", toml::from_str("advantage = 'pass_at_k'\npass_k = 2\nreduction = 'token_mean'").unwrap()),
        ("Clip-Cov", toml::from_str("loss = 'clip_cov'").unwrap()),
        ("KL-Cov", toml::from_str("loss = 'kl_cov'").unwrap()),
        ("DPPO-TV", toml::from_str("loss = 'dppo_tv'\nclip_low = 0.15\nmini_batches = 2").unwrap()),
        ("DPPO-KL", toml::from_str("loss = 'dppo_kl'\nclip_low = 0.05\nclip_high = 0.05\nmini_batches = 2").unwrap()),
        ("GSPO-token", toml::from_str("loss = 'gspo_token'\nupdates_per_batch = 2").unwrap()),
        ("paper's step credit", toml::from_str("preset = 'process_grpo'\nstep_credit = 'to_go'").unwrap()),
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
        let mut config = config(overrides, 160);
        if name == "PPO in mini-batches" {
            // Four updates a batch: at the rate of the others PPO gives one word of eight up, as it does with one update a
            // batch when it goes on for 320 steps (0.875).
            config.learning_rate.peak = 1e-3;
        }
        let curves = run_in(tempfile::tempdir().unwrap().path(), &config, 0).1;
        let last = mean(&curves.reward[150..]);
        // Pass@k takes any reward above 0 for right, one repetition of three too.
        let least = if name == "pass@k" { 0.8 } else { 0.9 };
        assert!(last >= least, "{name} ends at {last}");
    }
}

fn weights(policy: &Policy) -> Vec<(String, Vec<f32>)> {
    let named = kyoka_core::named_parameters(policy).into_iter();
    named.map(|(name, (_, data))| (name, data.try_into_vec().unwrap())).collect()
}

/// As if the run had been killed after the checkpoint of step 3.
fn keep_only_step_3(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if !entry.file_name().to_string_lossy().ends_with("000003") {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
}

fn assert_resumes(algorithm: &str) {
    let config = config(toml::from_str(algorithm).unwrap(), 6);
    let folder = tempfile::tempdir().unwrap();
    let straight = weights(&run_in(folder.path(), &config, 3).0);
    keep_only_step_3(folder.path());
    let (policy, curves) = run_in(folder.path(), &config, 3);
    assert_eq!(curves.reward.len(), config.total_steps() - 3, "it goes on after step 3");
    assert!(weights(&policy) == straight, "the weights must be the same");
}

#[test]
fn a_run_with_critic_and_moving_reference_resumes_to_the_same_bits() {
    assert_resumes(
        "preset = 'vapo'\ncritic_pretrain_steps = 2\nkl_coef = 0.01\nkl_target = 0.05\nreference_every = 2",
    );
}

#[test]
fn a_run_that_replays_resumes_to_the_same_bits() {
    assert_resumes("preset = 'grpo'\nreplay_share = 0.5\nreplay_capacity = 48");
}

#[test]
fn a_run_of_mini_batches_resumes_to_the_same_bits() {
    assert_resumes("preset = 'ppo'\nmini_batches = 3\nupdates_per_batch = 2\ncritic_pretrain_steps = 1");
}

#[test]
fn replay_with_a_correction_resumes_to_the_same_bits() {
    assert_resumes(
        "replay_share = 0.5\nreplay_capacity = 48\ncorrection = 'truncate_token'\nrejection = 'k3'\nmini_batches = 2",
    );
}

#[test]
fn a_stage_ends_when_its_tokens_are_used_up() {
    let limited = |algorithm: &str, limit| {
        let algorithm = toml::from_str(algorithm).unwrap();
        let config = RlConfig { max_generated_tokens: limit, ..config(algorithm, 50) };
        run_in(tempfile::tempdir().unwrap().path(), &config, 0).1.reward.len()
    };
    // A step generates 64 completions of 3 tokens; a greedy baseline 8 more.
    assert_eq!(limited("preset = 'grpo'", 4 * 192), 4);
    assert_eq!(limited("preset = 'remax'", 4 * 192), 4);
    assert_eq!(limited("preset = 'remax'", 8 * 192), 8 * 192 / 216 + 1);
}

#[test]
fn what_the_trainer_cannot_do_is_refused() {
    let refused = |text: &str| {
        let config = RlConfig { algorithm: toml::from_str(text).unwrap(), ..toml::from_str(BARE).unwrap() };
        let (samples, engine) = (samples(), engine());
        stage(&config, (&Repeats, &engine), &samples).err().unwrap().to_string()
    };
    assert!(refused("preset = 'ppo'\nreplay_share = 0.5").contains("value targets"));
    assert!(refused("preset = 'remax'\nreplay_share = 0.5").contains("no ratio"));
    assert!(refused("advantage = 'gae'").contains("needs a critic"));
    let refused = |sampling: SamplingConfig| {
        let config = RlConfig { sampling, ..toml::from_str(BARE).unwrap() };
        let (samples, engine) = (samples(), engine());
        stage(&config, (&Repeats, &engine), &samples).err().unwrap().to_string()
    };
    let base = SamplingConfig::default();
    assert!(refused(SamplingConfig { top_k: 5, ..base.clone() }).starts_with("rl.sampling.top_k"));
    assert!(refused(SamplingConfig { top_p: 0.5, ..base.clone() }).starts_with("rl.sampling.top_p"));
    assert!(refused(SamplingConfig { min_p: 0.5, ..base }).starts_with("rl.sampling.min_p"));
    assert!(refused(SamplingConfig::greedy(4)).starts_with("rl.sampling.temperature"));
}

/// What the first step said, and the policy after it.
fn first_step(config: &RlConfig) -> (Metrics, Policy) {
    let (samples, engine) = (samples(), engine());
    let mut stage = stage(config, (&Repeats, &engine), &samples).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(folder.path().to_owned(), CheckpointPolicy::default(), Vec::new());
    let mut session = Session::new(policy(), 1, store);
    let mut steps = Steps(Vec::new());
    session.run_stage(0, &mut stage, &mut steps, &|_| Ok(Vec::new())).unwrap();
    (steps.0.remove(0), session.state.model)
}

#[test]
fn a_step_is_the_same_however_it_is_split_into_micro_batches() {
    let first_step = |algorithm: &str, tokens_per_micro_batch| {
        let algorithm = toml::from_str(algorithm).unwrap();
        first_step(&RlConfig { tokens_per_micro_batch, ..config(algorithm, 1) }).0
    };
    for algorithm in [
        "preset = 'grpo'\nkl_coef = 0.1",
        "preset = 'dapo'\nentropy_coef = 0.01",
        "preset = 'cppo'\nkl_coef = 0.1\nkl_estimator = 'full'",
        "preset = 'ppo'",
        "preset = 'vapo'\ncritic = 'shared'\ncritic_pretrain_steps = 0",
    ] {
        // A micro-batch a completion, and one for all.
        let (apart, together) = (first_step(algorithm, 1), first_step(algorithm, 100_000));
        for name in ["loss", "grad_norm"] {
            let (apart, together) = (apart.get(name).unwrap(), together.get(name).unwrap());
            let close = (apart - together).abs() <= 1e-5 * (1.0 + together.abs());
            assert!(close, "{algorithm}: {name} {apart} apart, {together} together");
        }
    }
}

#[test]
fn what_learns_is_what_samples_at_every_temperature() {
    for temperature in [0.02, 0.3, 1.0, 3.0] {
        for algorithm in [
            "preset = 'grpo'\nkl_coef = 0.1",
            "preset = 'grpo'\nentropy_coef = 0.01\ncorrection = 'mask_token'",
            "preset = 'reinforce'",
        ] {
            let mut config = config(toml::from_str(algorithm).unwrap(), 1);
            config.sampling.temperature = temperature;
            let metrics = first_step(&config).0;
            if metrics.get("trained_tokens") == Some(0.0) {
                // The coldest policy repeats itself: nothing to learn, no update.
                continue;
            }
            let get = |name: &str| metrics.get(name).unwrap_or_else(|| panic!("{algorithm}: no {name}"));
            let drift = get("ratio/max_abs_log");
            // Rounding of the logits, divided by the temperature.
            let bound = if temperature < 0.1 { 1e-4 } else { 1e-5 };
            assert!(drift < bound, "{algorithm}, temperature {temperature}: |log ratio| up to {drift}");
            if algorithm.contains("kl_coef") {
                assert!(get("kl").abs() < 1e-6, "the reference is the policy: {}", get("kl"));
            }
            if algorithm.contains("correction") {
                assert!(get("mismatch/max_abs_log") < bound);
                let (sampled, trained) = (get("entropy"), get("entropy/policy"));
                assert!((sampled - trained).abs() < 1e-4, "{sampled} sampled, {trained} trained");
            }
            let entropy = get("entropy");
            assert!(
                (0.0..8.0_f64.ln() + 1e-6).contains(&entropy),
                "{temperature}: {entropy} nats of 8 words"
            );
            assert!(metrics.get("entropy_estimate").is_none());
        }
    }
}

#[test]
fn a_hot_policy_is_taught_as_a_cold_one_is() {
    for (temperature, least) in [(0.7, 0.9), (1.5, 0.9)] {
        let mut config = config(toml::from_str("preset = 'reinforce'").unwrap(), 160);
        config.sampling.temperature = temperature;
        let curves = run_in(tempfile::tempdir().unwrap().path(), &config, 0).1;
        let last = mean(&curves.reward[150..]);
        assert!(last >= least, "temperature {temperature} ends at {last}");
    }
}

#[test]
fn an_engine_that_cannot_tell_the_entropy_leaves_an_estimate() {
    struct Remote(LocalEngine<Policy>);
    impl RolloutEngine<Policy> for Remote {
        fn banned_ids(&self) -> &[u32] {
            self.0.banned_ids()
        }
        fn publish(&self, version: u64, model: &Policy) -> Result<(), RolloutError> {
            self.0.publish(version, model)
        }
        fn generate(
            &self,
            request: RolloutRequest<'_>,
            sink: &mut GroupSink<'_>,
        ) -> Result<(), RolloutError> {
            self.0.generate(request, &mut |index, mut group| {
                group.rollouts.iter_mut().for_each(|rollout| rollout.entropies.clear());
                sink(index, group)
            })
        }
    }
    let engine = Remote(engine());
    let (config, samples) = (config(AlgorithmOverrides::default(), 1), samples());
    let mut stage = stage(&config, (&Repeats, &engine), &samples).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(folder.path().to_owned(), CheckpointPolicy::default(), Vec::new());
    let mut session = Session::new(policy(), 1, store);
    let mut steps = Steps(Vec::new());
    session.run_stage(0, &mut stage, &mut steps, &|_| Ok(Vec::new())).unwrap();
    let estimate = steps.0[0].get("entropy_estimate").unwrap();
    assert!(steps.0[0].get("entropy").is_none());
    let exact = first_step(&config).0.get("entropy").unwrap();
    assert!((estimate - exact).abs() < 0.1, "{estimate} estimated, {exact} exactly");
}

/// As in the paper and in TRL, the tokens left out still count in the denominators.
#[test]
fn the_share_of_uncertain_tokens_changes_no_denominator() {
    let step = |share: f64| {
        let algorithm = format!("preset = 'dapo'\ndynamic_sampling = false\ntop_entropy_share = {share}");
        first_step(&config(toml::from_str(&algorithm).unwrap(), 1)).0
    };
    // Completions of a group share their first distribution, so that the most uncertain one is that of up to 8 tokens. A
    // mean over those alone would have 24 times their gradient.
    let [few, half, all] = [1e-6, 0.5, 1.0].map(step);
    let tokens = few.get("trained_tokens").unwrap();
    assert!((1.0..=8.0).contains(&tokens), "{tokens} tokens");
    let [few, half, all] = [few, half, all].map(|metrics| metrics.get("grad_norm").unwrap());
    assert!(few > 0.0 && few < 0.7 * all && half < 1.2 * all, "gradients of {few}, {half} and {all}");
}

/// Runs a stage with some judge; gives the policy and what each step said.
fn steps_of(config: &RlConfig, reward: &dyn RewardFn) -> (Policy, Vec<Metrics>) {
    let (samples, engine) = (samples(), engine());
    let mut stage = stage(config, (reward, &engine), &samples).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(folder.path().to_owned(), CheckpointPolicy::default(), Vec::new());
    let mut session = Session::new(policy(), 1, store);
    let mut steps = Steps(Vec::new());
    session.run_stage(0, &mut stage, &mut steps, &|_| Ok(Vec::new())).unwrap();
    (session.state.model, steps.0)
}

/// How far every weight went from the start.
fn changes(policy: &Policy) -> Vec<f32> {
    let (after, before) = (weights(policy), weights(&self::policy()));
    let both = after.iter().zip(&before).flat_map(|(after, before)| after.1.iter().zip(&before.1));
    both.map(|(after, before)| after - before).collect()
}

/// With the same denominators, the gradients of the mini-batches add up to that of the batch. An optimizer without memory
/// and with an epsilon far above any gradient takes steps in proportion to its gradients, here so small ones that the policy
/// hardly moves in between.
#[test]
fn mini_batches_with_the_denominators_of_the_batch_add_up_to_the_batch() {
    let optimizer = AdamWConfig {
        beta_1: 0.0,
        beta_2: 0.0,
        epsilon: 1e5,
        weight_decay: 0.0,
        max_grad_norm: f64::INFINITY,
    };
    // The step is so small that the gradients of the later parts are those of the same policy: a thirtieth of the rate leaves
    // a thirtieth of the difference.
    let moved = |mini_batches: usize| {
        // `token_sum` has no denominator.
        let algorithm = AlgorithmOverrides {
            reduction: Some(Reduction::TokenSum),
            mini_batches: Some(mini_batches),
            ..AlgorithmOverrides::default()
        };
        let mut config = RlConfig { optimizer, ..config(algorithm, 1) };
        config.learning_rate.peak = 0.1;
        changes(&steps_of(&config, &Repeats).0)
    };
    let (whole, norm) = (moved(1), |values: &[f32]| values.iter().map(|v| v * v).sum::<f32>().sqrt());
    assert!(norm(&whole) > 0.0);
    for mini_batches in [2, 3, 8] {
        let apart: Vec<f32> = moved(mini_batches).iter().zip(&whole).map(|(a, b)| a - b).collect();
        let share = norm(&apart) / norm(&whole);
        assert!(share < 0.01, "{mini_batches} mini-batches move {share} of the batch's step elsewhere");
    }
}

#[test]
fn a_critic_is_pre_trained_before_the_steps_of_the_policy() {
    let algorithm = AlgorithmOverrides { preset: Some(Preset::Vapo), ..AlgorithmOverrides::default() };
    // 50 steps of the critic alone is the preset's.
    let few = RlConfig {
        learning_rate: LearningRate { warmup_steps: 2, ..config(algorithm.clone(), 3).learning_rate },
        ..config(AlgorithmOverrides { critic_pretrain_steps: Some(4), ..algorithm.clone() }, 3)
    };
    assert_eq!(config(algorithm, 3).total_steps(), 53);
    let (policy, steps) = steps_of(&few, &Repeats);
    let of = |name: &str| steps.iter().map(|step| step.get(name).unwrap()).collect::<Vec<f64>>();
    assert_eq!(of("learning_rate"), [0.0, 0.0, 0.0, 0.0, 1.5e-3, 3e-3, 3e-3]);
    assert_eq!(of("critic_learning_rate"), [1.5e-3, 3e-3, 3e-3, 3e-3, 3e-3, 3e-3, 3e-3]);
    assert!(changes(&policy).iter().any(|change| *change != 0.0), "the policy must learn");
}

#[test]
fn a_critic_learns_beside_a_policy_that_stands_still() {
    let algorithm = toml::from_str("preset = 'ppo'\ncritic_learning_rate = 1e-2").unwrap();
    let mut config = config(algorithm, 12);
    config.learning_rate.peak = 0.0;
    let (policy, steps) = steps_of(&config, &Repeats);
    assert!(changes(&policy).iter().all(|change| *change == 0.0));
    let last = steps.last().unwrap();
    assert_eq!((last.get("learning_rate"), last.get("critic_learning_rate")), (Some(0.0), Some(1e-2)));
    // A critic that says 0 explains nothing; one that learned says something else.
    let explained = |step: &Metrics| step.get("explained_variance").unwrap();
    assert_eq!(explained(&steps[0]), 0.0);
    assert!(explained(last) != 0.0 && explained(last).is_finite(), "{}", explained(last));
}

/// Repetition counts for even words; all completions of an odd word are right.
struct OddAreRight;

impl RewardFn for OddAreRight {
    fn name(&self) -> &str {
        "odd"
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let odd = context.sample.answers[0].parse::<u32>().unwrap() % 2 == 1;
        if odd {
            Ok(Reward { total: Some(1.0), ..Reward::default() })
        } else {
            Repeats.score(context, completion)
        }
    }
}

#[test]
fn groups_without_credit_are_replaced_with_every_kind_of_baseline() {
    for algorithm in [
        "preset = 'dapo'",
        "preset = 'ppo'\ndynamic_sampling = true",
        "preset = 'vapo'\ncritic_pretrain_steps = 0\ndynamic_sampling = true",
    ] {
        let config = config(toml::from_str(algorithm).unwrap(), 1);
        let (_, steps) = steps_of(&config, &OddAreRight);
        assert!(
            steps[0].get("refills").unwrap() > 0.0,
            "{algorithm}: half of the prompts earn the same throughout"
        );
        // 8 groups of 8 completions of 3 tokens, none of them of an odd word.
        assert_eq!(steps[0].get("trained_tokens"), Some(8.0 * 8.0 * 3.0), "{algorithm}");
    }
}

#[test]
fn replayed_completions_keep_their_ratio_beside_a_correction() {
    let algorithm = toml::from_str("replay_share = 0.5\ncorrection = 'truncate_token'").unwrap();
    let steps = steps_of(&config(algorithm, 5), &Repeats).1;
    let last = steps.last().unwrap();
    assert!(last.get("replayed").unwrap() > 0.0);
    // The sampler is the trainer here; the policy of some steps ago is not.
    assert!(last.get("mismatch/max_abs_log").unwrap() < 1e-4, "{last:?}");
    assert!(last.get("ratio/max_abs_log").unwrap() > 1e-3, "{last:?}");
}

/// One step of GRPO with another judge and another engine; what stopped it.
fn stopped(reward: &dyn RewardFn, engine: &dyn RolloutEngine<Policy>) -> String {
    let config = config(AlgorithmOverrides::default(), 1);
    let samples = samples();
    let mut stage = stage(&config, (reward, engine), &samples).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(folder.path().to_owned(), CheckpointPolicy::default(), Vec::new());
    let mut session = Session::new(policy(), 1, store);
    let stopped = session.run_stage(0, &mut stage, &mut Steps(Vec::new()), &|_| Ok(Vec::new()));
    stopped.unwrap_err().to_string()
}

#[test]
fn a_reward_that_is_no_number_stops_the_run_and_names_the_row() {
    struct Broken(f32);
    impl RewardFn for Broken {
        fn name(&self) -> &str {
            "broken"
        }
        fn score(&self, context: &RewardContext<'_>, _: &Completion) -> Result<Reward, RewardError> {
            let bad = context.sample.id == "5";
            Ok(Reward { total: Some(if bad { self.0 } else { 1.0 }), ..Reward::default() })
        }
    }
    for value in [f32::NAN, f32::INFINITY] {
        let message = stopped(&Broken(value), &engine());
        let expected = format!(
            "reward broken: row 5: expected a finite number, got {value}; there is no checkpoint yet"
        );
        assert_eq!(message, expected);
    }
}

#[test]
fn an_engine_without_logprobs_is_refused() {
    struct Silent(LocalEngine<Policy>);
    impl RolloutEngine<Policy> for Silent {
        fn banned_ids(&self) -> &[u32] {
            self.0.banned_ids()
        }
        fn publish(&self, version: u64, model: &Policy) -> Result<(), RolloutError> {
            self.0.publish(version, model)
        }
        fn generate(
            &self,
            request: RolloutRequest<'_>,
            sink: &mut GroupSink<'_>,
        ) -> Result<(), RolloutError> {
            self.0.generate(request, &mut |index, mut group| {
                if index == 2 {
                    group.rollouts[1].logprobs.clear();
                }
                sink(index, group)
            })
        }
    }
    let message = stopped(&Repeats, &Silent(engine()));
    assert!(message.contains("prompt 2: expected 3 log-probabilities"), "{message}");
}

const BARE: &str =
    "data = 'words'\nsteps = 1\nprompts_per_step = 1\ngroup_size = 4\nlearning_rate = { peak = 1e-3 }";
