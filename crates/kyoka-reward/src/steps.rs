//! Are the single steps of the reasoning right?

use std::ops::Range;

use kyoka_core::{
    Completion, OwnSettings, Reward, RewardContext, RewardError, RewardFn, Sample, SettingsFault,
    StepVerdict, UnfitRow,
};
use serde::{Deserialize, Serialize};

use crate::sections::{reasoning_words, think};

/// Compares the reasoning's statements with the row's `steps`, one by one.
///
/// The statements are the words between `<think>` and `</think>` that are not numbers, in order; statement `i` is
/// right if it equals label `i`. Every statement gets a verdict at its tokens, so that process supervision can credit it
/// there. A label that is never stated is wrong at the token that ends the reasoning. Stopping after the last label is one
/// more step: right at the token that ends the reasoning, wrong at every surplus statement, and wrong at the last token of a
/// reasoning that is never closed: one that was cut off has not stopped.
/// The parts are shares of labels stated rightly, under the names given: label `i` belongs to `names[i]`, and all
/// labels past the last name to that one. The total is the share over all labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StepAccuracy {
    /// Names of the parts, at least one, e.g. `["heard", "tile"]`. Default `["steps"]`.
    pub names: Vec<String>,
}

impl Default for StepAccuracy {
    fn default() -> Self {
        Self { names: vec!["steps".to_owned()] }
    }
}

impl OwnSettings for StepAccuracy {
    fn check(&self) -> Result<(), SettingsFault> {
        SettingsFault::unless(!self.names.is_empty(), "names", "at least one name", "none")
    }
}

impl StepAccuracy {
    /// Name of the part that label `step` belongs to.
    fn part_of(&self, step: usize) -> &str {
        &self.names[step.min(self.names.len() - 1)]
    }
}

impl RewardFn for StepAccuracy {
    fn name(&self) -> &str {
        "steps"
    }

    fn part_names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    fn check_sample(&self, sample: &Sample) -> Result<(), UnfitRow> {
        let unfit = |reason| Err(UnfitRow { field: "steps", reason });
        let unsayable =
            |label: &&String| label.split_whitespace().count() != 1 || label.parse::<f64>().is_ok();
        match sample.steps.iter().find(unsayable) {
            _ if sample.steps.is_empty() => unfit("missing, which the reward step_accuracy needs".to_owned()),
            Some(label) => unfit(format!(
                "expected labels of one word that is no number for the reward step_accuracy, got {label:?}"
            )),
            None => Ok(()),
        }
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        assert!(!self.names.is_empty(), "step accuracy: expected at least one part name, got none");
        let labels = &context.sample.steps;
        if labels.is_empty() {
            let (reward, id) = (self.name().to_owned(), context.sample.id.clone());
            return Err(RewardError::MissingField { reward, id, field: "steps" });
        }
        let stated = statements(completion);
        let right = |step: usize| stated.get(step).is_some_and(|(word, _)| *word == labels[step]);
        let mut parts: Vec<(String, f32)> = Vec::new();
        for name in &self.names {
            let own: Vec<usize> = (0..labels.len()).filter(|&step| self.part_of(step) == name).collect();
            if !own.is_empty() {
                let hits = own.iter().filter(|&&step| right(step)).count();
                parts.push((name.clone(), hits as f32 / own.len() as f32));
            }
        }
        let total = (0..labels.len()).filter(|&step| right(step)).count() as f32 / labels.len() as f32;
        let verdict = |step: usize, tokens: Range<usize>| StepVerdict {
            rule: 0,
            step: step.min(labels.len()),
            tokens,
            value: f32::from(step < labels.len() && right(step)),
        };
        let made = stated.iter().enumerate();
        let made = made.filter_map(|(step, (_, tokens))| Some(verdict(step, tokens.clone()?)));
        let (end, closed) = end_of_reasoning(completion);
        let end = end.map(|token| token..token + 1);
        let missing = (stated.len()..labels.len()).filter_map(|step| Some(verdict(step, end.clone()?)));
        // Stopping in time is a step as well, so that completions that go on can be told from those that stop.
        let stopped = (stated.len() <= labels.len()).then_some(end.clone()).flatten();
        let stopped = stopped.map(|tokens| StepVerdict {
            rule: 0,
            step: labels.len(),
            tokens,
            value: f32::from(closed),
        });
        let steps = made.chain(missing).chain(stopped).collect();
        Ok(Reward { total: Some(total), parts, steps, ..Reward::default() })
    }
}

/// The words of the reasoning that are no numbers, with the tokens that state each.
fn statements(completion: &Completion) -> Vec<(&str, Option<Range<usize>>)> {
    reasoning_words(completion).into_iter().filter(|(word, _)| word.parse::<f64>().is_err()).collect()
}

