//! Rewards from programs: good ones, and every way in which they can go wrong.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{path::Path, time::Instant};

use kyoka_core::{Completion, Reward, RewardContext, RewardFn, Sample};
use kyoka_reward::ProgramReward;

/// Reads questions and their numbers in the shell; `answer` is what is done for each.
fn script(answer: &str) -> String {
    format!("while read -r line; do id=${{line#*:}}; id=${{id%%,*}}; {answer}; done")
}

fn reward(script: &str, settings: &str) -> ProgramReward {
    let mut table: toml::Table = settings.parse().unwrap();
    table.insert("command".to_owned(), vec!["sh", "-c", script].into());
    ProgramReward::read(table).unwrap()
}

fn judged(rule: &ProgramReward, texts: &[&str]) -> Vec<Reward> {
    let row = Sample { id: "r1".to_owned(), ..Sample::default() };
    let completion = |text: &&str| Completion { text: (*text).to_owned(), ..Completion::default() };
    let completions: Vec<Completion> = texts.iter().map(completion).collect();
    rule.judge(&RewardContext::of(&row), &completions).unwrap()
}

/// What is said where nothing could be judged.
fn fault(rule: &ProgramReward) -> String {
    let rewards = judged(rule, &["a", "b"]);
    assert!(rewards.iter().all(|reward| reward.total.is_none()), "{rewards:?}");
    assert_eq!(rewards[0].fault, rewards[1].fault);
    rewards[0].fault.clone().unwrap()
}

#[test]
fn a_program_is_started_once_and_asked_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let starts = folder.path().join("starts");
    let counting = format!(
        "echo x >> {}; {}",
        starts.display(),
        script(
            "case $line in *good*) r=1;; *) r=0.25;; esac; echo \"{\\\"id\\\": $id, \\\"rewards\\\": [$r]}\""
        )
    );
    let rule = reward(&counting, "");
    for (text, expected) in [("a good one", 1.0), ("another", 0.25), ("good", 1.0)] {
        assert_eq!(judged(&rule, &[text])[0].total, Some(expected), "{text}");
    }
    assert_eq!(std::fs::read_to_string(&starts).unwrap().lines().count(), 1);
}

#[test]
fn each_failure_says_what_it_is() {
    let two = |rest: &str| script(&format!("echo \"{{\\\"id\\\": $id, \\\"rewards\\\": {rest}}}\""));
    for (script, settings, expected) in [
        ("sleep 60".to_owned(), "time_limit_s = 0.2", "expected an answer within 0.2 s, got none"),
        (
            "echo no model >&2; exit 3".to_owned(),
            "",
            "got the end of its output (exit status: 3); it wrote: no model (2 tries)",
        ),
        (
            "read -r line; kill -9 $$".to_owned(),
            "",
            "got the end of its output (signal: 9 (SIGKILL)) (2 tries)",
        ),
        (script("echo hello"), "", "expected an answer such as"),
        (script("printf '\\377\\n'"), "", "expected a line of UTF-8, got other bytes (2 tries)"),
        (two("[1]"), "", "expected 2 rewards, one a completion, got 1 (2 tries)"),
        (two("[1, 2, 3]"), "retries = 0", "expected 2 rewards, one a completion, got 3"),
        (
            script("echo \"{\\\"id\\\": 999999999, \\\"rewards\\\": [1, 1]}\""),
            "retries = 0",
            "got one to 999999999",
        ),
        (
            script("echo \"{\\\"id\\\": $id, \\\"error\\\": \\\"out of memory\\\"}\""),
            "",
            "it says: out of memory (2 tries)",
        ),
        (
            "head -c 20000000 /dev/zero | tr '\\0' x".to_owned(),
            "",
            "expected a line of at most 16777216 bytes, got a longer one",
        ),
    ] {
        let said = fault(&reward(&script, settings));
        assert!(said.starts_with("program sh -c ") && said.contains(": row r1: "), "{said}");
        assert!(said.contains(expected), "{script}: {said}");
    }
    for missing in ["no-such-program", "./no-such-program"] {
        let settings = format!("command = ['{missing}']").parse().unwrap();
        let said = ProgramReward::read(settings).err().unwrap().to_string();
        assert_eq!(said, format!("command: expected a program that is there, got {missing:?}"));
    }
}

