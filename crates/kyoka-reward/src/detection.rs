//! Are the right things found in a picture, each with its name?

use kyoka_core::{
    Completion, OwnSettings, Reward, RewardContext, RewardError, RewardFn, Sample, SettingsFault, UnfitRow,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    AnswerPlace, PixelBox,
    accuracy::is_tag,
    box_match::{boxes_in, without_fence},
    text::normal,
};

/// Mean average precision at one overlap, held against naming too much: `mAP * min(1, wanted / marked)`, the reward of VLM-R1 for
/// detection (arXiv 2504.07615), where more boxes than there are things would raise the average precision for nothing.
///
/// The answer is JSON: a list of `{"bbox_2d": [x1, y1, x2, y2], "label": "cup"}`, with a `score` or without. The average precision of
/// a label is COCO's, over 101 recalls: marks in the order of their scores, those without as they are listed, each taken by
/// the free thing of its label that it overlaps most. The mean is over the labels of the row. The row's `answer` is such a list; an
/// empty one says that there is nothing, and a mark too many earns 0 then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Detection {
    /// From which intersection over union a thing is found; in (0, 1]. Default 0.5: AP50.
    pub iou: f64,
    /// Whether marks beyond the number of things lower the reward. Default true.
    pub guard: bool,
    /// Where the answer stands. Default `tag`.
    #[serde(skip_serializing_if = "is_tag")]
    pub answer: AnswerPlace,
}

impl Default for Detection {
    fn default() -> Self {
        Self { iou: 0.5, guard: true, answer: AnswerPlace::Tag }
    }
}

impl OwnSettings for Detection {
    fn check(&self) -> Result<(), SettingsFault> {
        SettingsFault::unless(self.iou > 0.0 && self.iou <= 1.0, "iou", "a number in (0, 1]", self.iou)
    }
}

/// A marked thing.
#[derive(Debug, Clone, PartialEq)]
struct Mark {
    place: PixelBox,
    label: String,
    score: Option<f64>,
}

/// Most marks that are looked at, as COCO has it for a picture, and ten times over; all of them count in the guard.
const MOST: usize = 1000;

/// The marks of a list of objects; `None` where it is none.
fn marks(value: &Value) -> Option<Vec<Mark>> {
    let objects = match value {
        Value::Array(objects) => objects.iter().collect(),
        Value::Object(_) => vec![value],
        _ => return None,
    };
    let mark = |object: &&Value| {
        let fields = object.as_object()?;
        let label =
            ["label", "category", "name", "class"].iter().find_map(|name| fields.get(*name)?.as_str());
        let score = ["score", "confidence"].iter().find_map(|name| fields.get(*name)?.as_f64());
        let place = *boxes_in(object, &mut 0).first()?;
        Some(Mark {
            place,
            label: normal(label.unwrap_or_default()),
            score: score.filter(|score| score.is_finite()),
        })
    };
    objects.iter().map(mark).collect()
}

fn wanted(sample: &Sample) -> Option<Vec<Mark>> {
    match sample.answer.as_ref()? {
        Value::String(text) => marks(&serde_json::from_str(without_fence(text)).ok()?),
        value => marks(value),
    }
}

