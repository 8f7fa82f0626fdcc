//! What must hold for any completion.

use kyoka_core::{CompletedTurn, Completion, RewardContext, RewardFn, Sample};
use kyoka_reward::{AdaptiveLength, CosineLength, ExactAnswer, RULES, SoftOverlong, WeightedSum};
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

/// Every rule there is, with its defaults where it has some.
fn every_rule() -> Vec<(f32, Box<dyn RewardFn>)> {
    let mut rules: Vec<Box<dyn RewardFn>> = vec![
        Box::new(SoftOverlong::default()),
        Box::new(CosineLength::new(ExactAnswer::default())),
        Box::new(AdaptiveLength { accuracy: ExactAnswer::default() }),
    ];
    let program = || "command = ['true']".parse().expect("a table");
    let endpoint = || "url = 'http://127.0.0.1:9'".parse().expect("a table");
    for (kind, make) in RULES {
        match *kind {
            // They start or ask others.
            "program" => drop(make(program()).expect("a program is named")),
            "http" => drop(make(endpoint()).expect("an endpoint is named")),
            _ => rules.push(make(Default::default()).expect("every other rule has defaults")),
        }
    }
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
        prop_assert!(rules.len() >= 14, "{} rules", rules.len());
        let rewards = WeightedSum::new(rules).judge(&RewardContext::of(&sample), &[completion]).unwrap();
        prop_assert!(rewards[0].total.unwrap().is_finite());
    }

    #[test]
    fn every_answer_is_right_by_its_own_rule(number in 0_u32..10_000, letter in "[A-J]", words in "[b-np-z]{2,8}( [b-np-z]{2,8}){0,3}") {
        let boxes = serde_json::json!([[0, 0, number + 1, 10], [5, 20, number + 9, 40]]);
        let things = serde_json::json!([{"bbox_2d": [0, 0, number + 1, 10], "label": words}]);
        for (kind, gold, said) in [
            ("exact_answer", serde_json::json!(words), words.clone()),
            ("numeric_answer", number.into(), number.to_string()),
            ("math_answer", number.into(), format!("\\boxed{{{number}}}")),
            ("choice_answer", letter.clone().into(), format!("{letter}. {words}")),
            ("yes_no_answer", true.into(), "yes".to_owned()),
            ("count_answer", number.into(), number.to_string()),
            ("list_match", serde_json::json!([words, letter]), format!("{letter}, {words}")),
            ("box_match", boxes.clone(), boxes.to_string()),
            ("detection", things.clone(), things.to_string()),
            ("transcript", serde_json::json!(words), words.clone()),
        ] {
            let (_, make) = RULES.iter().find(|(known, _)| *known == kind).unwrap();
            let rule = make(Default::default()).unwrap();
            let row = Sample { answer: Some(gold), ..Sample::default() };
            prop_assert_eq!(rule.check_sample(&row), Ok(()));
            let given = completion(&format!("<think> so </think> <answer> {said} </answer>"));
            let reward = rule.score(&RewardContext::of(&row), &given).unwrap();
            prop_assert_eq!(reward.total, Some(1.0), "{}: {}", kind, said);
        }
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
