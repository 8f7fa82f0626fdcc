//! Are the right places of a picture marked?

use kyoka_core::{
    Completion, OwnSettings, Reward, RewardContext, RewardError, RewardFn, Sample, SettingsFault, UnfitRow,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{AnswerPlace, accuracy::is_tag, sections::unboxed};

/// The largest coordinate: areas of such boxes are still told apart.
const FARTHEST: f64 = 1e9;

/// A box by its corners: left, top, right, bottom.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PixelBox(pub [f64; 4]);

impl PixelBox {
    /// A box whose corners are at most 1e9 away from 0, left and top not beyond right and bottom.
    pub fn new([left, top, right, bottom]: [f64; 4]) -> Option<Self> {
        let corners = [left, top, right, bottom];
        let whole = corners.iter().all(|corner| corner.abs() <= FARTHEST) && left <= right && top <= bottom;
        whole.then_some(Self(corners))
    }

    fn area(self) -> f64 {
        let [left, top, right, bottom] = self.0;
        (right - left).max(0.0) * (bottom - top).max(0.0)
    }

    fn with(self, other: Self, inner: fn(f64, f64) -> f64, outer: fn(f64, f64) -> f64) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        Self([inner(a, e), inner(b, f), outer(c, g), outer(d, h)])
    }

    /// Intersection over union, in [0, 1]; 0 where both are empty.
    pub fn iou(self, other: Self) -> f64 {
        let shared = self.with(other, f64::max, f64::min).area();
        let union = self.area() + other.area() - shared;
        if union > 0.0 { shared / union } else { 0.0 }
    }

    /// The generalised one (arXiv 1902.09630), in [-1, 1]: less what the smallest box around both has besides.
    pub fn giou(self, other: Self) -> f64 {
        let shared = self.with(other, f64::max, f64::min).area();
        let union = self.area() + other.area() - shared;
        let around = self.with(other, f64::min, f64::max).area();
        if around > 0.0 { self.iou(other) - (around - union) / around } else { self.iou(other) }
    }

    fn centre(self) -> [f64; 2] {
        let [left, top, right, bottom] = self.0;
        [(left + right) / 2.0, (top + bottom) / 2.0]
    }
}

/// How a marked place is compared with the right one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoxMeasure {
    /// Intersection over union.
    #[default]
    Iou,
    /// The generalised one, moved to [0, 1]: it tells how far a box is off that meets nothing.
    Giou,
    /// 1 where the centre of what was marked lies in the right box, or is the right point; less with the distance, 0 at `radius`.
    Point,
}

/// The mean over places of how well each is marked; places that are missed and marks too many count 0:
/// `sum of the best pairs / max(wanted, marked)`. Pairs are chosen so that their sum is largest (Hungarian method).
///
/// Boxes are read as models write them: `[x1, y1, x2, y2]`, `{"bbox_2d": [...]}`, lists of these, `(x1, y1), (x2, y2)`; points as
/// `[x, y]` or `{"point_2d": [x, y]}`. The row's `answer` is one of these or a list, in the same units.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BoxMatch {
    /// How a mark is compared. Default `iou`.
    pub measure: BoxMeasure,
    /// From which value a mark counts as 1, and below as 0; in (0, 1]. Default none: it counts as much as it is worth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Distance at which a point is worth nothing, above 0; with `point` alone, which needs it. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub radius: Option<f64>,
    /// Where the answer stands. Default `tag`.
    #[serde(skip_serializing_if = "is_tag")]
    pub answer: AnswerPlace,
}

impl Default for BoxMatch {
    fn default() -> Self {
        Self { measure: BoxMeasure::Iou, threshold: None, radius: None, answer: AnswerPlace::Tag }
    }
}

impl OwnSettings for BoxMatch {
    fn check(&self) -> Result<(), SettingsFault> {
        if let Some(threshold) = self.threshold {
            let holds = threshold > 0.0 && threshold <= 1.0;
            SettingsFault::unless(holds, "threshold", "a number in (0, 1]", threshold)?;
        }
        match (self.measure, self.radius) {
            (BoxMeasure::Point, Some(radius)) => SettingsFault::unless(
                radius.is_finite() && radius > 0.0,
                "radius",
                "a number above 0",
                radius,
            ),
            (BoxMeasure::Point, None) => {
                Err(SettingsFault::at("radius", "missing, which measure = \"point\" needs"))
            }
            (_, Some(radius)) => Err(SettingsFault::at(
                "radius",
                format!("expected none without measure = \"point\", got {radius}"),
            )),
            (_, None) => Ok(()),
        }
    }
}

