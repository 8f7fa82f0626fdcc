//! The rewards that a recipe can name.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use burn::tensor::Device;
use kyoka_core::{OwnSettings, RewardFn, Sample, UnfitRow};
use kyoka_reward::{
    AdaptiveLength, CosineLength, ExactAnswer, Format, Judge, JudgeMode, JudgeSettings, Learned, Named,
    NumericAnswer, RULES, RunningCount, ScheduleBy, SoftOverlong, StepAccuracy, Weight, WeightSchedule,
    WeightedSum,
};
use serde::{Deserialize, Serialize, Serializer, ser::Error as _};
use toml::{Table, Value};

use crate::{
    Error,
    doors::{Doors, brought},
    kinds::kinds,
    learned_reward::LearnedReward,
    local_judge::LocalModel,
    reading::{Fault, Places},
};

/// One reward of a recipe: a rule with its own settings, and what every reward has.
#[derive(Debug, Clone, PartialEq)]
pub struct RewardConfig {
    /// What `--set reward.NAME.weight=2` calls it, unique in a recipe, and what its part is called in logs and reports; if it is
    /// not given, its kind and the rule's own name for its part.
    pub name: String,
    /// How it counts in the total: by a finite number, of which 0 measures without moving the total; by a number that changes
    /// (`weight = { from = 1.0, to = 0.0 }`); or as a gate that the sum of the others passes through (`gate = true`).
    pub weight: Weight,
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
        if RewardRule::KINDS.contains(&kind.as_str()) {
            return RewardRule::read(&kind, settings).map(Self::Rule);
        }
        let own: Vec<&str> = RULES.iter().map(|(kind, _)| *kind).collect();
        if own.contains(&kind.as_str()) {
            return Ok(Self::Own { kind, settings });
        }
        let others = own.into_iter().filter(|kind| !RewardRule::KINDS.contains(kind));
        Err(Fault::unknown_kind(&kind, &RewardRule::KINDS.iter().copied().chain(others).collect::<Vec<_>>()))
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
        /// See [`CosineLength`]; right is what the recipe's first rule for answers says.
        "cosine_length" => CosineLength(CosineLengthSettings),
        /// See [`AdaptiveLength`]; right is what the recipe's first rule for answers says.
        "adaptive_length" => AdaptiveLength(NoSettings),
        /// The score of a reward model that a stage of kind `reward_model` trained.
        "learned" => Learned(LearnedSettings),
        /// See [`Judge`](kyoka_reward::Judge).
        "judge" => Judge(JudgeSettings),
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

fn is_zero(coef: &f32) -> bool {
    *coef == 0.0
}

/// Of a part without settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}

/// Settings of `learned`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearnedSettings {
    /// Folder of the run (its newest checkpoint) or of the checkpoint with the reward model.
    pub model: PathBuf,
    /// What the disagreement of an ensemble costs, in standard deviations of its heads; at least 0. Default 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uncertainty_coef: f32,
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
        let (key, value) = match self.weight {
            Weight::Fixed(weight) => ("weight", Value::try_from(weight)),
            Weight::Schedule(schedule) => ("weight", Value::try_from(schedule)),
            Weight::Gate => ("gate", Ok(Value::Boolean(true))),
        };
        table.insert(key.to_owned(), value.map_err(S::Error::custom)?);
        table.serialize(serializer)
    }
}

impl RewardConfig {
    /// Reads a table of `[[reward]]`: what every reward has, and the settings of its kind.
    pub(crate) fn read(mut table: Table) -> Result<Self, Fault> {
        #[derive(Deserialize)]
        struct Shared {
            kind: String,
            name: Option<String>,
            #[serde(default)]
            gate: bool,
        }
        let shared = ["kind", "name", "gate"].into_iter().filter_map(|key| table.remove_entry(key)).collect();
        let Shared { kind, name, gate } = Fault::reading(Value::Table(shared))?;
        let weight = match (table.remove("weight"), gate) {
            (None, true) => Weight::Gate,
            (Some(_), true) => {
                return Err(Fault::at(
                    "weight",
                    "expected none beside gate = true, which multiplies the others",
                ));
            }
            (Some(schedule @ Value::Table(_)), false) => {
                let schedule =
                    Fault::reading::<WeightSchedule>(schedule).map_err(|fault| fault.below("weight"))?;
                Weight::Schedule(schedule)
            }
            (Some(number), false) => {
                Weight::Fixed(Fault::reading(number).map_err(|fault| fault.below("weight"))?)
            }
            (None, false) => return Err(Fault::at("weight", "missing")),
        };
        let name = name.unwrap_or_else(|| kind.clone());
        Ok(Self { name, weight, rule: RewardKind::read(kind, table)? })
    }

