//! Does the answer say the same in mathematics?

use kyoka_core::{
    Completion, OwnSettings, Reward, RewardContext, RewardError, RewardFn, Sample, SettingsFault, UnfitRow,
};
use serde::{Deserialize, Serialize};

use crate::{
    AnswerPlace,
    accuracy::{golds, has_answer, is_tag},
    math::{Answer, Comparison, extract},
};

/// 1 if the answer says what one of the row's answers says, in LaTeX or plain; else 0.
///
/// Compared are numbers, fractions, roots, powers, percent, functions and formulas with unknowns, lists, points, intervals and sets,
/// equations, inequalities, ratios, matrices, and words. Fractions are compared exactly; everything else by value, unknowns at
/// several drawn places; where a number was written with decimals, to `decimals` of them. `x = 3` says `3`, `28%` says `28` and
/// `0.28`, and the order of a set or a bare list does not count. Prose around the answer is left out: what a box holds, what
/// follows "the answer is", the last formula or number. Nothing that cannot be read is right.
///
/// Held against the tests of the package `math-verify` (`tests/golden/make_math_verify.py`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MathAnswer {
    /// Decimals to which numbers must agree where one of them was written with decimals; at most 12. Default 6.
    pub decimals: u32,
    /// Where the answer stands. Default `tag`.
    #[serde(skip_serializing_if = "is_tag")]
    pub answer: AnswerPlace,
}

impl Default for MathAnswer {
    fn default() -> Self {
        Self { decimals: 6, answer: AnswerPlace::Tag }
    }
}

impl OwnSettings for MathAnswer {
    fn check(&self) -> Result<(), SettingsFault> {
        SettingsFault::unless(self.decimals <= 12, "decimals", "at most 12", self.decimals)
    }
}

impl MathAnswer {
    /// Whether two texts say the same; `None` if the first one cannot be read.
    pub fn same(&self, gold: &str, given: &str) -> Option<bool> {
        let gold = Answer::read(&extract(gold))?;
        let comparison = Comparison { decimals: self.decimals };
        Some(Answer::read(&extract(given)).is_some_and(|given| comparison.same(&gold, &given)))
    }
}

impl RewardFn for MathAnswer {
    fn name(&self) -> &str {
        "accuracy"
    }

