//! The rewards that a recipe can name.

use std::{collections::HashSet, path::PathBuf};

use burn::tensor::Device;
use kyoka_core::RewardFn;
use kyoka_reward::{
    CosineLength, ExactAnswer, Format, Named, NumericAnswer, RULES, RunningCount, SoftOverlong, StepAccuracy,
    WeightedSum,
};
use serde::{Deserialize, Serialize, Serializer, ser::Error as _};
use toml::{Table, Value};

use crate::{
    Error,
    doors::{Doors, brought},
    kinds::kinds,
    learned_reward::LearnedReward,
    reading::{Fault, Places},
};

/// One reward of a recipe: a rule with its own settings, and what every reward has.
#[derive(Debug, Clone, PartialEq)]
pub struct RewardConfig {
    /// What `--set reward.NAME.weight=2` calls it, unique in a recipe, and what its part is called in logs and reports; if it is
    /// not given, its kind and the rule's own name for its part.
    pub name: String,
    /// Its weight in the total, a finite number; 0 measures without moving the total.
    pub weight: f32,
    /// The rule.
    pub rule: RewardKind,
}

/// A rule by its kind.
#[derive(Debug, Clone, PartialEq)]
pub enum RewardKind {
    /// One whose settings are checked beside those of the recipe.
    Rule(RewardRule),
    /// One of [`kyoka_reward::RULES`].
    Own {
        /// Its kind.
        kind: String,
        /// Its settings.
        settings: Table,
    },
}

impl RewardKind {
    fn read(kind: String, settings: Table) -> Result<Self, Fault> {
        if RULES.iter().any(|(known, _)| *known == kind) {
            return Ok(Self::Own { kind, settings });
        }
        if !RewardRule::KINDS.contains(&kind.as_str()) {
            let own = RULES.iter().map(|(kind, _)| *kind);
            return Err(Fault::unknown_kind(
                &kind,
                &RewardRule::KINDS.iter().copied().chain(own).collect::<Vec<_>>(),
            ));
        }
        RewardRule::read(&kind, settings).map(Self::Rule)
    }

    /// Its name in recipes.
    pub fn kind(&self) -> &str {
        match self {
            Self::Rule(rule) => rule.kind(),
            Self::Own { kind, .. } => kind,
        }
    }

    /// The rule, if it is one whose settings are checked beside those of the recipe.
    pub(crate) fn rule(&self) -> Option<&RewardRule> {
        match self {
            Self::Rule(rule) => Some(rule),
            Self::Own { .. } => None,
        }
    }
}

kinds! {
    /// The rules a recipe can name whose settings are checked beside those of the recipe, as limits of tokens and other rewards
    /// are; the others are [`kyoka_reward::RULES`].
    pub enum RewardRule {
        /// See [`ExactAnswer`].
        "exact_answer" => ExactAnswer(ExactAnswer),
        /// See [`NumericAnswer`].
        "numeric_answer" => NumericAnswer(NumericAnswer),
        /// See [`Format`].
        "format" => Format(Format),
        /// See [`StepAccuracy`].
        "step_accuracy" => StepAccuracy(StepAccuracy),
        /// See [`RunningCount`].
        "running_count" => RunningCount(RunningCount),
        /// See [`SoftOverlong`].
        "soft_overlong" => SoftOverlong(SoftOverlong),
        /// See [`CosineLength`]; right is what the recipe's `exact_answer` or `numeric_answer` says.
        "cosine_length" => CosineLength(CosineLengthSettings),
        /// The score of a reward model that a stage of kind `reward_model` trained.
        "learned" => Learned(LearnedSettings),
        /// A reward of another crate, by its `part` or its `name`; see [`Run::with_reward`](crate::Run::with_reward).
        "custom" => Custom(CustomSettings),
    }
}

/// Settings of `cosine_length`; the defaults are the paper's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CosineLengthSettings {
    /// Reward of a wrong answer of no length. Default -1.
    pub min_wrong: f32,
    /// Reward of a wrong answer at the limit. Default -0.5.
    pub max_wrong: f32,
    /// Reward of a right answer at the limit. Default 0.5.
    pub min_correct: f32,
    /// Reward of a right answer of no length. Default 1.
    pub max_correct: f32,
}

