//! Faults that were met in real use: each folder of `tests/found` holds the input that failed and, in `expect.json`, what
//! the command must do with it now. `FOUND=part-of-a-name` runs some of them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;

/// `expect.json` of a folder.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What went wrong, in a sentence.
    fault: String,
    /// The command's calls, in order, in a copy of the folder.
    runs: Vec<Call>,
}

/// One call of the command, and what it must do.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    /// Arguments.
    args: Vec<String>,
    /// Exit code.
    #[serde(default)]
    exit: i32,
    /// Parts of standard output.
    #[serde(default)]
    stdout: Vec<String>,
    /// Parts of standard error.
    #[serde(default)]
    stderr: Vec<String>,
    /// What neither may hold; `panicked` never may.
    #[serde(default)]
    absent: Vec<String>,
    /// Index of an earlier call that must have printed the same.
    same_as: Option<usize>,
    /// Parts of files, by path in the copied folder, after the call.
    #[serde(default)]
    files: BTreeMap<PathBuf, Vec<String>>,
    /// Paths that must not exist after the call.
    #[serde(default)]
    no_files: Vec<PathBuf>,
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

/// What differs from what is expected.
fn run(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join("expect.json"))
        .unwrap_or_else(|error| panic!("{}: expect.json: {error}", folder.display()));
    let case: Case =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    assert!(!case.fault.is_empty() && !case.runs.is_empty(), "{}: says nothing", folder.display());
    let home = tempfile::tempdir().unwrap();
    copy(folder, home.path());
    let mut printed: Vec<String> = Vec::new();
    let mut wrong = Vec::new();
    for (index, call) in case.runs.iter().enumerate() {
        let output = Command::new(env!("CARGO_BIN_EXE_kyoka"))
            .args(&call.args)
            .env("KYOKA_DATA_DIR", home.path().join("bundled"))
            .current_dir(home.path())
            .output()
            .unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let mut fail = |what: String| {
            let name = folder.file_name().unwrap().to_string_lossy();
            let tail: String = stderr.chars().take(2_000).collect();
            wrong.push(format!("{name}, call {index}: {what}\n--- stdout\n{stdout}\n--- stderr\n{tail}"));
        };
        if output.status.code() != Some(call.exit) {
            fail(format!("expected exit {}, got {:?}", call.exit, output.status.code()));
        }
        for part in call.stdout.iter().filter(|part| !stdout.contains(*part)) {
            fail(format!("standard output lacks {part:?}"));
        }
        for part in call.stderr.iter().filter(|part| !stderr.contains(*part)) {
            fail(format!("standard error lacks {part:?}"));
        }
        let never = ["panicked".to_owned()];
        for part in call.absent.iter().chain(&never).filter(|part| (stdout.clone() + &stderr).contains(*part))
        {
            fail(format!("holds {part:?}"));
        }
        if call.same_as.is_some_and(|earlier| printed[earlier] != stdout) {
            fail(format!(
                "expected what call {:?} printed: {}",
                call.same_as,
                printed[call.same_as.unwrap()]
            ));
        }
        for (path, parts) in &call.files {
            let bytes = fs::read(home.path().join(path)).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            for part in parts.iter().filter(|part| !text.contains(*part)) {
                fail(format!("{} lacks {part:?}", path.display()));
            }
        }
        for path in call.no_files.iter().filter(|path| home.path().join(path).exists()) {
            fail(format!("{} must not exist", path.display()));
        }
        printed.push(stdout);
    }
    wrong
}

#[test]
fn faults_that_were_met_stay_away() {
    let filter = std::env::var("FOUND").unwrap_or_default();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/found");
    let mut folders: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.is_dir() && folder.to_string_lossy().contains(&filter));
    folders.sort();
    let middle = folders.len().div_ceil(2);
    let (first, second) = folders.split_at(middle);
    let all = |folders: &[PathBuf]| folders.iter().flat_map(|folder| run(folder)).collect::<Vec<String>>();
    let wrong = std::thread::scope(|scope| {
        let other = scope.spawn(|| all(second));
        [all(first), other.join().unwrap()].concat()
    });
    assert!(wrong.is_empty(), "{} of {} folders: {}", wrong.len(), folders.len(), wrong.join("\n\n"));
}
