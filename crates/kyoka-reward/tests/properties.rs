//! What must hold for any completion.

use kyoka_core::{CompletedTurn, Completion, RewardContext, RewardFn, Sample};
use kyoka_reward::{
    CosineLength, ExactAnswer, Format, NumericAnswer, RULES, RunningCount, SoftOverlong, StepAccuracy,
    WeightedSum,
};
use proptest::prelude::*;

/// A completion of a token a character.
fn completion(text: &str) -> Completion {
    let token_spans: Vec<_> = text.char_indices().map(|(at, letter)| at..at + letter.len_utf8()).collect();
    Completion {
        text: text.to_owned(),
        token_ids: vec![0; token_spans.len()],
        turns: vec![CompletedTurn { tokens: 0..token_spans.len(), reward: Some(0.5) }],
        token_spans,
        max_new_tokens: 64,
        finished: true,
        ..Completion::default()
    }
}

/// Every rule there is, with its defaults.
fn every_rule() -> Vec<(f32, Box<dyn RewardFn>)> {
    let mut rules: Vec<Box<dyn RewardFn>> = vec![
        Box::new(ExactAnswer::default()),
        Box::new(NumericAnswer::default()),
        Box::new(Format::default()),
        Box::new(StepAccuracy::default()),
        Box::new(RunningCount::default()),
        Box::new(SoftOverlong::default()),
        Box::new(CosineLength::new(ExactAnswer::default())),
    ];
    rules.extend(RULES.iter().map(|(_, make)| make(Default::default()).expect("every rule has defaults")));
    rules.into_iter().map(|rule| (0.5, rule)).collect()
}

/// Texts of tags, numbers and noise.
fn text() -> impl Strategy<Value = String> {
    let pieces = vec![
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "2",
        "1/2",
        "1e308",
        "-",
        ".",
        ",",
        "%",
        " ",
        "x",
        "\\boxed{",
        "}",
        "(B)",
        "\u{ff12}",
        "\n",
    ];
    prop::collection::vec(prop::sample::select(pieces), 0..14).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn every_rule_gives_a_finite_number_whatever_is_written(text in text(), gold in "[0-9]{1,4}") {
        let sample = Sample { answer: Some(gold.clone().into()), steps: vec![gold; 2], ..Sample::default() };
        let completion = completion(&text);
        // A row has no rewards that refuse it.
        let mut rules = every_rule();
        rules.retain(|(_, rule)| rule.check_sample(&sample).is_ok());
        prop_assert!(rules.len() >= 12, "{} rules", rules.len());
        let rewards = WeightedSum::new(rules).judge(&RewardContext::of(&sample), &[completion]).unwrap();
        prop_assert!(rewards[0].total.unwrap().is_finite());
    }

    #[test]
    fn a_gold_answers_itself(gold in "[A-Za-z0-9 ]{1,12}") {
        prop_assume!(!gold.trim().is_empty());
        let sample = Sample { answer: Some(gold.clone().into()), ..Sample::default() };
        let given = completion(&format!("<think>so</think> <answer>{gold}</answer>"));
        let reward = ExactAnswer::default().score(&RewardContext::of(&sample), &given).unwrap();
        prop_assert_eq!((reward.right, reward.total), (Some(true), Some(1.0)));
    }
}
