//! How much of a list is named, and how much besides?

use kyoka_core::{Completion, OwnSettings, Reward, RewardContext, RewardError, RewardFn, Sample, UnfitRow};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    AnswerPlace,
    accuracy::{golds, has_answer, is_tag},
    sections::unboxed,
    text::normal,
};

/// The F1 of the things that the answer names against those of the row: `2 hits / (named + wanted)`, repeated things counted as
/// often as they stand. The answer is a JSON list, or parted by commas, semicolons, lines or `and`; with `ordered` a thing counts
/// at its place only. The row's `answer` is the list itself, all of it wanted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListMatch {
    /// Whether the order counts. Default false.
    pub ordered: bool,
    /// Where the answer stands. Default `tag`.
    #[serde(skip_serializing_if = "is_tag")]
    pub answer: AnswerPlace,
}

impl OwnSettings for ListMatch {}

/// Most things of a list.
const MOST: usize = 10_000;

/// The things that a text names.
fn things(text: &str) -> Vec<String> {
    let text = unboxed(text.trim());
    if let Ok(Value::Array(list)) = serde_json::from_str::<Value>(text) {
        let thing = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        return list.iter().map(|value| normal(&thing(value))).filter(|thing| !thing.is_empty()).collect();
    }
    let inside = text.trim_matches(['[', ']', '{', '}', '(', ')']);
    let parted = inside.replace(" and ", ",").replace("\n", ",").replace(';', ",");
    // A dash with a space behind it begins a thing; without one it is a minus.
    let bullets = ["- ", "* ", "• "];
    let bare = |thing: &str| {
        let thing = thing.trim();
        let thing = bullets.iter().find_map(|bullet| thing.strip_prefix(bullet)).unwrap_or(thing);
        normal(thing.trim_matches(['"', '\'', ' ']))
    };
    parted.split(',').map(bare).filter(|thing| !thing.is_empty()).collect()
}

impl RewardFn for ListMatch {
    fn name(&self) -> &str {
        "list_match"
    }

    fn check_sample(&self, sample: &Sample) -> Result<(), UnfitRow> {
        has_answer("list_match", sample)
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let golds = golds(self.name(), context)?;
        // One text may hold the list as well.
        let wanted = match &golds[..] {
            [one] => things(one),
            several => several.iter().map(|gold| normal(gold)).collect(),
        };
        let given = self.answer.find(completion).map(things).unwrap_or_default();
        let hits = if self.ordered {
            wanted.iter().zip(&given).filter(|(wanted, given)| wanted == given).count()
        } else {
            let mut left = wanted.clone();
            left.sort();
            let mut sorted: Vec<&String> = given.iter().take(MOST).collect();
            sorted.sort();
            common(&left, &sorted)
        };
        let all = wanted.len() + given.len();
        let value = if all == 0 { 0.0 } else { 2.0 * hits as f32 / all as f32 };
        Ok(Reward { right: Some(value == 1.0), ..Reward::graded(self.name(), value) })
    }
}

/// Things of two sorted lists that stand in both.
fn common(a: &[String], b: &[&String]) -> usize {
    let (mut at, mut hits) = (0, 0);
    for thing in b {
        while at < a.len() && a[at] < **thing {
            at += 1;
        }
        if at < a.len() && a[at] == **thing {
            (at, hits) = (at + 1, hits + 1);
        }
    }
    hits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sections::tests_support::{completion, sample};

    fn total(gold: Value, text: &str, ordered: bool) -> f32 {
        let row = Sample { answer: Some(gold), ..sample(None, &[]) };
        let rule = ListMatch { ordered, ..ListMatch::default() };
        let text = format!("<answer>{text}</answer>");
        rule.score(&RewardContext::of(&row), &completion(&text)).unwrap().total.unwrap()
    }

    #[test]
    fn hits_misses_and_extras() {
        let gold = || serde_json::json!(["cup", "plate", "fork"]);
        for all in [
            "cup, plate, fork",
            "fork; Cup; plate",
            "[\"plate\", \"cup\", \"fork\"]",
            "- cup\n- plate\n- fork",
            "cup, plate and fork",
        ] {
            assert_eq!(total(gold(), all, false), 1.0, "{all}");
        }
        assert_eq!(total(gold(), "cup, spoon", false), 0.4);
        assert_eq!(total(gold(), "", false), 0.0);
        assert_eq!(total(gold(), "cup, cup, cup", false), 2.0 / 6.0, "said often, found once");
        assert_eq!(
            (total(gold(), "cup, plate, fork", true), total(gold(), "fork, plate, cup", true)),
            (1.0, 1.0 / 3.0)
        );
        assert_eq!(total("a, b".into(), "b, a", false), 1.0);
        let numbers = || serde_json::json!([-3, 4]);
        assert_eq!(
            (
                total(numbers(), "-3, 4", false),
                total(numbers(), "- -3\n- 4", false),
                total(numbers(), "3, 4", false)
            ),
            (1.0, 1.0, 0.5)
        );
    }
}
