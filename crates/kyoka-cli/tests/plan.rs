//! What `kyoka plan` predicts is what a run takes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use serde_json::Value;
use support::{errors, kyoka};

/// Two steps of each stage. A policy that has hardly learned writes to the limit; with a penalty on its divergence all of
/// that is trained, whatever the rewards.
const SETTINGS: [&str; 7] = [
    "sft.steps=2",
    "rl.algorithm.kl_coef=0.01",
    "rl.steps=2",
    "rl.prompts_per_step=24",
    "rl.sampling.max_new_tokens=32",
    "eval.max_rows=8",
    "eval.splits=[\"test\"]",
];

fn last_json(arguments: &[&str]) -> Value {
    let home = tempfile::tempdir().unwrap();
    let mut command = kyoka(home.path());
    command.args(arguments);
    for setting in SETTINGS {
        command.args(["--set", setting]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn the_predicted_peak_is_within_15_percent_of_the_measured_one() {
    let frozen =
        ["model.freeze=[\"image.encoder\",\"audio.encoder\"]", "sft.augment=false", "rl.augment=false"];
    for changes in [&[][..], &frozen] {
        let changes: Vec<&str> = changes.iter().flat_map(|&change| ["--set", change]).collect();
        let of = |command: &str| last_json(&[&[command, "spoken-count", "--json"], &changes[..]].concat());
        let predicted = of("plan")["limit_bytes"].as_f64().unwrap() / f64::from(1 << 20);
        let measured = of("train")["summary"]["peak_rss_mb"].as_f64().unwrap();
        let ratio = predicted / measured;
        assert!(
            (0.85..=1.15).contains(&ratio),
            "{changes:?}: predicted {predicted:.0} MB, measured {measured:.0} MB"
        );
    }
}

#[test]
fn what_does_not_fit_comes_with_changes_that_do() {
    let fits = last_json(&["plan", "spoken-count", "--json", "--memory", "64G"]);
    assert_eq!(fits["suggestions"].as_array().unwrap().len(), 0);
    let limit = fits["limit_bytes"].as_u64().unwrap();
    let memory = (limit * 7 / 10).to_string();
    let plan = last_json(&["plan", "spoken-count", "--json", "--memory", &memory]);
    let suggestions = plan["suggestions"].as_array().unwrap();
    assert!(!suggestions.is_empty());
    for suggestion in suggestions {
        assert!(suggestion["limit_bytes"].as_u64().unwrap() <= limit * 7 / 10, "{suggestion}");
    }
}