    /// A reward of a kind with its defaults, weight 1.
    ///
    /// # Errors
    /// If there is no such kind, or it needs more than defaults.
    pub(crate) fn of_kind(kind: &str) -> Result<Self, String> {
        Self::of_kind_with(kind, Table::new())
    }

    /// A reward of a kind with settings, weight 1.
    ///
    /// # Errors
    /// If there is no such kind, or it cannot be made of them.
    pub(crate) fn of_kind_with(kind: &str, mut table: Table) -> Result<Self, String> {
        table.insert("kind".to_owned(), Value::String(kind.to_owned()));
        table.entry("weight").or_insert(Value::Float(1.0));
        Self::read(table).map_err(|fault| fault.message(&Places::default()))
    }

    /// A rule under the name that the recipe gives it, if it gives one.
    fn named(&self, rule: Box<dyn RewardFn>) -> Box<dyn RewardFn> {
        match self.name == self.rule.kind() {
            true => rule,
            false => Box::new(Named::new(self.name.as_str(), rule)),
        }
    }

    /// Whether it says if the answer is right.
    fn measures_answer(&self) -> bool {
        match &self.rule {
            RewardKind::Rule(rule) => {
                matches!(rule, RewardRule::ExactAnswer(_) | RewardRule::NumericAnswer(_))
            }
            RewardKind::Own { kind, .. } => {
                matches!(kind.as_str(), "per_row" | "list_match") || kind.ends_with("_answer")
            }
        }
    }

    /// What the recipe's first rule for answers says.
    ///
    /// # Errors
    /// If there is none.
    fn accuracy(all: &[Self], doors: &Doors) -> Result<Box<dyn RewardFn>, Fault> {
        let Some(reward) = all.iter().find(|other| other.measures_answer()) else {
            return Err(Fault::here(
                "expected a reward that measures the answer beside it (exact_answer, math_answer, ..; its weight may be 0), got none",
            ));
        };
        Ok(reward.rule(all, doors)?.expect("a rule for answers is no model"))
    }

