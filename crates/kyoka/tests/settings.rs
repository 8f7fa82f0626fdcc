//! Every number of a stage has a range, and every setting an effect: what is out of it is refused with its place, before
//! any row is read.
#![expect(clippy::unwrap_used, reason = "a test")]

use kyoka::{
    Recipe,
    algorithms::{
        AlgorithmConfig, Preset,
        preference::{PreferenceConfig, PreferencePreset},
    },
};
use toml::{Table, Value};

const RECIPE: &str = r#"
[data]
dataset = "nowhere"
[model]
config = "tiny"
[sft]
data = "rows"
steps = 3
batch_size = 2
learning_rate = { peak = 1e-3 }
[preference]
data = "pairs"
steps = 3
batch_size = 2
learning_rate = { peak = 1e-3 }
algorithm = {}
[reward_model]
data = "pairs"
steps = 3
batch_size = 2
learning_rate = { peak = 1e-3 }
[rl]
data = "rows"
steps = 3
prompts_per_step = 2
group_size = 4
learning_rate = { peak = 1e-3 }
algorithm = {}
sampling = { max_new_tokens = 20 }
[[reward]]
kind = "exact_answer"
weight = 1.0
[eval]
splits = ["rows"]
max_new_tokens = 20
"#;

/// What `check` says of the recipe with some settings.
fn checked(settings: &[String]) -> Result<(), String> {
    let mut recipe = Recipe::parse("test", RECIPE).unwrap();
    for setting in settings {
        recipe.set(setting).map_err(|error| error.to_string())?;
    }
    recipe.check().map_err(|error| error.to_string())
}

fn assert_refused(key: &str, value: &str) {
    let message = checked(&[format!("{key}={value}")]).expect_err(key);
    assert!(message.contains(&format!("{key}: expected ")), "{key}={value}: {message}");
    assert!(message.contains("got "), "{key}={value}: {message}");
}

const STAGES: [&str; 4] = ["sft", "preference", "reward_model", "rl"];

#[test]
fn the_recipe_itself_is_good() {
    assert_eq!(checked(&[]), Ok(()));
}

#[test]
fn numbers_of_every_stage_have_a_range() {
    let settings: [(&str, &[&str]); 8] = [
        ("learning_rate.peak", &["-1e-4", "nan", "inf", "-inf"]),
        ("learning_rate.final_share", &["-0.1", "1.1", "nan"]),
        ("optimizer.beta_1", &["-0.5", "1.0", "nan", "inf"]),
        ("optimizer.beta_2", &["-0.1", "1.0", "nan"]),
        ("optimizer.epsilon", &["0.0", "-1.0", "nan", "inf"]),
        ("optimizer.weight_decay", &["-1.0", "nan", "inf"]),
        ("optimizer.max_grad_norm", &["0.0", "-1.0", "nan"]),
        ("tokens_per_micro_batch", &["0"]),
    ];
    for stage in STAGES {
        for (key, values) in settings {
            values.iter().for_each(|value| assert_refused(&format!("{stage}.{key}"), value));
        }
        let free = format!("{stage}.optimizer.max_grad_norm=\"none\"");
        assert_eq!(checked(&[free, format!("{stage}.learning_rate.peak=0.0")]), Ok(()), "{stage}");
    }
}

#[test]
fn numbers_of_one_stage_have_a_range() {
    for (key, values) in [
        ("sft.batch_size", &["0"][..]),
        ("preference.batch_size", &["0"]),
        ("preference.reference_decay", &["1.0", "-0.1", "nan", "0.5"]),
        ("reward_model.batch_size", &["0"]),
        ("reward_model.center_coef", &["-1.0", "nan", "inf"]),
        ("reward_model.margin", &["-1.0", "nan", "inf"]),
        ("rl.prompts_per_step", &["0"]),
        ("rl.group_size", &["0"]),
        ("rl.sampling.temperature", &["-1.0", "0.0", "nan", "inf"]),
        ("rl.sampling.top_p", &["0.0", "1.5", "nan"]),
        ("rl.sampling.min_p", &["-0.1", "1.0", "nan"]),
        ("rl.sampling.max_new_tokens", &["0"]),
        ("rl.sampling.stop", &["[\"\"]"]),
        ("eval.max_new_tokens", &["0"]),
    ] {
        values.iter().for_each(|value| assert_refused(key, value));
    }
}

/// The numbers of a configuration, by name.
fn numbers(config: Table) -> (Vec<String>, Vec<String>) {
    let of = |kind: fn(&Value) -> bool| -> Vec<String> {
        config.iter().filter(|(_, value)| kind(value)).map(|(key, _)| key.clone()).collect()
    };
    (of(Value::is_float), of(Value::is_integer))
}