#[test]
fn an_answer_that_comes_twice_spoils_no_other() {
    let twice = script("for _ in 1 2; do echo \"{\\\"id\\\": $id, \\\"rewards\\\": [1]}\"; done");
    let rule = reward(&twice, "");
    for _ in 0..3 {
        // The surplus line is found at the next question, for which a new program is started.
        assert_eq!(judged(&rule, &["a"])[0].total, Some(1.0));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let unnumbered = fault(&reward(&script("echo '{\"rewards\": [0, 0]}'"), "retries = 0"));
    assert!(unnumbered.ends_with("got one without"), "{unnumbered}");
}

#[test]
fn a_flood_on_standard_error_blocks_nothing_and_only_its_end_is_told() {
    let flood = format!(
        "head -c 3000000 /dev/zero | tr '\\0' x >&2; {}",
        script(
            "head -c 300000 /dev/zero | tr '\\0' y >&2; echo >&2; echo last words >&2; echo \"{\\\"id\\\": $id, \\\"rewards\\\": [1]}\"; exit 1"
        )
    );
    let rule = reward(&flood, "");
    assert_eq!(judged(&rule, &["a"])[0].total, Some(1.0));
    let said = fault(&rule);
    assert!(said.contains("last words") && said.len() < 3000, "{}", said.len());
}

#[test]
fn another_try_takes_another_program() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("tried");
    let second = format!(
        "if [ ! -e {0} ]; then touch {0}; exit 1; fi; {1}",
        mark.display(),
        script("echo \"{\\\"id\\\": $id, \\\"rewards\\\": [1]}\"")
    );
    assert_eq!(judged(&reward(&second, ""), &["a"])[0].total, Some(1.0));
}

#[test]
fn many_questions_wait_side_by_side_and_stay_apart() {
    let slow = script(
        "sleep 0.2; case $line in *aa*) r=1;; *) r=0;; esac; echo \"{\\\"id\\\": $id, \\\"rewards\\\": [$r]}\"",
    );
    let rule = reward(&slow, "concurrency = 8");
    assert_eq!(rule.concurrency(), 8);
    let started = Instant::now();
    let totals = kyoka_core::on_threads((0..8).collect(), |number: usize| {
        judged(&rule, &[if number.is_multiple_of(2) { "aa" } else { "b" }])[0].total
    });
    assert_eq!(totals, [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0].map(Some));
    assert!(
        started.elapsed().as_secs_f64() < 1.5,
        "one after the other they take 1.6 s: {:?}",
        started.elapsed()
    );
}

#[test]
fn a_program_and_all_it_started_end_with_the_reward() {
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let stubborn = format!(
        "sleep 300 & echo $! $$ > {}; {}",
        pids.display(),
        script("echo \"{\\\"id\\\": $id, \\\"rewards\\\": [1]}\"")
    );
    let rule = reward(&stubborn, "");
    assert_eq!(judged(&rule, &["a"])[0].total, Some(1.0));
    drop(rule);
    let runs = |pid: &str| {
        let state = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
        !state.is_empty() && !state.contains(") Z ")
    };
    let pids = std::fs::read_to_string(&pids).unwrap();
    let patience = Instant::now() + std::time::Duration::from_secs(5);
    while pids.split_whitespace().any(runs) {
        assert!(Instant::now() < patience, "one of {pids} runs on");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn a_program_that_writes_without_end_fills_no_memory_and_one_that_lingers_may_end() {
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("saved");
    let lingering = format!(
        "{}; sleep 0.7; echo done > {}",
        script("echo \"{\\\"id\\\": $id, \\\"rewards\\\": [1]}\""),
        saved.display()
    );
    let rule = reward(&lingering, "");
    assert_eq!(judged(&rule, &["a"])[0].total, Some(1.0));
    drop(rule);
    assert!(saved.is_file(), "what it does at its end is done");
    let endless = reward("yes", "retries = 0");
    assert!(fault(&endless).contains("expected an answer such as"));
}

#[test]
fn settings_out_of_range_are_refused() {
    for (settings, expected) in [
        ("command = []", "command: expected a program and its arguments, got []"),
        ("command = ['sh']\ntime_limit_s = 0.0", "time_limit_s: expected a number above 0"),
        ("command = ['sh']\nretries = 11", "retries: expected at most 10, got 11"),
        ("command = ['sh']\nconcurrency = 0", "concurrency: expected a number from 1 to 64, got 0"),
        ("comand = ['sh']", "comand: unknown field"),
    ] {
        let said = ProgramReward::read(settings.parse().unwrap()).err().unwrap().to_string();
        assert!(said.starts_with(expected), "{said}");
    }
}
