//! A run that is killed and resumed ends where an undisturbed one ends.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    path::Path,
    process::Child,
    time::{Duration, Instant},
};

use support::{errors, kyoka, newest_weights, tiny_run};

/// Kills a run at a moment: after a share of the time that a whole run takes, or while it writes a checkpoint.
fn kill(mut child: Child, run: &Path, moment: Moment) {
    let began = Instant::now();
    let is_writing = || {
        let entries = std::fs::read_dir(run.join("checkpoints")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).any(|path| path.to_string_lossy().ends_with(".tmp"))
    };
    match moment {
        Moment::After(time) => std::thread::sleep(time),
        Moment::WhileSaving => {
            while !is_writing()
                && began.elapsed() < Duration::from_secs(20)
                && child.try_wait().unwrap().is_none()
            {}
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[derive(Clone, Copy)]
enum Moment {
    After(Duration),
    WhileSaving,
}

#[test]
fn a_run_killed_five_times_ends_with_the_same_weights() {
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
    let random = |kill: u64| {
        let share = 0.15 + ((noise * 2_654_435_761 + kill * 40_503) % 1_000) as f64 / 2_500.0;
        Moment::After(whole.mul_f64(share))
    };
    for moment in [random(0), Moment::WhileSaving, random(1), Moment::WhileSaving, random(2)] {
        let mut command = if killed.join("config.toml").is_file() {
            let mut command = kyoka(home.path());
            command.args(["train", "--quiet", "--resume"]).arg(&killed);
            command
        } else {
            train(&killed)
        };
        kill(command.spawn().unwrap(), &killed, moment);
    }
    let output = kyoka(home.path()).args(["train", "--quiet", "--resume"]).arg(&killed).output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
    assert!(newest_weights(&straight) == newest_weights(&killed), "weights differ after kill and resume");
    let best = |run: &Path| std::fs::read(run.join("checkpoints/best/model.safetensors")).unwrap();
    assert!(best(&straight) == best(&killed), "the best weights differ after kill and resume");
    let evaluations = |run: &Path| {
        let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        metrics.lines().filter(|line| line.contains("\"eval\"")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(evaluations(&straight), evaluations(&killed));
    // Nothing is left of the kills.
    for folder in [killed.clone(), killed.join("checkpoints")] {
        let left = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().ends_with("tmp")).collect();
        assert!(left.is_empty(), "{left:?}");
    }

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
