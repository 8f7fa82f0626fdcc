//! Every parser of model text on texts that nobody would write: no panic, and no text that takes long.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use kyoka::environments::tool_calls;
use kyoka_core::{RewardContext, RewardFn, Sample};
use kyoka_reward::{RULES, completion_of};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

/// What texts are put together of.
const PIECES: &[&str] = &[
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "<tool_call>",
    "</tool_call>",
    "\\boxed{",
    "\\frac{",
    "\\sqrt",
    "\\left(",
    "\\right)",
    "\\begin{pmatrix}",
    "\\end{pmatrix}",
    "\\text{",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "$",
    "$$",
    "|",
    "^",
    "_",
    "!",
    "'",
    "=",
    "<",
    ">",
    "\\le",
    "\\cup",
    "\\in",
    "\\infty",
    "\\pm",
    "\\\\",
    "&",
    ",",
    ";",
    ":",
    ".",
    "%",
    "\\%",
    "-",
    "+",
    "*",
    "/",
    "×",
    "÷",
    "√",
    "∞",
    "π",
    "²",
    "0",
    "1",
    "12",
    "1,234",
    "1e9",
    "0.5",
    "9999999999999999999999",
    "x",
    "y",
    "e",
    "i",
    "sin ",
    "log_",
    "\\int",
    "and",
    "or",
    "The answer is ",
    "Answer: ",
    "**",
    "(B)",
    "C.",
    "yes",
    "no",
    "not",
    "two",
    "hundred",
    "cup",
    "- ",
    "\n",
    " ",
    "\t",
    "\u{a0}",
    "\u{301}",
    "\u{202e}",
    "\u{ff12}",
    "\u{0}",
    "😀",
    "{\"bbox_2d\": [",
    "\"label\": \"cup\"",
    "\"score\": 1e999",
    "```json\n",
    "```",
    "[1, 2, 3, 4]",
    "(1,2),(3,4)",
    "null",
    "\"",
    "\\",
    "Score: 7",
    "{\"name\": \"crop\", \"arguments\": {}}",
];

/// Rows of every kind of answer.
fn rows() -> Vec<Sample> {
    let answers = [
        json!("cup"),
        json!(["cup", "plate"]),
        json!("5 cm"),
        json!("$\\frac{1}{2}$"),
        json!("(1, 2]"),
        json!("x^2-1"),
        json!("B"),
        json!(true),
        json!(7),
        json!([[0, 0, 10, 10], [5, 5, 20, 20]]),
        json!([{"bbox_2d": [0, 0, 10, 10], "label": "cup"}]),
    ];
    let row = |answer: Value| Sample {
        answer: Some(answer),
        steps: vec!["cup".to_owned(), "plate".to_owned()],
        extra: [
            ("schema".to_owned(), json!({"type": "object"})),
            ("reward".to_owned(), json!("math_answer")),
        ]
        .into(),
        ..Sample::default()
    };
    answers.map(row).into()
}

/// Every rule with its defaults, and those with an answer in other places too.
fn rules() -> Vec<(String, Box<dyn RewardFn>)> {
    let mut rules: Vec<(String, Box<dyn RewardFn>)> = Vec::new();
    for (kind, make) in RULES.iter().filter(|(kind, _)| !matches!(*kind, "program" | "http")) {
        for settings in [
            "",
            "answer = 'whole'",
            "answer = 'boxed'",
            "answer = 'last_number'",
            "answer = { regex = '([^ ]+)$' }",
            "form = 'boxed'",
            "form = { tags = ['think', 'plan'] }",
            "form = { regex = '(a+)+$' }",
            "measure = 'giou'",
            "measure = 'point'\nradius = 5.0",
            "unit = 'character'\nnormalised = true",
            "ordered = true",
            "partial = true",
            "by = 'number'",
            "by = 'choice'",
        ] {
            if let Ok(rule) = settings.parse().map_err(|_| ()).and_then(|table| make(table).map_err(|_| ())) {
                rules.push((format!("{kind} {settings}"), rule));
            }
        }
    }
    rules
}

/// A text of pieces, or of one piece many times, in a section or without.
fn text(draw: &mut StdRng) -> String {
    let any = |draw: &mut StdRng| PIECES[draw.random_range(0..PIECES.len())];
    let inside = match draw.random_range(0..4) {
        0 => {
            let (count, unit) = (draw.random_range(1..3000), format!("{}{}", any(draw), any(draw)));
            unit.repeat(count)
        }
        1 => {
            let (open, close) = (any(draw), any(draw));
            let count = draw.random_range(1..400);
            format!("{}{}{}", open.repeat(count), any(draw), close.repeat(count))
        }
        _ => (0..draw.random_range(0..60)).map(|_| any(draw)).collect(),
    };
    match draw.random_range(0..3) {
        0 => inside,
        1 => format!("<think> {} </think> <answer>{inside}</answer>", any(draw)),
        _ => format!("so \\boxed{{{inside}}}"),
    }
}

/// Tries texts for some seconds; the first text that panics or takes too long is an error, and told.
pub fn run(seconds: u64, seed: u64, limit_ms: u64) -> Result<()> {
    let mut draw = StdRng::seed_from_u64(seed);
    let (rules, rows) = (rules(), rows());
    let limit = Duration::from_millis(limit_ms);
    let (ends, mut texts, mut judged, mut slowest) =
        (Instant::now() + Duration::from_secs(seconds), 0_u64, 0_u64, (Duration::ZERO, String::new()));
    std::panic::set_hook(Box::new(|_| ()));
    while Instant::now() < ends {
        // Large ones now and then: what is quadratic shows there.
        let text = if texts % 500 == 499 { text(&mut draw).repeat(2000) } else { text(&mut draw) };
        texts += 1;
        let completion = completion_of(&text, 512);
        let row = &rows[draw.random_range(0..rows.len())];
        let mut tried = |name: &str, work: &dyn Fn() -> Option<f32>| -> Result<()> {
            let shown = || format!("{:?}", text.chars().take(200).collect::<String>());
            // Whatever else the machine does takes time too: what is slow is slow three times.
            let mut fastest = Duration::MAX;
            for _ in 0..3 {
                let started = Instant::now();
                match catch_unwind(AssertUnwindSafe(work)) {
                    Err(_) => bail!("{name} panics on {} bytes: {}", text.len(), shown()),
                    Ok(Some(value)) if !value.is_finite() => bail!("{name} gives {value} for {}", shown()),
                    Ok(_) => fastest = fastest.min(started.elapsed()),
                }
                if fastest <= limit {
                    break;
                }
            }
            judged += 1;
            if fastest > slowest.0 {
                slowest = (fastest, format!("{name}, {} bytes", text.len()));
            }
            if fastest > limit {
                bail!("{name} takes {fastest:?} for {} bytes: {}", text.len(), shown());
            }
            Ok(())
        };
        for (name, rule) in rules.iter().filter(|(_, rule)| rule.check_sample(row).is_ok()) {
            tried(name, &|| {
                let reward = rule.score(&RewardContext::of(row), &completion).ok()?;
                reward.total
            })?;
        }
        tried("tool_calls", &|| Some(tool_calls(&text).len() as f32))?;
    }
    let _ = std::panic::take_hook();
    println!(
        "fuzz: {texts} texts, {judged} judged, none panicked; the slowest took {:?} ({})",
        slowest.0, slowest.1
    );
    Ok(())
}
