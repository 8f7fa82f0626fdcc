//! A run that is killed and resumed ends where an undisturbed one ends.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use support::{errors, kyoka, tiny_run};

/// Weights of the newest checkpoint.
fn final_weights(run: &Path) -> Vec<u8> {
    let mut checkpoints: Vec<PathBuf> = std::fs::read_dir(run.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap() != "best")
        .collect();
    checkpoints.sort();
    std::fs::read(checkpoints.pop().unwrap().join("model.safetensors")).unwrap()
}

#[test]
fn a_run_killed_three_times_ends_with_the_same_weights() {
    let home = tempfile::tempdir().unwrap();
    let (straight, killed) = (home.path().join("straight"), home.path().join("killed"));
    let train = |out: &Path| {
        let mut command = kyoka(home.path());
        command.args(["train", "spoken-count", "--quiet", "--out"]).arg(out);
        tiny_run(&mut command);
        command
    };
    let began = Instant::now();
    let output = train(&straight).output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
    let whole = began.elapsed();

    // Moments spread over the run by the clock's last digits, so that every run of the test tries others.
    let noise = Instant::now().elapsed().as_nanos() as u64 + u64::from(std::process::id());
    for kill in 0..3_u64 {
        let mut command = if killed.join("config.toml").is_file() {
            let mut command = kyoka(home.path());
            command.args(["train", "--quiet", "--resume"]).arg(&killed);
            command
        } else {
            train(&killed)
        };
        let mut child = command.spawn().unwrap();
        let share = 0.15 + ((noise * 2_654_435_761 + kill * 40_503) % 1_000) as f64 / 2_500.0;
        std::thread::sleep(Duration::from_secs_f64(whole.as_secs_f64() * share));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let output = kyoka(home.path()).args(["train", "--quiet", "--resume"]).arg(&killed).output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
    assert_eq!(final_weights(&straight), final_weights(&killed), "weights differ after kill and resume");

    // The log holds every step once.
    let metrics = std::fs::read_to_string(killed.join("metrics.jsonl")).unwrap();
    let steps = metrics.lines().filter(|line| line.contains("\"metrics\"")).count();
    assert_eq!(steps, 9, "{metrics}");
    assert!(killed.join("report.html").is_file());
    let summary = std::fs::read_to_string(killed.join("summary.json")).unwrap();
    assert!(summary.contains("\"device\": ") && !summary.contains("\"auto\""), "{summary}");
}

#[test]
fn resuming_with_another_recipe_is_refused_naming_the_settings() {
    let home = tempfile::tempdir().unwrap();
    let run = home.path().join("run");
    let mut command = kyoka(home.path());
    command.args(["train", "spoken-count", "--quiet", "--out"]).arg(&run);
    assert!(tiny_run(&mut command).output().unwrap().status.success());
    let output = kyoka(home.path())
        .args(["train", "--quiet", "--set", "rl.group_size=4", "--resume"])
        .arg(&run)
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(errors(&output).contains("rl.group_size (3 then, 4 now)"), "{}", errors(&output));
}