impl Default for CosineLengthSettings {
    fn default() -> Self {
        let CosineLength { min_wrong, max_wrong, min_correct, max_correct, .. } = CosineLength::new(());
        Self { min_wrong, max_wrong, min_correct, max_correct }
    }
}

impl CosineLengthSettings {
    fn over<R>(self, accuracy: R) -> CosineLength<R> {
        let Self { min_wrong, max_wrong, min_correct, max_correct } = self;
        CosineLength { accuracy, min_wrong, max_wrong, min_correct, max_correct }
    }
}

/// Settings of `learned`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearnedSettings {
    /// Folder of the run (its newest checkpoint) or of the checkpoint with the reward model.
    pub model: PathBuf,
}

/// Settings of `custom`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomSettings {
    /// The name under which the program brings it. Default the reward's own name; to be said where one is used twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// What the reward itself reads. Default empty.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub settings: Table,
}

impl Serialize for RewardConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let kind = self.rule.kind();
        let mut table = match &self.rule {
            RewardKind::Rule(rule) => rule.to_table().map_err(S::Error::custom)?,
            RewardKind::Own { settings, .. } => settings.clone(),
        };
        table.insert("kind".to_owned(), kind.into());
        if self.name != kind {
            table.insert("name".to_owned(), self.name.clone().into());
        }
        let weight = Value::try_from(self.weight).map_err(S::Error::custom)?;
        table.insert("weight".to_owned(), weight);
        table.serialize(serializer)
    }
}

impl RewardConfig {
    /// Reads a table of `[[reward]]`: what every reward has, and the settings of its kind.
    pub(crate) fn read(mut table: Table) -> Result<Self, Fault> {
        #[derive(Deserialize)]
        struct Shared {
            kind: String,
            weight: f32,
            name: Option<String>,
        }
        let shared =
            ["kind", "weight", "name"].into_iter().filter_map(|key| table.remove_entry(key)).collect();
        let Shared { kind, weight, name } = Fault::reading(Value::Table(shared))?;
        let name = name.unwrap_or_else(|| kind.clone());
        Ok(Self { name, weight, rule: RewardKind::read(kind, table)? })
    }

    /// A reward of a kind with its defaults, weight 1.
    ///
    /// # Errors
    /// If there is no such kind, or it needs more than defaults.
    pub(crate) fn of_kind(kind: &str) -> Result<Self, String> {
        let table = Table::from_iter([
            ("kind".to_owned(), Value::String(kind.to_owned())),
            ("weight".to_owned(), Value::Float(1.0)),
        ]);
        Self::read(table).map_err(|fault| fault.message(&Places::default()))
    }

    /// A rule under the name that the recipe gives it, if it gives one.
    fn named(&self, rule: Box<dyn RewardFn>) -> Box<dyn RewardFn> {
        match self.name == self.rule.kind() {
            true => rule,
            false => Box::new(Named::new(self.name.as_str(), rule)),
        }
    }

    /// What its parts are called; `own` is what the rule is.
    pub(crate) fn parts<'a>(&'a self, own: &'a str) -> Vec<&'a str> {
        match self.rule.rule() {
            Some(RewardRule::StepAccuracy(rule)) => rule.names.iter().map(String::as_str).collect(),
            _ => vec![own],
        }
    }

    /// Whether it says if the answer is right.
    fn measures_answer(&self) -> bool {
        matches!(self.rule.rule(), Some(RewardRule::ExactAnswer(_) | RewardRule::NumericAnswer(_)))
    }