#[test]
fn every_number_of_an_algorithm_has_a_range() {
    let config = Table::try_from(AlgorithmConfig::preset(Preset::Grpo)).unwrap();
    let (floats, counts) = numbers(config);
    assert!(floats.len() > 25 && counts.len() > 5, "{floats:?} {counts:?}");
    for key in floats {
        for value in ["nan", "inf", "-1.0"] {
            assert_refused(&format!("rl.algorithm.{key}"), value);
        }
    }
    for key in ["pass_k", "replay_capacity", "updates_per_batch", "mini_batches"] {
        assert_refused(&format!("rl.algorithm.{key}"), "0");
    }
    assert_refused("rl.algorithm.mini_batches", "9");
    let config = Table::try_from(PreferenceConfig::preset(PreferencePreset::Dpo)).unwrap();
    for key in numbers(config).0 {
        for value in ["nan", "inf", "-1.0"] {
            assert_refused(&format!("preference.algorithm.{key}"), value);
        }
    }
}

#[test]
fn a_setting_without_effect_is_refused() {
    // Everything that GRPO, or DPO, does not read; a value that is good wherever it is read.
    for (key, value) in [
        ("rl.max_refills", "2"),
        ("rl.learning_rate.final_share", "0.5"),
        ("sft.learning_rate.final_share", "0.5"),
        ("rl.algorithm.step_weight", "0.5"),
        ("rl.algorithm.step_credit", "\"to_go\""),
        ("rl.algorithm.pass_k", "2"),
        ("rl.algorithm.gamma", "0.9"),
        ("rl.algorithm.lambda", "0.9"),
        ("rl.algorithm.whiten", "false"),
        ("rl.algorithm.whitening", "\"sequences\""),
        ("rl.algorithm.f_norm", "2.0"),
        ("rl.algorithm.tau_positive", "2.0"),
        ("rl.algorithm.clip_low", "0.1"),
        ("rl.algorithm.clip_high", "0.28"),
        ("rl.algorithm.dual_clip", "3.0"),
        ("rl.algorithm.ratio_ceiling", "10.0"),
        ("rl.algorithm.off_policy_threshold", "0.5"),
        ("rl.algorithm.anchor", "0.2"),
        ("rl.algorithm.cov_share", "0.1"),
        ("rl.algorithm.kl_estimator", "\"k2\""),
        ("rl.algorithm.reference_every", "5"),
        ("rl.algorithm.value_clip", "0.1"),
        ("rl.algorithm.critic_pretrain_steps", "5"),
        ("rl.algorithm.correction_high", "3.0"),
        ("rl.algorithm.rejection_level", "\"sequence_max\""),
        ("rl.algorithm.replay_alpha", "0.5"),
        ("preference.algorithm.gamma", "0.5"),
        ("preference.algorithm.desirable_weight", "2.0"),
        ("preference.algorithm.quality_weight", "0.5"),
    ] {
        assert_refused(key, value);
    }
}

#[test]
fn a_setting_counts_once_its_reader_is_chosen_in_any_order() {
    for settings in [
        &["rl.max_refills=2", "rl.algorithm.preset=\"dapo\""][..],
        &["rl.learning_rate.final_share=0.5", "rl.learning_rate.schedule=\"linear\""],
        &["rl.algorithm.pass_k=2", "rl.algorithm.advantage=\"pass_at_k\""],
        &["rl.algorithm.clip_high=0.28", "rl.algorithm.mini_batches=2"],
        &["rl.algorithm.dual_clip=3.0", "rl.algorithm.updates_per_batch=2"],
        &["rl.algorithm.f_norm=2.0", "rl.algorithm.preset=\"gpg\""],
        &["rl.algorithm.whitening=\"sequences\"", "rl.algorithm.preset=\"gdpo\""],
        &["rl.algorithm.rejection_low=0.9", "rl.algorithm.rejection=\"k1\""],
        &["rl.algorithm.rejection_level=\"sequence_sum\"", "rl.algorithm.rejection=\"k3\""],
        &["rl.algorithm.critic_pretrain_steps=5", "rl.algorithm.preset=\"vapo\""],
        &["preference.algorithm.gamma=0.5", "preference.algorithm.preset=\"simpo\""],
        &["preference.reference_decay=0.5", "preference.reference_every=2"],
    ] {
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        assert_eq!(checked(&settings), Ok(()), "{settings:?}");
    }
}

#[test]
fn rewards_are_checked_before_anything_runs() {
    let with = |reward: &str| {
        let text = RECIPE.replace("[eval]", &format!("[[reward]]\nweight = 0.1\n{reward}\n[eval]"));
        Recipe::parse("test", &text).and_then(|recipe| recipe.check()).map_err(|error| error.to_string())
    };
    assert_eq!(with("kind = 'soft_overlong'\nbuffer_tokens = 20"), Ok(()));
    for (reward, message) in [
        (
            "kind = 'soft_overlong'\nbuffer_tokens = 21",
            "buffer_tokens: expected at most rl.sampling.max_new_tokens = 20",
        ),
        ("kind = 'soft_overlong'\nbuffer_tokens = 0", "buffer_tokens: expected at least 1, got 0"),
        ("kind = 'format'\nbuffer_tokens = 4", "buffer_tokens"),
        ("kind = 'format'\nnames = ['steps']", "names"),
        ("kind = 'format'\nrelative_tolerance = 0.1", "relative_tolerance"),
    ] {
        let error = with(reward).expect_err(reward);
        assert!(error.contains(message), "{reward}: {error}");
    }
}