/// Most marks that are paired: the time goes with the third power. More are too many in any case.
const MOST: usize = 200;

/// The boxes that a text marks, in order; points are boxes without extent, and two points in prose the corners of one.
pub fn boxes_of(text: &str) -> Vec<PixelBox> {
    marks_of(text, true)
}

/// The boxes and points that a text marks; `corners` says that two points in prose are those of one box.
fn marks_of(text: &str, corners: bool) -> Vec<PixelBox> {
    let text = unboxed(text.trim());
    if let Ok(value) = serde_json::from_str::<Value>(without_fence(text)) {
        let boxes = boxes_in(&value, &mut 0);
        if !boxes.is_empty() {
            return boxes;
        }
    }
    // Numbers in prose: four in a bracket, or two brackets of two.
    let mut boxes = Vec::new();
    let mut corner: Option<[f64; 2]> = None;
    let mut rest = text;
    while let Some(open) = rest.find(['[', '(']) {
        rest = &rest[open + 1..];
        let Some(close) = rest.find([']', ')', '[', '(']) else { break };
        let numbers: Option<Vec<f64>> = rest[..close]
            .split([',', ' '])
            .filter(|part| !part.is_empty())
            .map(|part| part.parse().ok())
            .collect();
        match numbers.as_deref() {
            Some(&[a, b, c, d]) => boxes.extend(PixelBox::new([a, b, c, d])),
            Some(&[a, b]) if !corners => boxes.extend(PixelBox::new([a, b, a, b])),
            Some(&[a, b]) => match corner.take() {
                Some([left, top]) => boxes.extend(PixelBox::new([left, top, a, b])),
                None => corner = Some([a, b]),
            },
            _ => (),
        }
        if boxes.len() > 10 * MOST {
            break;
        }
    }
    if let (true, Some([x, y])) = (boxes.is_empty(), corner) {
        boxes.extend(PixelBox::new([x, y, x, y]));
    }
    boxes
}

/// A text without the ``` fence around it.
pub(crate) fn without_fence(text: &str) -> &str {
    text.trim().trim_start_matches("```json").trim_start_matches("```").trim_end_matches("```").trim()
}

/// The boxes and points of a value; `malformed` counts lists of numbers that are neither.
pub(crate) fn boxes_in(value: &Value, malformed: &mut usize) -> Vec<PixelBox> {
    match value {
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_number) => {
            let numbers: Vec<f64> = items.iter().filter_map(Value::as_f64).collect();
            let corners = match numbers[..] {
                [a, b, c, d] => Some([a, b, c, d]),
                [x, y] => Some([x, y, x, y]),
                _ => None,
            };
            let place = corners.and_then(PixelBox::new);
            *malformed += usize::from(place.is_none());
            place.into_iter().collect()
        }
        Value::Array(items) => items.iter().flat_map(|item| boxes_in(item, malformed)).collect(),
        Value::Object(fields) => {
            let named = ["bbox_2d", "bbox", "box", "boxes", "point_2d", "point", "answer"];
            let named = named.iter().filter_map(|name| fields.get(*name));
            named.flat_map(|value| boxes_in(value, malformed)).collect()
        }
        // A list may stand in a text.
        Value::String(text) if text.contains('[') && text.len() < 10_000 => boxes_of(text),
        _ => Vec::new(),
    }
}

/// The places that a row wants, and how many lists of numbers are none.
fn wanted(sample: &Sample) -> (Vec<PixelBox>, usize) {
    let mut malformed = 0;
    let wanted = match &sample.answer {
        Some(Value::String(text)) => boxes_of(text),
        Some(value) => boxes_in(value, &mut malformed),
        None => Vec::new(),
    };
    (wanted, malformed)
}