    /// The rule, unless it is a model that must be loaded; `all` are the recipe's rewards, which were checked.
    ///
    /// # Errors
    /// If it is one of another crate, and that crate says so.
    fn rule(&self, all: &[Self], doors: &Doors) -> Result<Option<Box<dyn RewardFn>>, Fault> {
        let rule = match &self.rule {
            RewardKind::Rule(rule) => rule,
            RewardKind::Own { kind, settings } => {
                let (_, make) = RULES.iter().find(|(known, _)| known == kind).expect("the kind was read");
                return make(settings.clone()).map(Some).map_err(Fault::from);
            }
        };
        Ok(Some(match rule {
            RewardRule::ExactAnswer(rule) => Box::new(rule.clone()),
            RewardRule::NumericAnswer(rule) => Box::new(rule.clone()),
            RewardRule::Format(rule) => Box::new(*rule),
            RewardRule::StepAccuracy(rule) => Box::new(rule.clone()),
            RewardRule::RunningCount(rule) => Box::new(*rule),
            RewardRule::SoftOverlong(rule) => Box::new(*rule),
            RewardRule::CosineLength(settings) => {
                match all.iter().find(|other| other.measures_answer()).and_then(|reward| reward.rule.rule()) {
                    Some(RewardRule::NumericAnswer(rule)) => Box::new(settings.over(rule.clone())),
                    Some(RewardRule::ExactAnswer(rule)) => Box::new(settings.over(rule.clone())),
                    _ => Box::new(settings.over(ExactAnswer::default())),
                }
            }
            RewardRule::Custom(CustomSettings { part, settings }) => {
                let make = brought(&doors.rewards, "reward", part.as_ref().unwrap_or(&self.name));
                let make = make.map_err(|fault| if part.is_some() { fault.under("part") } else { fault })?;
                make(settings.clone()).map_err(|error| Fault::at("settings", error.to_string()))?
            }
            RewardRule::Learned(_) => return Ok(None),
        }))
    }

    /// Refuses values that the rule cannot work with; `limits` are the most tokens of completions that it judges.
    fn check(&self, all: &[Self], limits: &[(String, usize)]) -> Result<(), Fault> {
        if !self.weight.is_finite() {
            return Err(Fault::at("weight", format!("expected a finite number, got {}", self.weight)));
        }
        let at_least_one = |key: &str, got: usize| match got {
            0 => Err(Fault::at(key, "expected at least 1, got 0")),
            _ => Ok(()),
        };
        let Some(rule) = self.rule.rule() else { return Ok(()) };
        match rule {
            RewardRule::NumericAnswer(rule) => rule.validate().map_err(Fault::here),
            RewardRule::StepAccuracy(rule) if rule.names.is_empty() => {
                Err(Fault::at("names", "expected at least one name, got none"))
            }
            RewardRule::SoftOverlong(rule) => {
                at_least_one("buffer_tokens", rule.buffer_tokens)?;
                match limits.iter().find(|(_, limit)| rule.buffer_tokens > *limit) {
                    None => Ok(()),
                    Some((key, limit)) => Err(Fault::at(
                        "buffer_tokens",
                        format!("expected at most {key} = {limit}, got {}", rule.buffer_tokens),
                    )),
                }
            }
            RewardRule::CosineLength(CosineLengthSettings {
                min_wrong,
                max_wrong,
                min_correct,
                max_correct,
            }) => {
                let fields = [
                    ("min_wrong", min_wrong),
                    ("max_wrong", max_wrong),
                    ("min_correct", min_correct),
                    ("max_correct", max_correct),
                ];
                if let Some((key, got)) = fields.into_iter().find(|(_, value)| !value.is_finite()) {
                    return Err(Fault::at(key, format!("expected a finite number, got {got}")));
                }
                if all.iter().any(Self::measures_answer) {
                    return Ok(());
                }
                Err(Fault::here(
                    "expected a reward that measures the answer beside it (exact_answer or numeric_answer; its weight may be 0), got none",
                ))
            }
            _ => Ok(()),
        }
    }
}

const OWN_NAME: &str = "give one of them a `name` of its own";

fn check_names(rewards: &[RewardConfig]) -> Result<(), Fault> {
    for (index, reward) in rewards.iter().enumerate() {
        if rewards[..index].iter().any(|other| other.name == reward.name) {
            let reason = format!("two rewards are called {:?}; {OWN_NAME}", reward.name);
            return Err(Fault::at("name", reason).below(&index.to_string()).below("reward"));
        }
    }
    Ok(())
}