    fn check_sample(&self, sample: &Sample) -> Result<(), UnfitRow> {
        has_answer("math_answer", sample)?;
        match sample.answers().iter().find(|gold| Answer::read(&extract(gold)).is_none()) {
            None => Ok(()),
            Some(gold) => Err(UnfitRow {
                field: "answer",
                reason: format!("expected mathematics for the reward math_answer, got {gold:?}"),
            }),
        }
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let golds = golds(self.name(), context)?;
        // What a box or section holds is LaTeX, also where it has no dollars.
        let given = self.answer.find(completion).unwrap_or_default();
        let verdicts: Vec<bool> = golds.iter().filter_map(|gold| self.same(gold, given)).collect();
        if verdicts.is_empty() {
            return Ok(Reward::ungraded());
        }
        Ok(Reward::answered(self.name(), verdicts.contains(&true)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::sections::tests_support::{completion, sample};

    fn same(gold: &str, given: &str) -> bool {
        MathAnswer::default().same(gold, given) == Some(true)
    }

    #[test]
    fn what_says_the_same_is_the_same() {
        for (gold, given) in [
            ("\\frac{1}{2}", "0.5"),
            ("1/2", "\\frac12"),
            ("2\\sqrt{3}", "\\sqrt{12}"),
            ("x^2-1", "(x-1)(x+1)"),
            ("\\sin^2 x + \\cos^2 x", "1"),
            ("\\pi", "π"),
            ("(1, 2]", "(1,2]"),
            ("\\{1, 2, 3\\}", "3, 1, 2"),
            ("x = 3", "3"),
            ("28\\%", "0.28"),
            ("1,234,567", "1234567"),
            ("\\binom{5}{2}", "10"),
            ("5!", "120"),
            ("1\\frac{1}{2}", "\\frac{3}{2}"),
            ("\\log_2 8", "3"),
            ("x < 2", "2 > x"),
            ("2^{10}", "1024"),
            ("90^\\circ", "90"),
            ("\\text{east}", "east"),
            ("3:4", "3 : 4"),
            ("x^6 + 6x^5 + 15x^4 + 20x^3 + 15x^2 + 6x + 1", "(x+1)^6"),
            (
                "$\\begin{pmatrix} 1 & 2 & 3 \\\\ 4 & 5 & 6 \\\\ 7 & 8 & 9 \\end{pmatrix}$",
                "\\begin{pmatrix} 1 & 2 & 3 \\\\ 4 & 5 & 6 \\\\ 7 & 8 & 9 \\end{pmatrix}",
            ),
            ("2|x|", "|2x|"),
            ("2^{2024}", "4^{1012}"),
            ("12\\,345", "12345"),
            ("1 1/2", "3/2"),
            ("1e-7", "0.0000001"),
            ("1.5e3", "1500"),
            ("2e", "e + e"),
            ("1.6 \\times 10^{-19}", "1.6e-19"),
            ("(-\\infty, 2)", "(-\\infty,2)"),
            ("2\\sqrt{3}", "The answer is 2\\sqrt{3}."),
            ("x + 1", "The answer is x + 1."),
            ("(2, 3)", "The answer is (2, 3)."),
        ] {
            assert!(same(gold, given), "{gold} and {given}");
            if !given.contains(" is ") {
                assert!(same(given, gold), "{given} and {gold}");
            }
        }
    }

    #[test]
    fn what_says_something_else_is_not() {
        for (gold, given) in [
            ("\\frac{1}{3}", "0.33"),
            ("12", "21"),
            ("-7", "7"),
            ("(1,2)", "(2,1)"),
            ("(1,2]", "[1,2]"),
            ("\\{1,2\\}", "\\{1,2,3\\}"),
            ("x+1", "x-1"),
            ("x < 2", "x > 2"),
            ("10^{20}", "10^{20}+1"),
            ("\\frac{a}{b}", "\\frac{b}{a}"),
            ("\\text{east}", "west"),
            ("3:4", "4:3"),
            ("5", ""),
            ("5", "no idea"),
            ("\\sqrt{x^2}", "x"),
            ("x^6 + 6x^5 + 15x^4 + 20x^3 + 15x^2 + 6x + 1", "1"),
            ("\\begin{pmatrix} 1 & 2 & 3 \\\\ 4 & 5 & 6 \\\\ 7 & 8 & 9 \\end{pmatrix}", "9"),
            ("2|x|", "2"),
            ("2^{2024}", "2^{2023}"),
            ("2^{2024}", "3^{5000}"),
            ("2^{2024}", "\\infty"),
            ("\\frac{1}{2^{2024}}", "0"),
            ("2^{200}", "2^{200}+1"),
            ("12\\,345", "4140"),
            ("12", "3 4"),
            ("0.5", "1 1/2"),
            ("1.6 \\times 10^{-19}", "0"),
            ("0.0000004", "0"),
            ("2\\sqrt{3}", "The answer is 2."),
            ("(2, 3)", "2"),
        ] {
            assert!(!same(gold, given), "{gold} and {given}");
        }
    }

    #[test]
    fn rows_and_completions() {
        let rule = MathAnswer::default();
        let score = |gold: &str, text: &str| {
            rule.score(&RewardContext::of(&sample(Some(gold), &[])), &completion(text)).unwrap().total
        };
        assert_eq!(score("1/2", "<think> 2 </think> <answer> 0.5 </answer>"), Some(1.0));
        assert_eq!(score("1/2", "<think> 0.5 </think> so \\boxed{\\frac{2}{4}}"), Some(1.0));
        assert_eq!(score("1/2", "0.5"), Some(0.0), "no section, no box");
        assert_eq!(score("\\int \u{1f600}", "\\boxed{1}"), None, "nothing to compare with");
        assert!(rule.check_sample(&sample(Some("\\int \u{1f600}"), &[])).is_err());
        assert!(rule.check_sample(&sample(Some("$\\frac{1}{2}$"), &[])).is_ok());
    }

    #[test]
    fn hostile_texts_take_no_time() {
        let rule = MathAnswer::default();
        let bombs = [
            "(".repeat(100_000),
            "\\frac{".repeat(20_000),
            "{".repeat(2_000),
            format!("${}$", "x^".repeat(900)),
            format!("${}1$", "-".repeat(1_900)),
            format!("\\boxed{{{}}}", "9!".repeat(900)),
            "9^9^9^9^9^9".to_owned(),
            "1,".repeat(999),
            format!("\\boxed{{{}}}", "1,".repeat(990)),
            "\\sqrt".repeat(390),
            "√".repeat(660),
            "ln ".repeat(660),
            format!("${}$", "2^".repeat(600)),
            format!("$9^{{{}}}$", "9".repeat(300)),
            format!("\\boxed{{{}}}", "7^{5461}".repeat(240)),
            format!("\\boxed{{{}}}", "7^{5461}+".repeat(200) + "1"),
            format!("\\boxed{{{}}}", "\\frac{1}{7^{999}}+".repeat(100) + "1"),
            format!("\\begin{{pmatrix}}{}\\end{{pmatrix}}^{{19}}", "1&".repeat(900)),
            "\u{301}\u{0}\u{202e}".repeat(600),
            format!("${}1{}$", "\\{".repeat(490), "\\}".repeat(490)),
            format!("${}1{}$", "(1,".repeat(400), ")".repeat(400)),
            format!("${}$", "x ".repeat(950)),
            format!("$1{}$", "!".repeat(1_900)),
            format!("$1{}$", "/1".repeat(900)),
            format!("$x{}$", "'".repeat(1_900)),
            format!("${}1$", "\\sqrt".repeat(300)),
            format!("$1{}$", "<1".repeat(900)),
            format!("$1{}$", " \\cup 1".repeat(200)),
            "[".repeat(10_000_000),
            "\\boxed{".repeat(1_000_000),
            "<answer>".repeat(1_000_000),
        ];
        let quantities = ["5".to_owned() + &".".repeat(10_000_000), "$".repeat(10_000_000)];
        for text in &quantities {
            let started = Instant::now();
            assert_eq!(crate::quantity::Quantity::read(text), None);
            let count = crate::SaidCount::default();
            let said = completion(&format!("<answer>{text}</answer>"));
            count.score(&RewardContext::of(&sample(Some("5"), &[])), &said).unwrap();
            assert!(started.elapsed().as_millis() < 500, "{:?}", started.elapsed());
        }
        // A small stack: whoever judges may have no more.
        let judge = move || {
            for bomb in bombs {
                let started = Instant::now();
                for (a, b) in [(bomb.as_str(), "1"), ("1", bomb.as_str()), (bomb.as_str(), bomb.as_str())] {
                    let _ = rule.same(a, b);
                }
                let _ = rule.score(&RewardContext::of(&sample(Some("1"), &[])), &completion(&bomb));
                let shown: String = bomb.chars().take(20).collect();
                assert!(started.elapsed().as_millis() < 500, "{shown}: {:?}", started.elapsed());
            }
        };
        std::thread::Builder::new().stack_size(1 << 20).spawn(judge).unwrap().join().unwrap();
    }

    /// The pairs of math-verify's own tests: agreement with its verdicts, and every pair that only this rule takes for right.
    #[test]
    fn math_verify_agrees() {
        let rows = include_str!("../tests/golden/math_verify.jsonl").lines();
        let rows: Vec<serde_json::Value> = rows.map(|row| serde_json::from_str(row).unwrap()).collect();
        let (mut counted, mut agreed, mut only_here) = (0, 0, Vec::new());
        for row in &rows {
            // Where its own tests say that it is wrong it is no measure.
            if row.get("human_expected").is_some() {
                continue;
            }
            let rule =
                MathAnswer { decimals: row["precision"].as_u64().unwrap() as u32, ..MathAnswer::default() };
            let given = rule.same(row["gold"].as_str().unwrap(), row["pred"].as_str().unwrap()) == Some(true);
            counted += 1;
            agreed += usize::from(Some(given) == row["expected"].as_bool());
            if given && row["expected"] == false {
                only_here.push(row["id"].as_str().unwrap());
            }
        }
        let share = f64::from(agreed as u32) / f64::from(counted);
        assert!(share >= 0.95, "{agreed} of {counted}");
        // `x in [-2,7]` is said by `-2 <= x <= 7`; math-verify takes it the other way round only.
        assert_eq!(only_here, ["math-verify/193"]);
    }
}
