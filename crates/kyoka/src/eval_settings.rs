//! How a run is evaluated: `[eval]` of a recipe.

use kyoka_core::SamplingConfig;
use kyoka_trainer::{EvalRules, pass_at, passes};
use serde::{Deserialize, Serialize};

use crate::reading::Fault;

/// `[eval]` of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EvalSettings {
    /// Splits that are watched: evaluated every `eval_every` steps of a stage and at its end. Settings and checkpoints are
    /// chosen on them.
    pub splits: Vec<String>,
    /// Splits that are evaluated once, after the last step of the run: tests that nothing is chosen on; a split
    /// that is watched too is not one of them. Default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub final_splits: Vec<String>,
    /// Rows of each split; 0 takes all.
    #[serde(default)]
    pub max_rows: usize,
    /// Longest completion.
    pub max_new_tokens: usize,
    /// Completions a row; with several, parts are means over all of them and `pass@k` says how many rows have a right
    /// one. Default 1.
    #[serde(default = "one")]
    pub samples: usize,
    /// Temperature of the draws; 0 takes the likeliest token always. Default 0 for one completion a row, 1 for several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Whether to evaluate before the first step: how good was it before? Default true for a policy from a checkpoint or
    /// another run, false for one with parts that are drawn at random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_start: Option<bool>,
    /// What decides which checkpoint is kept as `best`.
    #[serde(default, skip_serializing_if = "BestSettings::is_default")]
    pub best: BestSettings,
}

/// The mean that is watched: the higher, the better.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BestSettings {
    /// One of `splits`. Default the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// A part that a reward of the recipe reports, `total`, or `pass@k`. Default `accuracy` where a reward reports it, else
    /// `total`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
}

impl BestSettings {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn one() -> usize {
    1
}

impl EvalSettings {
    /// One likeliest completion of every row of a split.
    pub fn greedy(split: &str, max_new_tokens: usize) -> Self {
        Self {
            splits: vec![split.to_owned()],
            final_splits: Vec::new(),
            max_rows: 0,
            max_new_tokens,
            samples: 1,
            temperature: None,
            at_start: None,
            best: BestSettings::default(),
        }
    }

    /// Refuses values that cannot be.
    pub fn check(&self) -> Result<(), Fault> {
        let temperature = self.temperature();
        let fault =
            |key: &str, reason: String| Err(Fault::at(&format!("eval.{key}"), format!("expected {reason}")));
        if self.splits.is_empty() {
            return fault("splits", "at least one split, got none".to_owned());
        }
        for (key, number) in [("max_new_tokens", self.max_new_tokens), ("samples", self.samples)] {
            if number == 0 {
                return fault(key, "at least 1, got 0".to_owned());
            }
        }
        if !(temperature.is_finite() && temperature >= 0.0) {
            return fault("temperature", format!("a finite number of at least 0, got {temperature}"));
        }
        if self.samples > 1 && temperature == 0.0 {
            return fault("temperature", "more than 0 for several completions a row, got 0".to_owned());
        }
        match &self.best.split {
            Some(split) if !self.splits.contains(split) => {
                fault("best.split", format!("one of {}, got {split}", self.splits.join(", ")))
            }
            _ => Ok(()),
        }
    }

    /// Splits that are evaluated at the very end alone; one that is watched too is evaluated there already.
    pub fn unwatched(&self) -> impl Iterator<Item = &String> {
        self.final_splits.iter().filter(|split| !self.splits.contains(split))
    }

    /// All splits that are ever evaluated.
    pub fn all_splits(&self) -> impl Iterator<Item = &String> {
        self.splits.iter().chain(self.unwatched())
    }

    fn temperature(&self) -> f32 {
        self.temperature.unwrap_or(if self.samples > 1 { 1.0 } else { 0.0 })
    }

    /// How completions are drawn; `stop` are the texts that end one.
    pub fn sampling(&self, stop: &[String]) -> SamplingConfig {
        SamplingConfig {
            temperature: self.temperature(),
            max_new_tokens: self.max_new_tokens,
            stop: stop.to_vec(),
            ..SamplingConfig::default()
        }
    }