impl BoxMatch {
    /// From which value all of an answer counts as right: an overlap of a half, half of the radius, every threshold met.
    fn good_enough(&self) -> f32 {
        match (self.threshold, self.measure) {
            (Some(_), _) => 1.0,
            (None, BoxMeasure::Giou) => 0.75,
            (None, BoxMeasure::Iou | BoxMeasure::Point) => 0.5,
        }
    }

    fn worth(&self, right: PixelBox, given: PixelBox) -> f64 {
        let value = match self.measure {
            BoxMeasure::Iou => right.iou(given),
            BoxMeasure::Giou => (1.0 + right.giou(given)) / 2.0,
            BoxMeasure::Point => {
                let [x, y] = given.centre();
                let [left, top, right, bottom] = right.0;
                let away = |value: f64, low: f64, high: f64| (low - value).max(value - high).max(0.0);
                let distance = away(x, left, right).hypot(away(y, top, bottom));
                let radius = self.radius.unwrap_or(f64::MIN_POSITIVE);
                (1.0 - distance / radius).max(0.0)
            }
        };
        match self.threshold {
            Some(threshold) => f64::from(u8::from(value >= threshold)),
            None => value,
        }
    }
}

impl RewardFn for BoxMatch {
    fn name(&self) -> &str {
        "box_match"
    }

    fn check_sample(&self, sample: &Sample) -> Result<(), UnfitRow> {
        let (wanted, malformed) = wanted(sample);
        let got = || sample.answer.as_ref().map_or_else(|| "none".to_owned(), Value::to_string);
        let unfit = |reason| Err(UnfitRow { field: "answer", reason });
        if wanted.is_empty() || malformed > 0 {
            return unfit(format!(
                "expected boxes [left, top, right, bottom] or points for the reward box_match, got {}",
                got()
            ));
        }
        if wanted.len() > MOST {
            let count = wanted.len();
            return unfit(format!("expected at most {MOST} boxes for the reward box_match, got {count}"));
        }
        match wanted.iter().find(|place| self.measure != BoxMeasure::Point && place.area() <= 0.0) {
            None => Ok(()),
            Some(PixelBox(flat)) => unfit(format!(
                "expected boxes with an area for the reward box_match (points need measure = \"point\"), got {flat:?}"
            )),
        }
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let (wanted, _) = wanted(context.sample);
        if wanted.is_empty() {
            let (reward, id) = (self.name().to_owned(), context.sample.id.clone());
            return Err(RewardError::MissingField { reward, id, field: "answer" });
        }
        let corners = self.measure != BoxMeasure::Point;
        let given = self.answer.find(completion).map(|text| marks_of(text, corners)).unwrap_or_default();
        let all = wanted.len().max(given.len());
        let worth: Vec<Vec<f64>> = wanted
            .iter()
            .take(MOST)
            .map(|right| given.iter().take(MOST).map(|given| self.worth(*right, *given)).collect())
            .collect();
        let value = (best_sum(&worth) / all as f64) as f32;
        Ok(Reward { right: Some(value >= self.good_enough()), ..Reward::graded(self.name(), value) })
    }
}

/// The largest sum of values of pairs, each row and each column used once at most (Kuhn 1955, as Jonker and Volgenant do it).
fn best_sum(values: &[Vec<f64>]) -> f64 {
    let (rows, columns) = (values.len(), values.first().map_or(0, Vec::len));
    if rows == 0 || columns == 0 {
        return 0.0;
    }
    if rows > columns {
        let turned: Vec<Vec<f64>> =
            (0..columns).map(|column| values.iter().map(|row| row[column]).collect()).collect();
        return best_sum(&turned);
    }
    // Potentials of rows and columns, and the row that holds each column; row 0 and column 0 are none.
    let (mut u, mut v) = (vec![0.0; rows + 1], vec![0.0; columns + 1]);
    let (mut held, mut way) = (vec![0_usize; columns + 1], vec![0_usize; columns + 1]);
    for row in 1..=rows {
        held[0] = row;
        let mut column = 0;
        let mut least = vec![f64::INFINITY; columns + 1];
        let mut used = vec![false; columns + 1];
        while held[column] != 0 {
            used[column] = true;
            let (from, mut step, mut next) = (held[column], f64::INFINITY, 0);
            for to in 1..=columns {
                if used[to] {
                    continue;
                }
                let cost = -values[from - 1][to - 1] - u[from] - v[to];
                if cost < least[to] {
                    (least[to], way[to]) = (cost, column);
                }
                if least[to] < step {
                    (step, next) = (least[to], to);
                }
            }
            for to in 0..=columns {
                if used[to] {
                    u[held[to]] += step;
                    v[to] -= step;
                } else {
                    least[to] -= step;
                }
            }
            column = next;
        }
        while column != 0 {
            held[column] = held[way[column]];
            column = way[column];
        }
    }
    (1..=columns).filter(|&column| held[column] != 0).map(|column| values[held[column] - 1][column - 1]).sum()
}

