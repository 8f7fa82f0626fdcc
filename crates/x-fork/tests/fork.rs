//! The fork trains through Kyoka's own run, and Kyoka alone refuses its recipe by name.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{fs, path::Path};

use kyoka::{PlanOptions, Quiet, Recipe, TrainOptions, plan};

fn recipe() -> Recipe {
    Recipe::named(concat!(env!("CARGO_MANIFEST_DIR"), "/recipe.toml")).unwrap()
}

fn options(out: &Path) -> TrainOptions {
    TrainOptions { out: Some(out.to_owned()), device: "cpu".to_owned(), ..TrainOptions::default() }
}

/// Lines of the log, without what a clock says.
fn steps(run: &Path) -> Vec<String> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| line.split("\"time/").next().unwrap().to_owned()).collect()
}

#[test]
fn a_recipe_that_names_the_forks_parts_trains_and_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let (whole, halves) = (home.path().join("whole"), home.path().join("halves"));
    let outcome = x_fork::run(recipe()).with_options(options(&whole)).train(&mut Quiet).unwrap();
    assert_eq!(outcome.summary.rl_steps, 3);
    let log = steps(&whole).join("\n");
    assert!(log.contains("\"reward/short\":"), "the fork's reward is in the log: {log}");
    let all = fs::read_to_string(whole.join("metrics.jsonl")).unwrap();
    let turns = all.split("\"turns\":").skip(1).filter_map(|rest| rest.split([',', '}']).next());
    let turns: Vec<f64> = turns.map(|mean| mean.parse().unwrap()).collect();
    assert_eq!(turns.len(), 3);
    assert!(turns.iter().all(|&mean| mean > 1.0), "the fork's environment answers: {turns:?}");
    assert!(log.contains("\"entropy_estimate\":"), "the fork's engine cannot tell entropies: {log}");
    // Stopped after its first step of reinforcement learning, it goes on as if it had not been.
    let mut short = recipe();
    short.set("rl.steps=1").unwrap();
    x_fork::run(short).with_options(options(&halves)).train(&mut Quiet).unwrap();
    let resumed = TrainOptions { resume: Some(halves.clone()), ..options(&halves) };
    x_fork::run(recipe()).with_options(resumed).train(&mut Quiet).unwrap();
    let weights = |run: &Path| fs::read(run.join("checkpoints/1-rl-000003/model.safetensors")).unwrap();
    assert!(weights(&whole) == weights(&halves), "the resumed run ends with other weights");
}

#[test]
fn a_program_without_the_parts_refuses_the_recipe_by_name() {
    let refused = |recipe: &Recipe| recipe.check().unwrap_err().to_string();
    let mut recipe = recipe();
    assert!(
        refused(&recipe).contains("this program brings no advantage called \"median\""),
        "{}",
        refused(&recipe)
    );
    let planned = plan(&recipe, &PlanOptions::default()).unwrap_err().to_string();
    assert!(planned.contains("\"median\""), "{planned}");
    recipe.set("rl.algorithm.advantage=grpo").unwrap();
    assert!(refused(&recipe).contains("no loss called \"squared\""), "{}", refused(&recipe));
    recipe.set("rl.algorithm.loss=clipped").unwrap();
    assert!(refused(&recipe).contains("engine.name: this program brings no engine called \"elsewhere\""));
    recipe.set("engine={ kind = \"local\" }").unwrap();
    assert!(
        refused(&recipe).contains("environment.name: this program brings no environment called \"again\"")
    );
    recipe.set("environment={ kind = \"none\" }").unwrap();
    assert!(refused(&recipe).contains("no reward called \"short\""), "{}", refused(&recipe));
    recipe.set("reward=[{ kind = \"exact_answer\", weight = 1.0 }]").unwrap();
    assert_eq!(recipe.check().map_err(|error| error.to_string()), Ok(()));
}

#[test]
fn a_parts_own_settings_are_read_by_the_part() {
    let mut recipe = recipe();
    recipe.set("reward.short.settings.lettres=3").unwrap();
    let said = x_fork::run(recipe).check().unwrap_err().to_string();
    assert!(said.contains("reward.0.settings: unknown field `lettres`"), "{said}");
}

#[test]
fn a_reward_that_is_used_twice_has_two_parts_in_the_log() {
    let (home, mut recipe) = (tempfile::tempdir().unwrap(), recipe());
    let short = |name: &str, letters: usize| {
        format!(
            "{{ kind = 'custom', part = 'short', name = '{name}', weight = 1.0, settings = {{ letters = {letters} }} }}"
        )
    };
    let exact = "{ kind = 'exact_answer', weight = 1.0 }, { kind = 'format', weight = 0.1, name = 'form' }";
    recipe.set(&format!("reward=[{}, {}, {exact}]", short("brief", 4), short("long", 400))).unwrap();
    recipe.set("rl.steps=1").unwrap();
    recipe.set("sft.steps=1").unwrap();
    let run = home.path().join("run");
    x_fork::run(recipe.clone()).with_options(options(&run)).train(&mut Quiet).unwrap();
    let log = steps(&run).join("\n");
    for part in ["brief", "long", "accuracy", "form"] {
        assert!(log.contains(&format!("\"reward/{part}\":")), "{part}: {log}");
    }
    assert!(!log.contains("reward/short") && !log.contains("reward/format"), "{log}");
    recipe.set(&format!("reward=[{}, {exact}]", short("accuracy", 4))).unwrap();
    let said = x_fork::run(recipe).check().unwrap_err().to_string();
    let expected =
        "reward.1.name: two rewards report a part called \"accuracy\"; give one of them a `name` of its own";
    assert!(said.ends_with(expected), "{said}");
}

#[test]
fn the_fork_is_short() {
    let sources = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap();
    let lines = sources.map(|file| fs::read_to_string(file.unwrap().path()).unwrap().lines().count());
    assert!(lines.sum::<usize>() <= 300);
}

/// The page about extending quotes the fork, and the fork is what it says.
#[test]
fn the_page_about_extending_shows_these_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("../../docs/extending.md")).unwrap();
    let sources = fs::read_dir(root.join("src")).unwrap().map(|file| file.unwrap().path());
    let sources: Vec<String> =
        sources.chain([root.join("recipe.toml")]).map(|path| fs::read_to_string(path).unwrap()).collect();
    let blocks: Vec<&str> = page.split("```").skip(1).step_by(2).collect();
    assert_eq!(blocks.len(), 7);
    for block in blocks {
        let (_, shown) = block.split_once('\n').unwrap();
        assert!(sources.iter().any(|source| source.contains(shown.trim_end())), "no source has\n{shown}");
    }
}
