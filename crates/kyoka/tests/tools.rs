//! A policy that calls tools: a program's own beside Kyoka's, through a run, with real pictures.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, path::Path};

use kyoka::{
    EngineContext, EvalOptions, Policy, Quiet, Recipe, Run, TrainOptions,
    core::{
        GroupSink, Part, Rollout, RolloutEngine, RolloutError, RolloutGroup, RolloutRequest, Sample,
        StopReason, ToolSchema,
    },
    environments::{Tool, ToolError},
    evaluate_checkpoint,
    rollout::TurnByTurn,
};
use serde_json::{Value, json};

const RECIPE: &str = r#"
[data]
dataset = "FOLDER"
[model]
config = "tiny"
[engine]
kind = "custom"
name = "scripted"
[environment]
kind = "tools"
tools = [{ kind = "crop" }, { kind = "custom", name = "weigh", settings = { unit = "kg" } }]
max_turns = 3
max_observation_tokens = 40
[rl]
data = "train"
steps = 2
prompts_per_step = 1
group_size = 2
sampling = { max_new_tokens = 300 }
learning_rate = { peak = 1e-4 }
[[reward]]
kind = "exact_answer"
weight = 1.0
[eval]
splits = ["train"]
max_new_tokens = 300
"#;

/// What the policy is made to say: two calls, then the right answer.
const TURNS: [&str; 3] = [
    r#"<tool_call>{"name": "crop", "arguments": {"bbox_2d": [0, 0, 20, 20]}}</tool_call>"#,
    r#"<tool_call>{"name": "weigh", "arguments": {}}</tool_call>"#,
    "<answer>2</answer>",
];

/// Completes a turn by what was said before.
struct Scripted {
    turns: Vec<Vec<u32>>,
    end: u32,
    banned_ids: Vec<u32>,
}

impl Scripted {
    fn new(context: &EngineContext<'_>) -> Self {
        let turns = TURNS.iter().map(|text| context.tokenizer.encode(text).unwrap()).collect();
        Self { turns, end: context.tokenizer.end_id(), banned_ids: context.tokenizer.banned_ids() }
    }
}

impl RolloutEngine<Policy> for Scripted {
    fn banned_ids(&self) -> &[u32] {
        &self.banned_ids
    }

    fn publish(&self, _: u64, _: &Policy) -> Result<(), RolloutError> {
        Ok(())
    }

    fn generate(&self, request: RolloutRequest<'_>, sink: &mut GroupSink<'_>) -> Result<(), RolloutError> {
        for (place, asked) in request.prompts.iter().enumerate() {
            let said = |ids: &[u32]| asked.prompt.token_ids.windows(ids.len()).any(|window| window == ids);
            let turn = self.turns.iter().find(|turn| !said(turn)).unwrap();
            // The picture of the row; behind the first call also what was cut out of it.
            let seen = if std::ptr::eq(turn, &self.turns[0]) { 1 } else { 2 };
            assert_eq!(asked.prompt.images.len(), seen);
            let token_ids: Vec<u32> = turn.iter().copied().chain([self.end]).collect();
            let rollout = Rollout::of_turn(
                token_ids.clone(),
                vec![-1.0; token_ids.len()],
                vec![],
                StopReason::EndToken,
            );
            sink(
                place,
                RolloutGroup {
                    prompt: asked.prompt.clone(),
                    rollouts: vec![rollout; request.group_size],
                    policy_version: 0,
                },
            )?;
        }
        Ok(())
    }
}

/// Says what the pictures of the row weigh.
struct Weigh(String);

impl Tool for Weigh {
    fn schema(&self) -> ToolSchema {
        let parameters = json!({"type": "object", "properties": {}});
        ToolSchema { name: "weigh".to_owned(), description: "The weight.".to_owned(), parameters }
    }