impl Detection {
    /// The average precision of marks against things of one label.
    fn average_precision(&self, wanted: &[&Mark], given: &[&Mark]) -> f64 {
        let mut order: Vec<&&Mark> = given.iter().collect();
        let score = |mark: &Mark| mark.score.unwrap_or(f64::NEG_INFINITY);
        order.sort_by(|a, b| score(b).total_cmp(&score(a)));
        let mut free = vec![true; wanted.len()];
        let mut hits = 0_usize;
        // Recall and precision after each mark.
        let mut curve = Vec::with_capacity(order.len());
        for (number, mark) in order.into_iter().enumerate() {
            let overlaps = wanted.iter().enumerate().filter(|&(place, _)| free[place]);
            let overlaps = overlaps.map(|(place, thing)| (place, thing.place.iou(mark.place)));
            let best = overlaps.max_by(|(a, x), (b, y)| x.total_cmp(y).then(b.cmp(a)));
            if let Some((place, _)) = best.filter(|&(_, overlap)| overlap >= self.iou) {
                free[place] = false;
                hits += 1;
            }
            curve.push((hits as f64 / wanted.len() as f64, hits as f64 / (number + 1) as f64));
        }
        // The best precision at a recall or beyond it.
        let mut best = 0.0_f64;
        for (_, precision) in curve.iter_mut().rev() {
            best = best.max(*precision);
            *precision = best;
        }
        let at = |recall: f64| {
            let place = curve.partition_point(|&(reached, _)| reached < recall - 1e-12);
            curve.get(place).map_or(0.0, |&(_, precision)| precision)
        };
        (0..=100).map(|hundredth| at(f64::from(hundredth) / 100.0)).sum::<f64>() / 101.0
    }

    fn value(&self, wanted: &[Mark], given: &[Mark]) -> f64 {
        if wanted.is_empty() {
            return f64::from(u8::from(given.is_empty()));
        }
        let mut labels: Vec<&str> = wanted.iter().map(|mark| mark.label.as_str()).collect();
        labels.sort_unstable();
        labels.dedup();
        let of = |marks: &'_ [Mark], label: &str| -> Vec<usize> {
            let here = marks.iter().enumerate().take(MOST).filter(|(_, mark)| mark.label == label);
            here.map(|(place, _)| place).collect()
        };
        let precision = |label: &&str| {
            let wanted: Vec<&Mark> = of(wanted, label).into_iter().map(|place| &wanted[place]).collect();
            let given: Vec<&Mark> = of(given, label).into_iter().map(|place| &given[place]).collect();
            if wanted.is_empty() { 0.0 } else { self.average_precision(&wanted, &given) }
        };
        let mean = labels.iter().map(precision).sum::<f64>() / labels.len() as f64;
        let guard = if self.guard { (wanted.len() as f64 / given.len().max(1) as f64).min(1.0) } else { 1.0 };
        mean * guard
    }
}

impl RewardFn for Detection {
    fn name(&self) -> &str {
        "detection"
    }

    fn check_sample(&self, sample: &Sample) -> Result<(), UnfitRow> {
        if wanted(sample).is_some() {
            return Ok(());
        }
        let got = sample.answer.as_ref().map_or_else(|| "none".to_owned(), Value::to_string);
        let reason = format!(
            "expected a list such as [{{\"bbox_2d\": [left, top, right, bottom], \"label\": \"cup\"}}] for the reward detection, got {got}"
        );
        Err(UnfitRow { field: "answer", reason })
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let Some(wanted) = wanted(context.sample) else {
            let (reward, id) = (self.name().to_owned(), context.sample.id.clone());
            return Err(RewardError::MissingField { reward, id, field: "answer" });
        };
        let json = self.answer.find(completion).map(without_fence);
        let given = json.and_then(|text| serde_json::from_str(text).ok()).and_then(|value| marks(&value));
        // What is no list of marks has found nothing, not even that there is nothing.
        let value = given.map_or(0.0, |given| self.value(&wanted, &given));
        Ok(Reward::graded(self.name(), value as f32))
    }
}

#[cfg(test)]
mod tests {
    use kyoka_core::own;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::sections::tests_support::{completion, sample};

    fn total(rule: &Detection, gold: Value, said: &Value) -> f32 {
        let row = Sample { answer: Some(gold), ..sample(None, &[]) };
        rule.check_sample(&row).unwrap();
        let text = format!("<answer>```json\n{said}\n```</answer>");
        rule.score(&RewardContext::of(&row), &completion(&text)).unwrap().total.unwrap()
    }

    fn thing(left: f64, label: &str) -> Value {
        json!({"bbox_2d": [left, 0.0, left + 10.0, 10.0], "label": label})
    }

