//! Rows that do not come from a folder of JSON: pictures sorted into folders, through every command that reads rows.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{fs, path::Path, process::Output};

use support::{errors, kyoka, newest_weights, small_data};

const SOURCE: &str =
    "data.source={ kind = 'image_folders', folder = 'sorted', question = 'Which side is light?' }";

/// Small rows, and a recipe without their worked completions: nobody has worked out the pictures in folders.
fn home() -> tempfile::TempDir {
    let home = small_data(4);
    let path = home.path().join("recipe.toml");
    let recipe = fs::read_to_string(&path).unwrap();
    let (before, rest) = recipe.split_once("[sft]").unwrap();
    let (_, after) = rest.split_once("[rl]").unwrap();
    fs::write(path, format!("{before}[rl]{after}")).unwrap();
    home
}

/// Light from the left, or from the right.
fn sort_pictures(home: &Path) {
    for split in ["train", "test"] {
        for number in 0..4 {
            for (answer, towards) in [("left", 7), ("right", 0)] {
                let folder = home.join("sorted").join(split).join(answer);
                fs::create_dir_all(&folder).unwrap();
                let shade = |x: u32, _: u32| (30 * x.abs_diff(towards) + number) as u8;
                kyoka_testing::write_grey_png(&folder.join(format!("{number}.png")), 8, shade);
            }
        }
    }
}

fn train(home: &Path, out: &str, settings: &[&str]) -> Output {
    let mut command = kyoka(home);
    command.args(["train", "recipe.toml", "--quiet", "--out", out]);
    for setting in [&[SOURCE], settings].concat() {
        command.args(["--set", setting]);
    }
    command.output().unwrap()
}

#[test]
fn pictures_in_folders_are_trained_on_evaluated_planned_and_resumed() {
    let home = home();
    sort_pictures(home.path());
    let command = |arguments: &[&str]| kyoka(home.path()).args(arguments).output().unwrap();
    let run = |out: &str, steps: usize| {
        let output = train(home.path(), out, &[&format!("rl.steps={steps}")]);
        assert!(output.status.success(), "{}", errors(&output));
    };
    run("whole", 3);
    let log = fs::read_to_string(home.path().join("whole/metrics.jsonl")).unwrap();
    let samples = fs::read_to_string(home.path().join("whole/samples.jsonl")).unwrap_or_default();
    assert!(log.contains("\"reward/accuracy\"") && samples.contains("left/"), "{log}\n{samples}");
    // The run's own recipe names the source: it goes on, and is evaluated, over the same rows.
    run("halves", 1);
    let resumed = command(&["train", "--quiet", "--resume", "halves", "--set", "rl.steps=3"]);
    assert!(resumed.status.success(), "{}", errors(&resumed));
    let weights = |out: &str| newest_weights(&home.path().join(out));
    assert!(weights("whole") == weights("halves"), "the resumed run ends with other weights");
    let evaluated = command(&["eval", "whole", "--split", "test", "--json"]);
    let said = String::from_utf8_lossy(&evaluated.stdout).into_owned();
    assert!(evaluated.status.success(), "{}", errors(&evaluated));
    assert!(said.replace(' ', "").contains("\"num_rows\":8"), "{said}");
    let planned = command(&["plan", "recipe.toml", "--set", SOURCE]);
    assert!(planned.status.success(), "{}", errors(&planned));
    // A picture more, and it is another dataset.
    kyoka_testing::write_grey_png(&home.path().join("sorted/train/left/9.png"), 8, |_, _| 1);
    let other = command(&["train", "--quiet", "--resume", "halves", "--set", "rl.steps=4"]);
    assert!(errors(&other).contains("split train: it had 8 rows and has 9"), "{}", errors(&other));
}

#[test]
fn a_source_that_cannot_give_rows_is_named_before_anything_runs() {
    let home = home();
    let refused = |settings: &[&str]| {
        let output = train(home.path(), "run", settings);
        assert!(!output.status.success() && !home.path().join("run").exists());
        errors(&output)
    };
    assert!(refused(&[]).contains("dataset image_folders/train: sorted/train: "), "{}", refused(&[]));
    fs::create_dir_all(home.path().join("sorted/train")).unwrap();
    assert!(refused(&[]).contains("dataset image_folders/train: no rows"), "{}", refused(&[]));
    for (setting, said) in [
        (
            "data.source={ kind = 'image_folder' }",
            "data.source.kind: unknown kind `image_folder` (known: image_folders, custom); did you mean `image_folders`?",
        ),
        ("data.source={ kind = 'image_folders', folder = 'sorted' }", "data.source.question: missing"),
        (
            "data.source={ kind = 'image_folders', folder = 'x', question = '?', split = 'y' }",
            "data.source.split: unknown field `split`",
        ),
        (
            "data.source={ kind = 'custom', name = 'mine' }",
            "data.source.name: this program brings no source called \"mine\" (it brings: none)",
        ),
        ("data.source={ folder = 'x' }", "data.source: kind: missing"),
    ] {
        let got = refused(&[setting]);
        assert!(got.contains(said), "{setting}: {got}");
    }
}