    /// When a run is evaluated and what is best, given the parts that its rewards report and whether its policy has
    /// learned before.
    ///
    /// # Errors
    /// If nobody reports what is to decide.
    pub fn rules(&self, reported: &[&str], has_learned: bool) -> Result<EvalRules, Fault> {
        let chances: Vec<String> = passes(self.samples).map(pass_at).collect();
        let mut known: Vec<&str> = reported.to_vec();
        known.push("total");
        if reported.contains(&"accuracy") {
            known.extend(chances.iter().map(String::as_str));
        }
        let usual = if reported.contains(&"accuracy") { "accuracy" } else { "total" };
        let metric = self.best.metric.as_deref().unwrap_or(usual);
        if !known.contains(&metric) {
            let reason = format!("expected one of {}, got {metric}", known.join(", "));
            return Err(Fault::at("eval.best.metric", reason));
        }
        let split = self.best.split.as_ref().unwrap_or(&self.splits[0]);
        Ok(EvalRules {
            at_start: self.at_start.unwrap_or(has_learned),
            best: Some((split.clone(), metric.to_owned())),
            settings: self.watched_as_text(),
        })
    }

    /// What results on the watched splits depend on.
    fn watched_as_text(&self) -> String {
        let settings = Self { final_splits: Vec::new(), at_start: None, ..self.clone() };
        toml::to_string(&settings).expect("settings are plain values")
    }

    /// What results on the final splits depend on.
    pub fn final_as_text(&self) -> String {
        let settings =
            Self { splits: Vec::new(), at_start: None, best: BestSettings::default(), ..self.clone() };
        toml::to_string(&settings).expect("settings are plain values")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> EvalSettings {
        let text = format!("splits = [\"val\", \"more\"]\nmax_new_tokens = 8\n{text}");
        toml::from_str(&text).unwrap()
    }

    fn said(fault: Fault) -> String {
        fault.message(&crate::reading::Places::default())
    }

    #[test]
    fn the_best_checkpoint_is_decided_by_what_a_reward_reports() {
        let best =
            |text: &str, reported: &[&str]| settings(text).rules(reported, false).map(|rules| rules.best);
        let pair = |split: &str, metric: &str| Some((split.to_owned(), metric.to_owned()));
        assert_eq!(best("", &["format", "accuracy"]), Ok(pair("val", "accuracy")));
        assert_eq!(best("", &["format"]), Ok(pair("val", "total")));
        let chosen = "best = { split = 'more', metric = 'format' }";
        assert_eq!(best(chosen, &["format", "accuracy"]), Ok(pair("more", "format")));
        for metric in ["pass@2", "pass@4"] {
            let text = format!("samples = 4\nbest.metric = '{metric}'");
            assert_eq!(best(&text, &["accuracy"]), Ok(pair("val", metric)));
        }
        let error = said(best("best.metric = 'acuracy'", &["format", "accuracy"]).unwrap_err());
        assert_eq!(error, "eval.best.metric: expected one of format, accuracy, total, got acuracy");
        assert!(best("best.metric = 'pass@4'", &["accuracy"]).is_err(), "one completion a row");
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        for (text, expected) in [
            ("samples = 0", "eval.samples: expected at least 1, got 0"),
            ("temperature = -1.0", "eval.temperature: expected a finite number of at least 0, got -1"),
            ("samples = 4\ntemperature = 0.0", "eval.temperature: expected more than 0"),
            ("best.split = 'test'", "eval.best.split: expected one of val, more, got test"),
        ] {
            let error = said(settings(text).check().unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert_eq!(settings("samples = 4").check(), Ok(()));
        assert_eq!(settings("samples = 4").sampling(&[]).temperature, 1.0);
        assert_eq!(settings("").sampling(&[]).temperature, 0.0);
    }

    #[test]
    fn what_is_evaluated_again_on_resume_is_what_results_depend_on() {
        let rules = |text: &str| settings(text).rules(&[], true).unwrap();
        assert_eq!(rules("").settings, rules("at_start = false\nfinal_splits = ['test']").settings);
        assert_ne!(rules("").settings, rules("max_rows = 7").settings);
        assert!(rules("").at_start && !rules("at_start = false").at_start);
    }

    #[test]
    fn a_split_that_is_watched_is_not_evaluated_again_at_the_end() {
        let eval = settings("final_splits = ['more', 'test']");
        assert!(eval.unwatched().eq(["test"]) && eval.all_splits().eq(["val", "more", "test"]));
    }
}
