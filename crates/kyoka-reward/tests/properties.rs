//! What must hold for any completion.

use kyoka_core::{Completion, RewardContext, RewardFn, Sample};
use kyoka_reward::{ExactAnswer, Format, NumericAnswer, RULES, WeightedSum};
use proptest::prelude::*;

fn completion(text: &str) -> Completion {
    Completion { text: text.to_owned(), max_new_tokens: 64, finished: true, ..Completion::default() }
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
        let sample = Sample { answers: vec![gold], ..Sample::default() };
        let mut rules: Vec<(f32, Box<dyn RewardFn>)> =
            vec![(1.0, Box::new(NumericAnswer::default())), (0.5, Box::new(Format::default()))];
        rules.extend(RULES.iter().map(|(_, make)| (0.25, make(Default::default()).unwrap())));
        let sum = WeightedSum::new(rules);
        let rewards = sum.judge(&RewardContext::of(&sample), &[completion(&text)]).unwrap();
        prop_assert!(rewards[0].total.unwrap().is_finite());
    }

    #[test]
    fn a_gold_answers_itself(gold in "[A-Za-z0-9 ]{1,12}") {
        prop_assume!(!gold.trim().is_empty());
        let sample = Sample { answers: vec![gold.clone()], ..Sample::default() };
        let given = completion(&format!("<think>so</think> <answer>{gold}</answer>"));
        let reward = ExactAnswer {}.score(&RewardContext::of(&sample), &given).unwrap();
        prop_assert_eq!((reward.right, reward.total), (Some(true), Some(1.0)));
    }
}