    #[test]
    fn found_missed_and_too_many() {
        let rule = Detection::default();
        let gold = || json!([thing(0.0, "cup"), thing(20.0, "cup"), thing(40.0, "fork")]);
        assert_eq!(total(&rule, gold(), &gold()), 1.0);
        assert_eq!(total(&rule, gold(), &json!([thing(0.0, "Cup"), thing(20.0, "cup")])), 0.5, "no fork");
        // One of two: precision 1 up to recall 0.5, which are 51 of 101 places.
        let one = total(&rule, gold(), &json!([thing(0.0, "cup"), thing(40.0, "fork")]));
        assert!((one - (51.0 / 101.0 + 1.0) / 2.0).abs() < 1e-6, "{one}");
        let doubled = json!([thing(0.0, "cup"), thing(0.0, "cup"), thing(20.0, "cup"), thing(40.0, "fork")]);
        let guarded = total(&rule, gold(), &doubled);
        let free = total(&Detection { guard: false, ..rule.clone() }, gold(), &doubled);
        assert!((guarded - 0.75 * free).abs() < 1e-6 && free < 1.0, "{guarded} {free}");
        assert_eq!(total(&rule, gold(), &json!([thing(0.0, "fork")])), 0.0, "another label's place");
        assert_eq!(total(&rule, gold(), &json!("cup")), 0.0);
    }

    #[test]
    fn marks_that_are_sure_come_first() {
        let marked = |left: f64, score: f64| json!({"bbox_2d": [left, 0.0, left + 10.0, 10.0], "label": "cup", "score": score});
        let rule = Detection { guard: false, ..Detection::default() };
        let gold = json!([thing(0.0, "cup")]);
        let sure_and_wrong = total(&rule, gold.clone(), &json!([marked(0.0, 0.2), marked(50.0, 0.9)]));
        let sure_and_right = total(&rule, gold, &json!([marked(50.0, 0.2), marked(0.0, 0.9)]));
        assert_eq!((sure_and_wrong, sure_and_right), (0.5, 1.0));
    }

    #[test]
    fn nothing_to_find_is_found_by_saying_so() {
        let rule = Detection::default();
        assert_eq!(total(&rule, json!([]), &json!([])), 1.0);
        assert_eq!(total(&rule, json!([]), &json!([thing(0.0, "cup")])), 0.0);
        assert_eq!(total(&rule, json!([]), &json!("nothing")), 0.0, "that is no list");
        let unfit = rule.check_sample(&sample(Some("left"), &[])).unwrap_err().to_string();
        assert!(
            unfit.starts_with("answer: expected a list such as") && unfit.ends_with("got \"left\""),
            "{unfit}"
        );
        let fault = own::<Detection>("iou = 0".parse().unwrap()).unwrap_err().to_string();
        assert_eq!(fault, "iou: expected a number in (0, 1], got 0");
    }

    #[test]
    fn many_marks_take_no_long() {
        let many: Vec<Value> = (0..20_000).map(|place| thing(f64::from(place), "cup")).collect();
        assert!(total(&Detection::default(), json!([thing(0.0, "cup")]), &json!(many)) < 0.001);
    }

    proptest! {
        #[test]
        fn what_is_right_is_worth_1_and_everything_is_in_range(
            lefts in prop::collection::vec((0_u32..6, 0_u32..3), 1..6), given in prop::collection::vec((0_u32..6, 0_u32..3), 0..8),
        ) {
            let list = |marks: &[(u32, u32)]| -> Vec<Mark> {
                marks.iter().map(|&(left, label)| Mark {
                    place: PixelBox([f64::from(left) * 7.0, 0.0, f64::from(left) * 7.0 + 10.0, 10.0]),
                    label: label.to_string(),
                    score: None,
                }).collect()
            };
            let rule = Detection::default();
            let (gold, given) = (list(&lefts), list(&given));
            prop_assert!((rule.value(&gold, &gold) - 1.0).abs() < 1e-12);
            prop_assert!((0.0..=1.0 + 1e-12).contains(&rule.value(&gold, &given)));
        }
    }
}