    fn call(&self, _: &Value, row: &Sample) -> Result<Vec<Part>, ToolError> {
        Ok(vec![Part::Text(format!("{} {}", row.media().count(), self.0))])
    }
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = include_bytes!("../../kyoka-text/tests/tiny_tokenizer.json");
    fs::write(folder.path().join("tokenizer.json"), tokenizer).unwrap();
    kyoka_testing::write_grey_png(&folder.path().join("a.png"), 40, |x, y| (x * 5 + y) as u8);
    let row = r#"{"id": "a", "prompt": "<image>How many?", "images": ["a.png"], "answer": 2}"#;
    fs::write(folder.path().join("train.jsonl"), format!("{row}\n{row}\n")).unwrap();
    let recipe = RECIPE.replace("FOLDER", &folder.path().display().to_string());
    fs::write(folder.path().join("recipe.toml"), recipe).unwrap();
    folder
}

fn recipe(folder: &Path) -> Recipe {
    Recipe::named(&folder.join("recipe.toml").display().to_string()).unwrap()
}

fn run(recipe: Recipe) -> Run {
    Run::new(recipe)
        .with_engine("scripted", |context, _| Ok(Box::new(TurnByTurn(Scripted::new(&context)))))
        .with_tool("weigh", |settings| {
            let unit = settings.get("unit").and_then(|unit| unit.as_str()).ok_or("unit: expected a text")?;
            Ok(Box::new(Weigh(unit.to_owned())))
        })
}

fn options(folder: &Path, resume: bool) -> TrainOptions {
    let out = folder.join("run");
    let resume = resume.then(|| out.clone());
    TrainOptions { out: Some(out), resume, device: "cpu".to_owned(), ..TrainOptions::default() }
}

#[test]
fn calls_are_answered_with_pictures_and_words_in_training_and_evaluation() {
    let home = folder();
    let folder = home.path();
    run(recipe(folder)).with_options(options(folder, false)).train(&mut Quiet).unwrap();
    let mut longer = recipe(folder);
    longer.set("rl.steps=3").unwrap();
    run(longer).with_options(options(folder, true)).train(&mut Quiet).unwrap();
    let log = fs::read_to_string(folder.join("run/metrics.jsonl")).unwrap();
    let steps: Vec<&str> = log.lines().filter(|line| line.contains("\"turns\":")).collect();
    assert_eq!(steps.len(), 3, "{log}");
    assert!(
        steps.iter().all(|line| line.contains("\"turns\":3.0") && line.contains("\"reward/accuracy\":1.0")),
        "{log}"
    );
    // The stock program evaluates what has tools of Kyoka's own alone.
    let evaluated = |set: &str| {
        let mut recipe = recipe(folder);
        recipe.set(set).unwrap();
        let options = EvalOptions {
            model: folder.join("run"),
            adapter: None,
            recipe: Some(recipe),
            dataset: None,
            rewards: Vec::new(),
            split: "train".to_owned(),
            blank: None,
            max_rows: 1,
            samples: None,
            temperature: None,
            max_new_tokens: Some(8),
            seed: 1,
            device: "cpu".to_owned(),
        };
        evaluate_checkpoint(&options, &mut |_| ()).map_err(|error| error.to_string())
    };
    let said = evaluated("environment.max_turns=3").unwrap_err();
    assert!(
        said.contains("environment.tools.1.name: this program brings no tool called \"weigh\""),
        "{said}"
    );
    assert_eq!(evaluated("environment.tools=[{ kind = 'crop' }]").unwrap().num_rows, 1);
}

#[test]
fn tools_that_cannot_be_are_refused_with_their_place() {
    let home = folder();
    for (set, expected) in [
        ("environment.tools=[]", "environment.tools: expected at least one tool, got none"),
        (
            "environment.tools=[{ kind = 'crop' }, { kind = 'crop' }]",
            "environment.tools: two tools are called \"crop\"",
        ),
        (
            "environment.tools=[{ kind = 'corp' }]",
            "environment.tools.0.kind: unknown kind `corp` (known: crop, custom); did you mean `crop`?",
        ),
        (
            "environment.tools=[{ kind = 'crop', min_side = 0 }]",
            "environment.tools.0.min_side: expected at least 1, got 0",
        ),
        ("environment.tools=[{ kind = 'custom', name = 'weigh' }]", "environment.tools.0.settings: unit"),
    ] {
        let mut recipe = recipe(home.path());
        recipe.set(set).unwrap();
        let said = run(recipe).check().unwrap_err().to_string();
        assert!(said.contains(expected), "{set}: {said}");
    }
}