/// Refuses rewards that cannot stand beside each other or judge what a recipe samples.
pub(crate) fn check_rewards(rewards: &[RewardConfig], limits: &[(String, usize)]) -> Result<(), Fault> {
    if rewards.is_empty() {
        return Err(Fault::at("reward", "expected at least one [[reward]], got none"));
    }
    check_names(rewards)?;
    for (index, reward) in rewards.iter().enumerate() {
        let before = &rewards[..index];
        if reward.measures_answer() && before.iter().any(RewardConfig::measures_answer) {
            let reason = "exact_answer and numeric_answer both measure `accuracy`; keep one";
            return Err(Fault::at("reward", reason));
        }
        reward.check(rewards, limits).map_err(|fault| fault.below(&index.to_string()).below("reward"))?;
    }
    Ok(())
}

/// Refuses rewards that read turns where there are none, or single turns where there are several.
pub(crate) fn check_turns(rewards: &[RewardConfig], has_environment: bool) -> Result<(), Fault> {
    let reason = |reward: &RewardConfig| match (reward.rule.kind(), has_environment) {
        ("environment", false) => {
            Some("it adds up what an [environment] gives for turns, expected one, got none")
        }
        ("learned", true) => {
            Some("a reward model scores completions of one turn, expected no [environment] beside it")
        }
        _ => None,
    };
    match rewards.iter().enumerate().find_map(|(index, reward)| Some((index, reason(reward)?))) {
        None => Ok(()),
        Some((index, reason)) => Err(Fault::at(&format!("reward.{index}"), reason)),
    }
}

/// A recipe's rewards, made once.
pub(crate) struct Rewards {
    /// Each with its configuration; none for a model that must be loaded.
    made: Vec<(RewardConfig, Option<Box<dyn RewardFn>>)>,
}

impl Rewards {
    /// Makes them.
    ///
    /// # Errors
    /// If one is of another crate that this program does not bring, or that cannot make it of its settings.
    pub fn make(rewards: &[RewardConfig], doors: &Doors) -> Result<Self, Fault> {
        let make = |(index, reward): (usize, &RewardConfig)| {
            let rule = reward.rule(rewards, doors);
            let rule = rule.map_err(|fault| fault.below(&index.to_string()).below("reward"))?;
            Ok((reward.clone(), rule.map(|rule| reward.named(rule))))
        };
        let made = rewards.iter().enumerate().map(make).collect::<Result<Vec<_>, Fault>>()?;
        check_names(rewards)?;
        let mut parts = HashSet::new();
        for (index, (reward, rule)) in made.iter().enumerate() {
            let own = rule.as_ref().map_or(reward.name.as_str(), |rule| rule.name());
            if let Some(part) = reward.parts(own).into_iter().find(|part| !parts.insert(part.to_owned())) {
                let reason = format!("two rewards report a part called {part:?}; {OWN_NAME}");
                return Err(Fault::at("name", reason).below(&index.to_string()).below("reward"));
            }
        }
        Ok(Self { made })
    }

    /// The rules, to check rows with; reward models take every row.
    pub fn rules(&self) -> impl Iterator<Item = &dyn RewardFn> {
        self.made.iter().filter_map(|(_, rule)| rule.as_deref())
    }

    /// Their weighted sum.
    ///
    /// # Errors
    /// If a reward model cannot be loaded.
    pub fn sum(self, device: &Device) -> Result<WeightedSum, Error> {
        let rule = |(reward, rule): (RewardConfig, Option<Box<dyn RewardFn>>)| {
            let rule = match (rule, &reward.rule) {
                (Some(rule), _) => rule,
                (None, RewardKind::Rule(RewardRule::Learned(LearnedSettings { model }))) => {
                    reward.named(Box::new(LearnedReward::load(model, device)?))
                }
                (None, rule) => unreachable!("{}: only a reward model has to be loaded", rule.kind()),
            };
            Ok((reward.weight, rule))
        };
        Ok(WeightedSum::new(self.made.into_iter().map(rule).collect::<Result<_, Error>>()?))
    }
}