/// The token where `</think>` begins, or the last one if the reasoning is never closed; and whether it is.
fn end_of_reasoning(completion: &Completion) -> (Option<usize>, bool) {
    match think(completion).last().map(|range| range.end).filter(|&end| end < completion.text.len()) {
        Some(at) => (completion.token_spans.iter().position(|span| span.contains(&at)), true),
        None => (completion.token_spans.iter().rposition(|span| !span.is_empty()), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sections::tests_support::{completion, opened, sample};

    fn judged(completion: &Completion) -> Reward {
        let sample = sample(Some("2"), &["coat", "shirt", "coat", "bag"]);
        let rule = StepAccuracy { names: vec!["heard".into(), "tile".into()] };
        rule.score(&RewardContext::of(&sample), completion).unwrap()
    }

    fn score(text: &str) -> Reward {
        judged(&completion(text))
    }

    fn verdicts(reward: &Reward) -> Vec<(usize, usize, f32)> {
        reward.steps.iter().map(|verdict| (verdict.step, verdict.tokens.start, verdict.value)).collect()
    }

    #[test]
    fn every_statement_is_judged_at_its_token() {
        let reward = score("<think> coat shirt 0 boot 0 bag 0 </think> <answer> 0 </answer>");
        assert_eq!(reward.total, Some(0.75));
        assert_eq!((reward.part("heard"), reward.part("tile")), (Some(1.0), Some(2.0 / 3.0)));
        let verdicts: Vec<_> = reward.steps.iter().map(|v| (v.step, v.tokens.start, v.value)).collect();
        assert_eq!(verdicts, [(0, 1, 1.0), (1, 2, 1.0), (2, 4, 0.0), (3, 6, 1.0), (4, 8, 1.0)]);
    }

    #[test]
    fn a_word_of_several_tokens_is_judged_at_all_of_them() {
        let pieces = ["<think>", " co", "at", " traf", "fic", "-cone", " </", "think>"];
        let mut token_spans: Vec<Range<usize>> = Vec::new();
        for piece in pieces {
            let start = token_spans.last().map_or(0, |span| span.end);
            token_spans.push(start..start + piece.len());
        }
        let completion = Completion { text: pieces.concat(), token_spans, ..completion("") };
        let sample = sample(None, &["coat", "traffic-cone"]);
        let rule = StepAccuracy { names: vec!["steps".into()] };
        let reward = rule.score(&RewardContext::of(&sample), &completion).unwrap();
        let tokens: Vec<_> = reward.steps.into_iter().map(|verdict| verdict.tokens).collect();
        assert_eq!(tokens, [1..3, 3..6, 6..7]);
    }

    #[test]
    fn missing_and_surplus_statements_count_against_the_completion() {
        let short = score("<think> coat </think> <answer> 1 </answer>");
        assert_eq!(short.total, Some(0.25));
        let verdicts: Vec<_> = short.steps.iter().map(|v| (v.step, v.tokens.start, v.value)).collect();
        assert_eq!(
            verdicts,
            [(0, 1, 1.0), (1, 2, 0.0), (2, 2, 0.0), (3, 2, 0.0), (4, 2, 1.0)],
            "at the token of </think>"
        );
        let surplus = score("<think> coat shirt coat bag bag bag </think>");
        assert_eq!(surplus.total, Some(1.0));
        assert_eq!(surplus.steps[4..].iter().map(|v| (v.step, v.value)).collect::<Vec<_>>(), [(4, 0.0); 2]);
        assert_eq!(score("no reasoning at all").total, Some(0.0));
    }

    #[test]
    fn reasoning_that_was_cut_off_has_not_stopped_in_time() {
        let cut = score("<think> coat shirt coat bag");
        assert_eq!((cut.total, verdicts(&cut).pop()), (Some(1.0), Some((4, 4, 0.0))), "at the last token");
        let early = score("<think> coat shirt");
        assert_eq!(verdicts(&early), [(0, 1, 1.0), (1, 2, 1.0), (2, 2, 0.0), (3, 2, 0.0), (4, 2, 0.0)]);
        let surplus = score("<think> coat shirt coat bag bag");
        assert_eq!(verdicts(&surplus).pop(), Some((4, 5, 0.0)), "once, at the surplus statement");
        assert_eq!(verdicts(&score("no reasoning at all")).pop(), Some((4, 3, 0.0)));
    }

    #[test]
    fn reasoning_that_the_prompt_opened_is_judged_from_its_start() {
        let whole = judged(&opened("coat shirt coat bag </think> <answer> 2 </answer>"));
        assert_eq!(verdicts(&whole), [(0, 0, 1.0), (1, 1, 1.0), (2, 2, 1.0), (3, 3, 1.0), (4, 4, 1.0)]);
        let cut = judged(&opened("coat shirt coat bag"));
        assert_eq!(verdicts(&cut).pop(), Some((4, 3, 0.0)));
    }

    #[test]
    fn rows_whose_labels_cannot_be_stated_are_refused_beforehand() {
        let reason =
            |steps: &[&str]| StepAccuracy::default().check_sample(&sample(None, steps)).map_err(|u| u.reason);
        assert_eq!(reason(&["coat", "traffic-cone"]), Ok(()));
        assert_eq!(reason(&[]), Err("missing, which the reward step_accuracy needs".to_owned()));
        assert!(reason(&["coat", "traffic cone"]).unwrap_err().ends_with("got \"traffic cone\""));
        assert!(reason(&["3"]).is_err());
    }
}
