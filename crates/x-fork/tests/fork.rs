//! The fork trains through Kyoka's own run, and Kyoka alone refuses its recipe by name.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{fs, path::Path};

use kyoka::{
    EvalOptions, PlanOptions, Quiet, Recipe, TrainOptions,
    core::{AdvantageEstimator, GroupRewards},
    evaluate_checkpoint, load_policy, open_device, plan,
};

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
    // The fork's eyes are in the checkpoint, and learned; a program that cannot build them says so.
    let checkpoint = whole.join("checkpoints/1-rl-000003");
    let (device, tensors) =
        (open_device("cpu").unwrap(), String::from_utf8_lossy(&weights(&whole)).into_owned());
    assert!(tensors.contains("\"image.encoder.embedding.weight\""));
    let refused = load_policy(&checkpoint, &device).err().unwrap().to_string();
    assert!(refused.contains("the image encoder \"tiles\" of another program"), "{refused}");
    // The fork evaluates what it has trained, environment and all.
    let asked = EvalOptions {
        model: whole.clone(),
        adapter: None,
        recipe: None,
        dataset: None,
        rewards: Vec::new(),
        split: "val".to_owned(),
        blank: None,
        max_rows: 3,
        samples: None,
        temperature: None,
        max_new_tokens: None,
        seed: 1,
        device: "cpu".to_owned(),
    };
    let summary = x_fork::run(recipe()).evaluate(&asked, &mut |_| ()).unwrap();
    assert!(summary.num_rows == 3 && summary.part("turns").unwrap() >= 1.0, "{summary:?}");
    let refused = evaluate_checkpoint(&asked, &mut |_| ()).unwrap_err().to_string();
    assert!(refused.contains("this program brings no"), "{refused}");
    // Another run of the fork starts from it.
    let mut more = recipe();
    more.set(&format!("model.start={:?}", whole.display().to_string())).unwrap();
    let further = home.path().join("further");
    let outcome = x_fork::run(more).with_options(options(&further)).train(&mut Quiet).unwrap();
    assert_eq!(outcome.summary.rl_steps, 3);
    assert!(weights(&further) != weights(&whole));
}

#[test]
fn the_forks_estimator_by_hand() {
    let group =
        GroupRewards { totals: vec![1.0, 0.0, 4.0], lengths: vec![1, 2, 1], ..GroupRewards::default() };
    let advantages = x_fork::median::MedianAdvantage { scale: 2.0 }.estimate(&[group]).unwrap();
    assert_eq!(advantages.per_token, [vec![0.0], vec![-2.0, -2.0], vec![6.0]]);
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
    assert!(refused(&recipe).contains("no image encoder called \"tiles\""), "{}", refused(&recipe));
    recipe.set("model={ config = 'tiny' }").unwrap();
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
    let refused = |change: &str| {
        let (mut recipe, home) = (self::recipe(), tempfile::tempdir().unwrap());
        recipe.set(change).unwrap();
        let run = x_fork::run(recipe).with_options(options(&home.path().join("run")));
        run.train(&mut Quiet).unwrap_err().to_string()
    };
    for (change, expected) in [
        (
            "model.image_encoder.settings.tiles=9",
            "image_encoder.settings: tiles: expected a divisor of 28 and 28, got 9",
        ),
        ("model.image_encoder.settings.height=9", "image_encoder.settings: unknown field `height`"),
        ("model.image_fold=3", "image_fold: expected a divisor of the encoder's 16 positions, got 3"),
        ("model={ config = 'tiny' }", "model.image_encoder: this program sees through \"tiles\""),
        ("model.audio_fold=3", "model.audio_fold: it stands beside an audio"),
    ] {
        assert!(refused(change).contains(expected), "{change}: {}", refused(change));
    }
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
    assert_eq!(blocks.len(), 8);
    for block in blocks {
        let (_, shown) = block.split_once('\n').unwrap();
        assert!(sources.iter().any(|source| source.contains(shown.trim_end())), "no source has\n{shown}");
    }
}