    /// Whether it is a rule of Kyoka's own, which answers at once.
    fn is_quick(&self) -> bool {
        match &self.rule {
            RewardKind::Rule(rule) => {
                !matches!(rule, RewardRule::Learned(_) | RewardRule::Custom(_) | RewardRule::Judge(_))
            }
            RewardKind::Own { kind, .. } => !matches!(kind.as_str(), "program" | "http" | "environment"),
        }
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
            RewardRule::Format(rule) => Box::new(rule.clone()),
            RewardRule::StepAccuracy(rule) => Box::new(rule.clone()),
            RewardRule::RunningCount(rule) => Box::new(*rule),
            RewardRule::SoftOverlong(rule) => Box::new(*rule),
            RewardRule::CosineLength(settings) => Box::new(settings.over(Self::accuracy(all, doors)?)),
            RewardRule::AdaptiveLength(NoSettings {}) => {
                Box::new(AdaptiveLength { accuracy: Self::accuracy(all, doors)? })
            }
            RewardRule::Custom(CustomSettings { part, settings }) => {
                let make = brought(&doors.rewards, "reward", part.as_ref().unwrap_or(&self.name));
                let make = make.map_err(|fault| if part.is_some() { fault.under("part") } else { fault })?;
                make(settings.clone()).map_err(|error| Fault::at("settings", error.to_string()))?
            }
            RewardRule::Judge(settings) if settings.checkpoint.is_none() => {
                Box::new(Judge::at_endpoint(settings.clone())?)
            }
            RewardRule::Learned(_) | RewardRule::Judge(_) => return Ok(None),
        }))
    }

    /// Refuses values that the rule cannot work with; `limits` are the most tokens of completions that it judges.
    fn check(&self, limits: &[(String, usize)]) -> Result<(), Fault> {
        let plain = |letter: char| letter.is_alphanumeric() || "_-.".contains(letter);
        if self.name.is_empty() || !self.name.chars().all(plain) {
            let expected = "expected letters, digits, `_`, `-` and `.`";
            return Err(Fault::at("name", format!("{expected}, got {:?}", self.name)));
        }
        if TAKEN.contains(&self.name.as_str()) || self.name.starts_with("pass@") {
            let reason = format!("expected another name, as {:?} is a number of every evaluation", self.name);
            return Err(Fault::at("name", reason));
        }
        match self.weight {
            Weight::Fixed(weight) if !weight.is_finite() => {
                return Err(Fault::at("weight", format!("expected a finite number, got {weight}")));
            }
            Weight::Schedule(schedule) => {
                schedule.check().map_err(|fault| Fault::from(fault).below("weight"))?
            }
            Weight::Fixed(_) | Weight::Gate => {}
        }
        let at_least_one = |key: &str, got: usize| match got {
            0 => Err(Fault::at(key, "expected at least 1, got 0")),
            _ => Ok(()),
        };
        let Some(rule) = self.rule.rule() else { return Ok(()) };
        match rule {
            RewardRule::NumericAnswer(rule) => rule.check().map_err(Fault::from),
            RewardRule::StepAccuracy(rule) => rule.check().map_err(Fault::from),
            RewardRule::Format(rule) => rule.check().map_err(Fault::from),
            RewardRule::Judge(settings) => settings.check().map_err(Fault::from),
            RewardRule::Learned(LearnedSettings { uncertainty_coef: coef, .. })
                if !(coef.is_finite() && *coef >= 0.0) =>
            {
                let expected = "expected a finite number of at least 0";
                Err(Fault::at("uncertainty_coef", format!("{expected}, got {coef}")))
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
                match fields.into_iter().find(|(_, value)| !value.is_finite()) {
                    Some((key, got)) => Err(Fault::at(key, format!("expected a finite number, got {got}"))),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

/// What evaluations and logs call numbers of their own.
const TAKEN: [&str; 5] = ["total", "length", "truncated_share", "turns", "ungraded_share"];

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
    if rewards.iter().all(|reward| reward.weight == Weight::Gate) {
        return Err(Fault::at("reward", "expected at least one that is no gate: a gate lets others through"));
    }
    for (index, reward) in rewards.iter().enumerate() {
        reward.check(limits).map_err(|fault| fault.below(&index.to_string()).below("reward"))?;
    }
    Ok(())
}

/// Refuses rewards that read turns where there are none, or single turns where there are several.
pub(crate) fn check_turns(rewards: &[RewardConfig], has_environment: bool) -> Result<(), Fault> {
    let reason = |reward: &RewardConfig| match (reward.rule.kind(), has_environment) {
        ("environment", false) => {
            Some("it adds up what an [environment] gives for turns, expected one, got none")
        }
        ("judge", true) => Some("a judge reads completions of one turn, expected no [environment] beside it"),
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

/// Refuses rewards that compare the completions of a row where one is drawn alone: in an evaluation, or as a baseline.
pub(crate) fn check_opponents(
    rewards: &[RewardConfig],
    (samples, has_baseline): (usize, bool),
) -> Result<(), Fault> {
    let compares = |reward: &RewardConfig| match reward.rule.rule() {
        Some(RewardRule::Judge(settings)) => settings.mode == JudgeMode::Pairwise,
        _ => false,
    };
    let reason = match (samples, has_baseline) {
        (0 | 1, _) => "it compares the completions of a row, expected eval.samples of at least 2, got 1",
        (_, true) => {
            "it compares the completions of a row, expected an algorithm without a greedy baseline, got one"
        }
        _ => return Ok(()),
    };
    match rewards.iter().position(compares) {
        Some(index) => Err(Fault::at("mode", reason).below(&index.to_string()).below("reward")),
        None => Ok(()),
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
            let own = rule.as_ref().map_or_else(|| vec![reward.name.as_str()], |rule| rule.part_names());
            if let Some(part) = own.into_iter().find(|part| !parts.insert(part.to_owned())) {
                let reason = format!("two rewards report a part called {part:?}; {OWN_NAME}");
                return Err(Fault::at("name", reason).below(&index.to_string()).below("reward"));
            }
        }
        let follows = |(reward, _): &(RewardConfig, Option<_>)| {
            matches!(reward.weight, Weight::Schedule(WeightSchedule { by: ScheduleBy::Accuracy, .. }))
        };
        if let Some(index) = made.iter().position(follows).filter(|_| !parts.contains("accuracy")) {
            let reason =
                "expected a reward that reports `accuracy` beside it (its weight may be 0), got none";
            return Err(Fault::at("by", reason).below("weight").below(&index.to_string()).below("reward"));
        }
        Ok(Self { made })
    }

    /// The sum of those that are rules of Kyoka's own; `None` where there is none, or nothing but gates.
    pub fn quick_sum(&self, doors: &Doors) -> Option<WeightedSum> {
        let quick = self.made.iter().filter(|(reward, _)| reward.is_quick());
        let quick: Vec<RewardConfig> = quick.map(|(reward, _)| reward.clone()).collect();
        let all = quick.iter().all(|reward| reward.weight == Weight::Gate);
        let rules = if all { return None } else { Self::make(&quick, doors).ok()?.steady().made };
        let rules: Option<Vec<_>> =
            rules.into_iter().map(|(reward, rule)| Some((reward.weight, rule?))).collect();
        Some(WeightedSum::new(rules?))
    }

    /// Whether one of them is handed a row as it stands, with columns that Kyoka does not know.
    pub fn hand_rows_on(&self) -> bool {
        self.made.iter().any(|(reward, _)| matches!(reward.rule.kind(), "program" | "http" | "custom"))
    }

    /// Why a row can never be judged, if it cannot; reward models take every row.
    pub fn unfit(&self, sample: &Sample) -> Option<UnfitRow> {
        self.made.iter().find_map(|(reward, rule)| match (rule, &reward.rule) {
            (Some(rule), _) => rule.check_sample(sample).err(),
            // One that is opened later.
            (None, RewardKind::Rule(RewardRule::Judge(settings))) => settings.check_sample(sample).err(),
            (None, _) => None,
        })
    }

    /// The same rewards with weights that do not move, each at its greater end: to look at what they are worth at all.
    pub fn steady(mut self) -> Self {
        for (reward, _) in &mut self.made {
            if let Weight::Schedule(WeightSchedule { from, to, .. }) = reward.weight {
                reward.weight = Weight::Fixed(if from.abs() > to.abs() { from } else { to });
            }
        }
        self
    }

    /// Their weighted sum.
    ///
    /// # Errors
    /// If a reward model cannot be loaded.
    pub fn sum(self, device: &Device) -> Result<WeightedSum, Error> {
        let rule = |(reward, rule): (RewardConfig, Option<Box<dyn RewardFn>>)| {
            let rule = match (rule, &reward.rule) {
                (Some(rule), _) => rule,
                (
                    None,
                    RewardKind::Rule(RewardRule::Learned(LearnedSettings { model, uncertainty_coef })),
                ) => {
                    let model = LearnedReward::load(model, device)?;
                    reward.named(Box::new(Learned::new(Box::new(model), *uncertainty_coef)))
                }
                (None, RewardKind::Rule(RewardRule::Judge(settings))) => {
                    let folder = settings.checkpoint.as_deref().unwrap_or(Path::new(""));
                    // One question at a time: what computes here does so on all cores.
                    let settings = JudgeSettings { concurrency: 1, ..settings.clone() };
                    let judge = Judge::new(Box::new(LocalModel::open(folder, device)?), settings);
                    let judge = judge.map_err(|fault| Error::argument("reward", fault));
                    reward.named(Box::new(judge?))
                }
                (None, rule) => unreachable!("{}: only a reward model has to be loaded", rule.kind()),
            };
            Ok((reward.weight, rule))
        };
        Ok(WeightedSum::new(self.made.into_iter().map(rule).collect::<Result<_, Error>>()?))
    }
}