#[cfg(test)]
mod tests {
    use kyoka_core::own;
    use proptest::prelude::*;

    use super::*;
    use crate::sections::tests_support::{completion, sample};

    fn rectangle(corners: [f64; 4]) -> PixelBox {
        PixelBox::new(corners).unwrap()
    }

    #[test]
    fn boxes_are_read_as_models_write_them() {
        let one = [PixelBox([12.0, 18.0, 108.0, 215.0])];
        for text in [
            "{\"bbox_2d\": [12, 18, 108, 215]}",
            "```json\n[{\"bbox_2d\": [12, 18, 108, 215], \"label\": \"cup\"}]\n```",
            "[12, 18, 108, 215]",
            "The cup is at [12, 18, 108, 215].",
            "<|box_start|>(12,18),(108,215)<|box_end|>",
            "(12.0, 18.0, 108.0, 215.0)",
        ] {
            assert_eq!(boxes_of(text), one, "{text}");
        }
        assert_eq!(boxes_of("[[1, 2, 3, 4], [5, 6, 7, 8]]").len(), 2);
        assert_eq!(boxes_of("at (3, 4)"), [PixelBox([3.0, 4.0, 3.0, 4.0])]);
        for none in
            ["no box here", "[108, 18, 12, 215]", "[1, 2, 3]", "[NaN, 1, 2, 3]", "[1e999, 0, 1, 1]", ""]
        {
            assert!(boxes_of(none).is_empty(), "{none}");
        }
    }

