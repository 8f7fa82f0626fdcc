//! Runs in the world: signals, kills, two processes, broken files, rows that change.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use support::{errors, kyoka, newest_weights, small_data};

/// A run of a few steps on small pictures, in `out`.
fn train(home: &Path, out: &str, settings: &[&str]) -> Command {
    let mut command = kyoka(home);
    command.args(["train", "recipe.toml", "--quiet", "--out", out]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    command
}

fn resume(home: &Path, out: &str, settings: &[&str]) -> Output {
    let mut command = kyoka(home);
    command.args(["train", "--quiet", "--resume", out]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    command.output().unwrap()
}

fn finished(output: &Output) {
    assert!(output.status.success(), "{}", errors(output));
}

/// Waits until something is so; a run that ends or takes a minute before fails.
fn wait_for(child: &mut Child, what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before {what}");
        assert!(began.elapsed() < Duration::from_secs(60), "a minute passed without {what}");
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Lines of a file that hold all of some texts.
fn lines(path: &Path, parts: &[&str]) -> Vec<String> {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    text.lines().filter(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned).collect()
}

fn checkpoints(run: &Path) -> Vec<String> {
    let entries = fs::read_dir(run.join("checkpoints")).into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn newest(run: &Path) -> String {
    checkpoints(run).into_iter().rfind(|name| name != "best").unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[cfg(unix)]
fn signal(child: &Child, name: &str) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", child.id())]).status().unwrap();
    assert!(sent.success());
}

/// Sends a signal to a run, and gives what it said and the seconds that it took to end.
#[cfg(unix)]
fn stopped(mut child: Child, name: &str) -> (Output, f64) {
    signal(&child, name);
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(30), "SIG{name} does not end the run");
        std::thread::sleep(Duration::from_millis(3));
    }
    (child.wait_with_output().unwrap(), began.elapsed().as_secs_f64())
}

#[cfg(unix)]
#[test]
fn a_signal_ends_a_run_with_a_checkpoint_and_the_code_of_the_signal() {
    let home = small_data(8);
    for (name, code) in [("TERM", 143), ("HUP", 129), ("INT", 130)] {
        let run = home.path().join(name);
        let mut child = train(home.path(), name, &["rl.steps=5000", "checkpoints.every=0"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for(&mut child, "step 3", || {
            !lines(&run.join("metrics.jsonl"), &["\"rl\"", "\"step\":3"]).is_empty()
        });
        let (output, _) = stopped(child, name);
        let message = errors(&output);
        assert_eq!(output.status.code(), Some(code), "{message}");
        assert!(message.contains("stopping with a checkpoint"), "{message}");
        let newest = newest(&run);
        let step: usize = newest.rsplit('-').next().unwrap().parse().unwrap();
        assert!(
            step >= 3 && message.contains(&format!("resume from {name}/checkpoints/{newest}")),
            "{message}"
        );
        assert_eq!(lines(&run.join("metrics.jsonl"), &["\"rl\"", "\"metrics\""]).len(), step, "{message}");
        finished(&resume(home.path(), name, &[&format!("rl.steps={}", step + 1)]));
    }
}

#[cfg(unix)]
#[test]
fn an_evaluation_and_sampling_are_given_up_at_once_and_made_up_for() {
    let home = small_data(8);
    let slow = ["eval.max_new_tokens=400", "sft.steps=2", "rl.steps=1", "rl.sampling.max_new_tokens=400"];
    let run = home.path().join("run");
    let metrics = run.join("metrics.jsonl");
    // In the evaluation after sft.
    let mut child = train(home.path(), "run", &slow).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&mut child, "the end of sft", || run.join("checkpoints/0-sft-000002/state.json").is_file());
    std::thread::sleep(Duration::from_millis(50));
    let (output, seconds) = stopped(child, "INT");
    let message = errors(&output);
    assert_eq!(output.status.code(), Some(130), "{message}");
    assert!(message.contains("at sft, step 2; resume from run/checkpoints/0-sft-000002"), "{message}");
    assert!(seconds < 5.0 && lines(&metrics, &["\"eval\""]).is_empty(), "{seconds} s");
    assert_eq!(checkpoints(&run), ["0-sft-000002"]);
    // While the first completions of rl are sampled: what was there before stands.
    let mut command = kyoka(home.path());
    command.args(["train", "--quiet", "--resume", "run", "--set", "eval.max_new_tokens=8"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&mut child, "the evaluation", || lines(&metrics, &["\"eval\"", "\"sft\""]).len() == 1);
    std::thread::sleep(Duration::from_millis(50));
    let (output, seconds) = stopped(child, "TERM");
    assert_eq!(output.status.code(), Some(143), "{}", errors(&output));
    assert!(seconds < 5.0 && lines(&metrics, &["\"rl\""]).is_empty(), "{seconds} s");
    finished(&resume(home.path(), "run", &[]));
    assert_eq!(lines(&metrics, &["\"eval\"", "\"sft\""]).len(), 1, "evaluated once");
    assert_eq!(lines(&metrics, &["\"metrics\"", "\"rl\""]).len(), 1);
}

#[test]
fn an_evaluation_that_a_kill_has_cost_is_made_up_for() {
    let home = small_data(8);
    let settings = [
        "rl.eval_every=1",
        "rl.steps=3",
        "rl.learning_rate.peak=1e-2",
        "checkpoints.every=1",
        "eval.max_new_tokens=100",
    ];
    finished(&train(home.path(), "straight", &settings).output().unwrap());
    let run = home.path().join("killed");
    let mut child = train(home.path(), "killed", &settings).spawn().unwrap();
    wait_for(&mut child, "step 1 of rl", || run.join("checkpoints/1-rl-000001/state.json").is_file());
    child.kill().unwrap();
    child.wait().unwrap();
    finished(&resume(home.path(), "killed", &[]));
    let evals = |name: &str| lines(&home.path().join(name).join("metrics.jsonl"), &["\"eval\""]);
    assert_eq!(evals("straight"), evals("killed"));
    assert_eq!(evals("straight").len(), 4);
    let best =
        |name: &str| fs::read(home.path().join(name).join("checkpoints/best/model.safetensors")).unwrap();
    assert!(best("straight") == best("killed"), "best is another checkpoint");
}

#[test]
fn two_runs_never_share_a_folder() {
    let home = small_data(8);
    let start = |steps: &str| {
        let mut command = kyoka(home.path());
        command.args(["train", "recipe.toml", "--quiet", "--set", steps]).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let (first, second) = (start("rl.steps=2"), start("rl.steps=3"));
    for child in [first, second] {
        finished(&child.wait_with_output().unwrap());
    }
    let steps = |name: &str| {
        lines(&home.path().join("runs").join(name).join("metrics.jsonl"), &["\"rl\"", "\"metrics\""]).len()
    };
    let mut both = [steps("recipe-seed1"), steps("recipe-seed1-2")];
    both.sort_unstable();
    assert_eq!(both, [2, 3]);
    // A run that goes on is neither resumed nor written into.
    let run = home.path().join("run");
    let mut child = train(home.path(), "run", &["rl.steps=5000"]).spawn().unwrap();
    wait_for(&mut child, "its folder", || run.join("metrics.jsonl").is_file());
    for output in [resume(home.path(), "run", &[]), train(home.path(), "run", &[]).output().unwrap()] {
        let message = errors(&output);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("run: "), "{message}");
    }
    let message = errors(&resume(home.path(), "run", &[]));
    assert!(message.contains(&format!("another run (process {}) is writing here", child.id())), "{message}");
    child.kill().unwrap();
    child.wait().unwrap();
    finished(&resume(home.path(), "run", &["rl.steps=3000", "rl.max_generated_tokens=1"]));
}

#[test]
fn a_newest_checkpoint_that_was_cut_gives_way_to_the_one_before() {
    let home = small_data(8);
    finished(
        &train(home.path(), "whole", &["checkpoints.every=1", "checkpoints.keep_last=3"]).output().unwrap(),
    );
    let whole = home.path().join("whole");
    let newest = newest(&whole);
    let files: Vec<PathBuf> = fs::read_dir(whole.join("checkpoints").join(&newest))
        .unwrap()
        .map(|entry| PathBuf::from(entry.unwrap().file_name()))
        .collect();
    assert!(files.len() >= 5, "{files:?}");
    for (number, file) in files.iter().enumerate() {
        let name = format!("cut{number}");
        let run = home.path().join(&name);
        copy(&whole, &run);
        let path = run.join("checkpoints").join(&newest).join(file);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let output = resume(home.path(), &name, &[]);
        finished(&output);
        let message = errors(&output);
        assert!(message.contains("warning: ") && message.contains(&file.display().to_string()), "{message}");
        assert!(message.contains(&format!("{newest} cannot be read")), "{message}");
        assert!(newest_weights(&whole) == newest_weights(&run), "{}: other weights", file.display());
        assert!(checkpoints(&run).iter().all(|name| !name.contains('.')), "{:?}", checkpoints(&run));
    }
}

#[test]
fn a_log_cut_within_a_character_is_mended() {
    let home = small_data(8);
    finished(&train(home.path(), "run", &["checkpoints.every=1"]).output().unwrap());
    let run = home.path().join("run");
    let whole = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let newest = newest(&run);
    fs::remove_dir_all(run.join("checkpoints").join(newest)).unwrap();
    for file in ["metrics.jsonl", "samples.jsonl"] {
        let cut = b"{\"stage\":\"rl\",\"step\":1,\"sample\":{\"completion\":\"\xe7\x8c";
        let bytes = [fs::read(run.join(file)).unwrap().as_slice(), cut].concat();
        fs::write(run.join(file), bytes).unwrap();
    }
    finished(&resume(home.path(), "run", &[]));
    let keys = |text: &str| {
        let value = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        text.lines()
            .map(|line| format!("{} {}", value(line)["stage"], value(line)["step"]))
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(&whole), keys(&fs::read_to_string(run.join("metrics.jsonl")).unwrap()));
    assert!(run.join("report.html").is_file());
}

#[test]
fn rows_and_pictures_that_changed_are_refused_on_resume() {
    let home = small_data(8);
    finished(&train(home.path(), "run", &["checkpoints.every=1"]).output().unwrap());
    let rows = home.path().join("data/train.jsonl");
    let text = fs::read_to_string(&rows).unwrap();
    let picture = fs::read(home.path().join("data/1.png")).unwrap();
    let check = |expected: Option<&str>| {
        let output = resume(home.path(), "run", &["rl.steps=6"]);
        let message = errors(&output);
        assert_eq!(output.status.success(), expected.is_none(), "{message}");
        assert!(expected.is_none_or(|part| message.contains(part)), "{message}");
    };
    let fewer: Vec<&str> = text.lines().take(5).collect();
    fs::write(&rows, fewer.join("\n")).unwrap();
    check(Some("split train"));
    fs::write(&rows, text.replace("\"answer\": \"1\"", "\"answer\": \"2\"")).unwrap();
    check(Some("split train"));
    fs::write(&rows, &text).unwrap();
    kyoka_testing::write_grey_png(&home.path().join("data/1.png"), 8, |_, y| (37 * y) as u8);
    check(Some("split train"));
    fs::write(home.path().join("data/1.png"), picture).unwrap();
    check(None);
}

#[test]
fn a_picture_that_vanishes_costs_no_step_and_one_that_is_not_there_is_told_first() {
    let home = small_data(60);
    fs::remove_file(home.path().join("data/37.png")).unwrap();
    let settings = ["rl.steps=60", "rl.prompts_per_step=1", "checkpoints.every=0", "eval.max_rows=1"];
    let output = train(home.path(), "run", &settings).output().unwrap();
    let message = errors(&output);
    assert!(message.contains("train.jsonl:38: images") && message.contains("37.png"), "{message}");
    assert!(!home.path().join("run").exists(), "nothing was begun");
    // One that vanishes later: pictures are read when their rows are drawn.
    for number in 0..60 {
        kyoka_testing::write_grey_png(&home.path().join(format!("data/{number}.png")), 8, |x, _| x as u8);
    }
    let run = home.path().join("run");
    let mut child = train(home.path(), "run", &settings).stderr(Stdio::piped()).spawn().unwrap();
    let metrics = run.join("metrics.jsonl");
    wait_for(&mut child, "step 2", || !lines(&metrics, &["\"rl\"", "\"step\":2,"]).is_empty());
    for number in 0..60 {
        fs::remove_file(home.path().join(format!("data/{number}.png"))).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let message = errors(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    let newest = newest(&run);
    assert!(
        message.contains(".png") && message.contains(&format!("can go on from run/checkpoints/{newest}"))
    );
    let steps = lines(&metrics, &["\"rl\"", "\"metrics\""]).len();
    assert!(steps >= 2 && newest == format!("1-rl-{steps:06}"), "{newest} after {steps} steps: {message}");
}

#[test]
fn best_start_and_final_splits_are_kept_apart() {
    let home = small_data(8);
    let settings = [
        "rl.eval_every=1",
        "eval.at_start=true",
        "eval.splits=[\"test\"]",
        "eval.final_splits=[\"train\"]",
        "eval.samples=2",
        "eval.best.metric=\"pass@2\"",
    ];
    finished(&train(home.path(), "run", &settings).output().unwrap());
    let run = home.path().join("run");
    let metrics = run.join("metrics.jsonl");
    assert_eq!(lines(&metrics, &["\"eval\"", "\"step\":0", "pass@2", "truncated_share"]).len(), 1);
    assert_eq!(lines(&metrics, &["\"eval\"", "\"split\":\"train\"", "\"final\":true"]).len(), 1, "read once");
    assert!(checkpoints(&run).contains(&"best".to_owned()));
    let summary = fs::read_to_string(run.join("summary.json")).unwrap();
    assert!(summary.contains("at_start") && summary.contains("after_rl"), "{summary}");
    // Resumed at its end: nothing is evaluated again; with other settings it is.
    finished(&resume(home.path(), "run", &[]));
    assert_eq!(lines(&metrics, &["\"split\":\"train\"", "\"eval\""]).len(), 1);
    finished(&resume(home.path(), "run", &["eval.max_rows=1"]));
    assert_eq!(lines(&metrics, &["\"num_rows\":1", "\"final\":true"]).len(), 1);
    assert_eq!(lines(&metrics, &["\"eval\"", "\"rl\"", "\"step\":2"]).len(), 2, "watched and final splits");
}

/// A recipe over a small language model in transformers' layout, and its rows.
fn data_for_a_checkpoint(checkpoint: &Path) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("data")).unwrap();
    let row = |id: usize| {
        format!(
            "{{\"id\": \"{id}\", \"prompt\": \"t5 t6 t{id}\", \"answer\": \"t9\", \"completion\": \"t{id} t9\"}}\n"
        )
    };
    fs::write(home.path().join("data/rows.jsonl"), row(7) + &row(8)).unwrap();
    let recipe = format!(
        "[data]\ndataset = \"data\"\n[model]\ncheckpoint = {checkpoint:?}\n[sft]\ndata = \"rows\"\nsteps = 2\n\
         batch_size = 2\nlearning_rate = {{ peak = 1e-3 }}\n[[reward]]\nkind = \"exact_answer\"\nweight = 1.0\n\
         [eval]\nsplits = [\"rows\"]\nmax_new_tokens = 3\n"
    );
    fs::write(home.path().join("recipe.toml"), recipe).unwrap();
    home
}

#[test]
fn a_checkpoint_of_others_is_evaluated_alone_and_before_it_is_trained() {
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kyoka/tests/golden/llama_yarn");
    let home = data_for_a_checkpoint(&checkpoint);
    let eval = |arguments: &[&str]| {
        let mut command = kyoka(home.path());
        command.arg("eval").arg(&checkpoint).args(["--split", "rows", "--json"]).args(arguments);
        command.output().unwrap()
    };
    let alone = eval(&[]);
    assert_eq!(alone.status.code(), Some(2), "{}", errors(&alone));
    assert!(errors(&alone).contains("no recipe of its own: give --recipe, or --dataset and --reward"));
    let text = |output: &Output| {
        assert!(output.status.success(), "{}", errors(output));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let by_recipe = text(&eval(&["--recipe", "recipe.toml"]));
    assert!(by_recipe.contains("\"num_rows\":2") && by_recipe.contains("\"accuracy\""), "{by_recipe}");
    let by_hand = ["--dataset", "data", "--reward", "exact_answer", "--max-new-tokens", "3"];
    assert_eq!(by_recipe, text(&eval(&by_hand)));
    let sampled = text(&eval(&["--recipe", "recipe.toml", "--samples", "3"]));
    assert!(sampled.contains("\"pass@3\""), "{sampled}");
    let unknown = errors(&eval(&["--dataset", "data", "--reward", "exact_answr"]));
    assert!(unknown.contains("--reward: ") && unknown.contains("did you mean `exact_answer`?"), "{unknown}");
    // The run itself begins with the same numbers.
    finished(&train(home.path(), "run", &[]).output().unwrap());
    let start = lines(&home.path().join("run/metrics.jsonl"), &["\"step\":0", "\"eval\""]);
    assert_eq!(start.len(), 1);
    assert!(start[0].contains(&by_recipe), "{start:?} {by_recipe}");
}
