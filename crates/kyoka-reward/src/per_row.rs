//! The rule that a row names itself.

use std::collections::BTreeMap;

use kyoka_core::{
    Completion, Reward, RewardContext, RewardError, RewardFn, Sample, SettingsFault, UnfitRow, nearest,
    read_settings,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use toml::Table;

use crate::RULES;

/// Judges a row by the rule that its column `reward` names: for datasets of several kinds of questions. The part is called
/// `per_row`.
///
/// The names are those of `rules`, and the kinds of rules that need no settings. Rewards that ask other programs are none of them.
pub struct PerRow {
    rules: BTreeMap<String, Box<dyn RewardFn>>,
}

/// Settings of [`PerRow`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PerRowSettings {
    /// Rules by the names that rows call them: a table of a `kind` and its settings each. Default empty.
    pub rules: BTreeMap<String, Table>,
}

/// Kinds that are no rules of a row.
const OTHERS: [&str; 4] = ["per_row", "program", "http", "environment"];

/// The column of a row that names its rule.
const REWARD: &str = "reward";

impl PerRow {
    /// Makes the rules.
    ///
    /// # Errors
    /// If a kind is unknown, or a rule refuses its settings.
    pub fn read(settings: Table) -> Result<Self, SettingsFault> {
        let PerRowSettings { rules } = read_settings(toml::Value::Table(settings))?;
        let mut made: BTreeMap<String, Box<dyn RewardFn>> = BTreeMap::new();
        for (kind, make) in RULES.iter().filter(|(kind, _)| !OTHERS.contains(kind)) {
            // A rule that needs settings can be named where it has them.
            if let Ok(rule) = make(Table::new()) {
                made.insert((*kind).to_owned(), rule);
            }
        }
        for (name, mut settings) in rules {
            let fault = |mut fault: SettingsFault| {
                fault.path.splice(0..0, ["rules".to_owned(), name.clone()]);
                fault
            };
            let kind = match settings.remove("kind") {
                Some(toml::Value::String(kind)) => kind,
                Some(other) => {
                    return Err(fault(SettingsFault::at("kind", format!("expected a text, got {other}"))));
                }
                None => return Err(fault(SettingsFault::at("kind", "missing"))),
            };
            let kinds = || RULES.iter().map(|(kind, _)| *kind).filter(|kind| !OTHERS.contains(kind));
            let Some((_, make)) = RULES.iter().find(|(known, _)| *known == kind && !OTHERS.contains(known))
            else {
                let near = nearest(&kind, kinds())
                    .map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
                let known = kinds().collect::<Vec<_>>().join(", ");
                return Err(fault(SettingsFault::at(
                    "kind",
                    format!("expected one of {known}, got {kind:?}{near}"),
                )));
            };
            made.insert(name.clone(), make(settings).map_err(fault)?);
        }
        Ok(Self { rules: made })
    }

    fn rule(&self, sample: &Sample) -> Result<&dyn RewardFn, UnfitRow> {
        let unfit = |reason| UnfitRow { field: REWARD, reason };
        match sample.extra.get(REWARD) {
            Some(Value::String(name)) => match self.rules.get(name) {
                Some(rule) => Ok(rule),
                None => {
                    let known = self.rules.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                    Err(unfit(format!("expected a rule ({known}), got {name:?}")))
                }
            },
            Some(other) => Err(unfit(format!("expected the name of a rule, got {other}"))),
            None => Err(unfit("missing, which the reward per_row needs".to_owned())),
        }
    }
}

impl RewardFn for PerRow {
    fn name(&self) -> &str {
        "per_row"
    }

    fn check_sample(&self, sample: &Sample) -> Result<(), UnfitRow> {
        self.rule(sample)?.check_sample(sample)
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let missing = |_| RewardError::MissingField {
            reward: self.name().to_owned(),
            id: context.sample.id.clone(),
            field: REWARD,
        };
        let reward = self.rule(context.sample).map_err(missing)?.score(context, completion)?;
        let parts = reward.total.map(|total| (self.name().to_owned(), total));
        Ok(Reward { parts: parts.into_iter().collect(), ..reward })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sections::tests_support::{completion, sample};

    fn row(answer: &str, rule: Option<Value>) -> Sample {
        Sample {
            extra: rule.map(|rule| (REWARD.to_owned(), rule)).into_iter().collect(),
            ..sample(Some(answer), &[])
        }
    }

    fn made(settings: &str) -> Result<PerRow, String> {
        PerRow::read(settings.parse().unwrap()).map_err(|fault| fault.to_string())
    }

    #[test]
    fn every_row_is_judged_by_its_own_rule() {
        let rule = made("rules.near = { kind = 'numeric_answer', relative_tolerance = 0.1 }").unwrap();
        let total = |answer: &str, name: &str, said: &str| {
            let row = row(answer, Some(name.into()));
            rule.check_sample(&row).unwrap();
            let reward = rule
                .score(&RewardContext::of(&row), &completion(&format!("<answer>{said}</answer>")))
                .unwrap();
            assert_eq!(reward.part("per_row"), reward.total);
            reward.total
        };
        assert_eq!(
            (total("100", "near", "105"), total("100", "numeric_answer", "105")),
            (Some(1.0), Some(0.0))
        );
        assert_eq!(
            (total("1/2", "math_answer", "0.5"), total("1/2", "exact_answer", "0.5")),
            (Some(1.0), Some(0.0))
        );
    }

    #[test]
    fn what_names_no_rule_is_refused() {
        let rule = made("").unwrap();
        let unfit = |name: Option<Value>| rule.check_sample(&row("2", name)).unwrap_err().to_string();
        assert_eq!(unfit(None), "reward: missing, which the reward per_row needs");
        assert!(unfit(Some("maths".into())).ends_with("got \"maths\""));
        assert_eq!(unfit(Some(5.into())), "reward: expected the name of a rule, got 5");
        let numbers = rule.check_sample(&row("two", Some("numeric_answer".into()))).unwrap_err().to_string();
        assert!(numbers.starts_with("answer: expected a number"), "the rule's own check: {numbers}");
        let refused = |settings: &str| made(settings).err().unwrap();
        assert!(refused("rules.a = { kind = 'exact_anser' }").ends_with("did you mean \"exact_answer\"?"));
        for other in OTHERS {
            let said = refused(&format!("rules.a = {{ kind = '{other}' }}"));
            assert!(said.starts_with("rules: a: kind: expected one of"), "{said}");
        }
        assert_eq!(refused("rules.a = {}"), "rules: a: kind: missing");
        assert!(
            refused("rules.a = { kind = 'box_match', threshold = 2 }").starts_with("rules: a: threshold: ")
        );
    }
}