    #[test]
    fn misses_and_extras_cost() {
        let total = |rule: &BoxMatch, gold: Value, text: &str| {
            let row = Sample { answer: Some(gold), ..sample(None, &[]) };
            assert!(rule.check_sample(&row).is_ok());
            let text = format!("<answer>{text}</answer>");
            rule.score(&RewardContext::of(&row), &completion(&text)).unwrap().total.unwrap()
        };
        let rule = BoxMatch::default();
        let two = || serde_json::json!([[0, 0, 10, 10], [20, 20, 30, 30]]);
        assert_eq!(total(&rule, two(), "[[20, 20, 30, 30], [0, 0, 10, 10]]"), 1.0);
        assert_eq!(total(&rule, two(), "[[0, 0, 10, 10]]"), 0.5);
        assert_eq!(
            total(
                &rule,
                serde_json::json!([0, 0, 10, 10]),
                "[[0, 0, 10, 10], [1, 1, 2, 2], [3, 3, 4, 4], [5, 5, 6, 6]]"
            ),
            0.25
        );
        assert_eq!(total(&rule, serde_json::json!([0, 0, 10, 10]), "[0, 0, 10, 5]"), 0.5);
        let half = BoxMatch { threshold: Some(0.5), ..rule.clone() };
        assert_eq!(total(&half, serde_json::json!([0, 0, 10, 10]), "[0, 0, 10, 5]"), 1.0);
        let giou = BoxMatch { measure: BoxMeasure::Giou, ..rule.clone() };
        let far = total(&giou, serde_json::json!([0, 0, 10, 10]), "[90, 0, 100, 10]");
        let near = total(&giou, serde_json::json!([0, 0, 10, 10]), "[12, 0, 22, 10]");
        assert!(0.0 < far && far < near && near < 0.5, "{far} {near}");
        let point = BoxMatch { measure: BoxMeasure::Point, radius: Some(10.0), ..rule.clone() };
        assert_eq!(total(&point, serde_json::json!([0, 0, 10, 10]), "[5, 5]"), 1.0);
        assert_eq!(total(&point, serde_json::json!([0, 0, 10, 10]), "[15, 5]"), 0.5);
        let made =
            |settings: &str| own::<BoxMatch>(settings.parse().unwrap()).map_err(|fault| fault.to_string());
        assert!(made("measure = 'point'").unwrap_err().starts_with("radius: missing"));
        assert!(made("radius = 5.0").unwrap_err().starts_with("radius: expected none without"));
        assert!(
            made("measure = 'point'\nradius = 0.0")
                .unwrap_err()
                .starts_with("radius: expected a number above 0")
        );
        assert!(made("threshold = 1.5").unwrap_err().starts_with("threshold: expected a number in (0, 1]"));
        let many = format!("[{}]", vec!["[0, 0, 1, 1]"; 20_000].join(", "));
        assert!(total(&rule, two(), &many) < 0.001);
        let unfit = rule.check_sample(&sample(Some("left"), &[])).unwrap_err().to_string();
        assert!(unfit.starts_with("answer: expected boxes"), "{unfit}");
        // Points in prose are corners where boxes are asked for, and places where points are.
        let points = serde_json::json!([[10, 10], [30, 30]]);
        assert_eq!(total(&point, points, "(10, 10) and (30, 30)"), 1.0);
        // Numbers beyond all pictures are no box: nothing is worth them, and nothing waits for ever.
        assert_eq!(total(&giou, serde_json::json!([0, 0, 10, 10]), "[0, 0, 1e200, 1e200]"), 0.0);
        for (unmet, expected) in [
            (serde_json::json!([100, 200]), "answer: expected boxes with an area"),
            (serde_json::json!([[0, 0, 10, 10], [9, 9, 1, 1]]), "answer: expected boxes [left"),
            (serde_json::json!(vec![[0, 0, 10, 10]; 201]), "answer: expected at most 200 boxes"),
        ] {
            let row = Sample { answer: Some(unmet), ..sample(None, &[]) };
            let unfit = rule.check_sample(&row).unwrap_err().to_string();
            assert!(unfit.starts_with(expected), "{unfit}");
        }
        let right = |text: &str| {
            let row = Sample { answer: Some(serde_json::json!([0, 0, 10, 10])), ..sample(None, &[]) };
            giou.score(&RewardContext::of(&row), &completion(text)).unwrap().right
        };
        assert_eq!(
            (right("<answer>[0, 0, 10, 9]</answer>"), right("<answer>[9, 9, 20, 20]</answer>")),
            (Some(true), Some(false))
        );
    }

    proptest! {
        #[test]
        fn overlap_is_symmetric_and_bounded(a in prop::array::uniform4(0.0..50.0_f64), b in prop::array::uniform4(0.0..50.0_f64)) {
            let sorted = |[x, y, w, h]: [f64; 4]| rectangle([x, y, x + w, y + h]);
            let (a, b) = (sorted(a), sorted(b));
            prop_assert!((a.iou(b) - b.iou(a)).abs() < 1e-12 && (0.0..=1.0 + 1e-12).contains(&a.iou(b)));
            prop_assert!((-1.0..=1.0 + 1e-12).contains(&a.giou(b)) && a.giou(b) <= a.iou(b) + 1e-12);
        }

        #[test]
        fn pairs_are_the_best_ones(values in prop::collection::vec(prop::collection::vec(0.0..1.0_f64, 3), 1..5)) {
            // Every way to give three columns to the rows, by hand.
            fn all(values: &[Vec<f64>], row: usize, used: &mut [bool; 3]) -> f64 {
                if row == values.len() {
                    return 0.0;
                }
                let mut best = all(values, row + 1, used);
                for column in 0..3 {
                    if !used[column] {
                        used[column] = true;
                        best = best.max(values[row][column] + all(values, row + 1, used));
                        used[column] = false;
                    }
                }
                best
            }
            prop_assert!((best_sum(&values) - all(&values, 0, &mut [false; 3])).abs() < 1e-9);
        }
    }
}
