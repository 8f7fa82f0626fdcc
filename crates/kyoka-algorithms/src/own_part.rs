//! Parts that are configured by settings of their own: those that a file here brings along, and those of other crates.

use std::{collections::BTreeMap, fmt, sync::Arc};

use kyoka_core::{AdvantageEstimator, Maker, PartError, PolicyLoss, SettingsFault};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned, de::Error as _};
use toml::{Table, Value};

use crate::{AlgorithmError, readers::snake_case};

/// Makes a part of another crate from the settings that a recipe gives it.
pub type PartDoor<T> = Arc<dyn Fn(Table) -> Result<Box<T>, PartError> + Send + Sync>;

/// Estimators and losses that other crates bring, by the name that recipes call them.
#[derive(Clone, Default)]
pub struct OwnParts {
    advantages: BTreeMap<String, PartDoor<dyn AdvantageEstimator>>,
    losses: BTreeMap<String, PartDoor<dyn PolicyLoss>>,
    foreign_sampler: bool,
}

impl fmt::Debug for OwnParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |names: Vec<&String>| format!("{names:?}");
        f.debug_struct("OwnParts")
            .field("advantages", &names(self.advantages.keys().collect()))
            .field("losses", &names(self.losses.keys().collect()))
            .finish()
    }
}

impl OwnParts {
    /// Adds an estimator: `advantage = { kind = "custom", name = "NAME", ... }`; `make` gets the other keys.
    pub fn add_advantage(&mut self, name: &str, make: PartDoor<dyn AdvantageEstimator>) {
        self.advantages.insert(name.to_owned(), make);
    }

    /// Adds a policy loss: `loss = { kind = "custom", name = "NAME", ... }`; `make` gets the other keys.
    pub fn add_loss(&mut self, name: &str, make: PartDoor<dyn PolicyLoss>) {
        self.losses.insert(name.to_owned(), make);
    }
}

/// A choice of a part: one whose settings are fields of the algorithm, or one with settings of its own.
///
/// Recipes write `"gae"` for the first and `{ kind = "mine", knob = 2 }` or `{ kind = "custom", name = "theirs", knob = 2 }`
/// for the others.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice<K> {
    /// By its kind alone.
    Kind(K),
    /// With settings of its own.
    Own(OwnPart),
}

/// A kind that is not one of the enum's, and its settings.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnPart {
    /// The kind: one of a file here, or `custom`.
    pub kind: String,
    /// Which custom one.
    pub name: Option<String>,
    /// The other keys.
    pub settings: Table,
}

/// The kind of what other crates bring.
const CUSTOM: &str = "custom";

impl OwnPart {
    /// What messages call it.
    pub(crate) fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.kind.clone())
    }

    /// Makes it: by one of the makers `known` here, or by one that another crate has brought.
    pub(crate) fn make<T: ?Sized>(
        &self,
        field: &'static str,
        known: &[(&str, Maker<T>)],
        brought: &BTreeMap<String, PartDoor<T>>,
    ) -> Result<Box<T>, AlgorithmError> {
        let refused = |reason: String| AlgorithmError::OwnPart { field: field.to_owned(), reason };
        if self.kind == CUSTOM {
            let name = self.name.as_deref().ok_or_else(|| refused("name: missing".to_owned()))?;
            let make = brought.get(name).ok_or_else(|| {
                let names: Vec<&str> = brought.keys().map(String::as_str).collect();
                let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                refused(format!("this program brings no {field} called {name:?} (it brings: {there})"))
            })?;
            return make(self.settings.clone()).map_err(|error| refused(format!("{name}: {error}")));
        }
        let (_, make) = known.iter().find(|(kind, _)| *kind == self.kind).ok_or_else(|| {
            let kinds: Vec<&str> = known.iter().map(|(kind, _)| *kind).chain([CUSTOM]).collect();
            refused(format!(
                "unknown kind {:?} with settings of its own (known: {})",
                self.kind,
                kinds.join(", ")
            ))
        })?;
        make(self.settings.clone()).map_err(|SettingsFault { path, reason }| {
            let field = [&[field.to_owned()], path.as_slice()].concat().join(".");
            AlgorithmError::OwnPart { field, reason }
        })
    }
}

impl<K: Copy> Choice<K> {
    /// The kind, if its settings are fields of the algorithm.
    pub fn kind(&self) -> Option<K> {
        match self {
            Self::Kind(kind) => Some(*kind),
            Self::Own(_) => None,
        }
    }
}

impl<K: fmt::Debug> Choice<K> {
    /// What messages call it.
    pub(crate) fn label(&self) -> String {
        match self {
            Self::Kind(kind) => format!("{kind:?}"),
            Self::Own(part) => part.label(),
        }
    }

    /// Its kind as recipes write it, or its own name.
    pub(crate) fn spelled(&self) -> String {
        match self {
            Self::Kind(kind) => snake_case(&format!("{kind:?}")),
            Self::Own(part) => part.label(),
        }
    }
}

impl<K> From<K> for Choice<K> {
    fn from(kind: K) -> Self {
        Self::Kind(kind)
    }
}

impl<K: Serialize> Serialize for Choice<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Kind(kind) => kind.serialize(serializer),
            Self::Own(OwnPart { kind, name, settings }) => {
                let mut table = Table::from_iter([("kind".to_owned(), kind.clone().into())]);
                table.extend(name.iter().map(|name| ("name".to_owned(), name.clone().into())));
                table.extend(settings.clone());
                table.serialize(serializer)
            }
        }
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Choice<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = |value: Option<Value>, key: &str| match value {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(D::Error::custom(format!("{key}: expected a text, got {other}"))),
        };
        match Value::deserialize(deserializer)? {
            Value::Table(mut settings) => {
                let kind = text(settings.remove("kind"), "kind")?;
                let kind = kind.ok_or_else(|| D::Error::custom("kind: missing"))?;
                // A kind without settings of its own may be written as a table too.
                if settings.is_empty()
                    && let Ok(kind) = K::deserialize(Value::String(kind.clone()))
                {
                    return Ok(Self::Kind(kind));
                }
                let name = if kind == CUSTOM { text(settings.remove("name"), "name")? } else { None };
                Ok(Self::Own(OwnPart { kind, name, settings }))
            }
            value => K::deserialize(value).map(Self::Kind).map_err(|error| D::Error::custom(error.message())),
        }
    }
}

impl OwnParts {
    /// Says whether completions are drawn by an engine that may have other numbers, or older weights, than the trainer: ratios
    /// then differ from 1 before any update, and bounds of them count.
    pub fn with_foreign_sampler(mut self, foreign: bool) -> Self {
        self.foreign_sampler = foreign;
        self
    }

    pub(crate) fn has_foreign_sampler(&self) -> bool {
        self.foreign_sampler
    }

    pub(crate) fn advantages(&self) -> &BTreeMap<String, PartDoor<dyn AdvantageEstimator>> {
        &self.advantages
    }

    pub(crate) fn losses(&self) -> &BTreeMap<String, PartDoor<dyn PolicyLoss>> {
        &self.losses
    }
}

#[cfg(test)]
mod tests {
    use kyoka_core::{AdvantageError, Advantages, GroupRewards};

    use super::*;
    use crate::{AlgorithmOverrides, Credit};

    struct Scaled(f32);

    impl AdvantageEstimator for Scaled {
        fn min_group_size(&self) -> usize {
            1
        }

        fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
            let rows = groups.iter().flat_map(|group| group.totals.iter().zip(&group.lengths));
            let per_token = rows.map(|(total, &length)| vec![total * self.0; length]).collect();
            Ok(Advantages { per_token, ..Advantages::default() })
        }
    }

    fn brought() -> OwnParts {
        let mut parts = OwnParts::default();
        parts.add_advantage(
            "scaled",
            Arc::new(|settings| {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Settings {
                    scale: f32,
                }
                Ok(Box::new(Scaled(settings.try_into::<Settings>()?.scale)))
            }),
        );
        parts
    }

    fn read(text: &str) -> AlgorithmOverrides {
        toml::from_str(text).unwrap()
    }

    fn refused(text: &str) -> String {
        read(text).build_with(4, &brought()).err().unwrap().to_string()
    }

    #[test]
    fn a_kind_is_a_name_or_a_table_and_comes_back_as_it_was_written() {
        for (written, label) in [
            ("advantage = \"gae\"\n", "Gae"),
            ("[advantage]\nkind = \"grpo\"\nepsilon = 0.0001\n", "grpo"),
            ("[advantage]\nkind = \"custom\"\nname = \"scaled\"\nscale = 2.0\n", "scaled"),
        ] {
            let overrides = read(written);
            assert_eq!(overrides.advantage.as_ref().unwrap().label(), label);
            let again: AlgorithmOverrides = toml::from_str(&toml::to_string(&overrides).unwrap()).unwrap();
            assert_eq!(again, overrides);
        }
        assert_eq!(read("advantage = { kind = 'gae' }").advantage, Some(Credit::Gae.into()));
    }

    #[test]
    fn a_part_gets_its_settings() {
        let group = GroupRewards { totals: vec![1.0, 3.0], lengths: vec![1, 2], ..GroupRewards::default() };
        let credit = |text: &str| {
            let algorithm = read(text).build_with(2, &brought()).unwrap();
            algorithm.advantage.estimate(std::slice::from_ref(&group)).unwrap().per_token
        };
        let custom = credit("advantage = { kind = 'custom', name = 'scaled', scale = 2.0 }");
        assert_eq!(custom, [vec![2.0], vec![6.0, 6.0]]);
        // A deviation of 1, so that an epsilon of 1 halves the credit.
        let own = credit("advantage = { kind = 'grpo', epsilon = 1.0 }");
        let close = |a: f32, b: f32| (a - b).abs() < 0.1;
        assert!(close(own[0][0], -0.45) && own[1].len() == 2, "{own:?}");
    }

    #[test]
    fn what_is_not_there_or_not_right_is_named() {
        for (text, said) in [
            (
                "advantage = { kind = 'custom', name = 'mine' }",
                "algorithm.advantage: this program brings no advantage called \"mine\" (it brings: scaled)",
            ),
            ("advantage = { kind = 'custom' }", "algorithm.advantage: name: missing"),
            (
                "advantage = { kind = 'custom', name = 'scaled', scael = 2.0 }",
                "algorithm.advantage: scaled: unknown field `scael`",
            ),
            (
                "loss = { kind = 'custom', name = 'mine' }",
                "algorithm.loss: this program brings no loss called \"mine\" (it brings: none)",
            ),
            (
                "advantage = { kind = 'grpo', epsilon = -1.0 }",
                "algorithm.advantage.epsilon: expected a finite number of at least 0, got -1",
            ),
            (
                "advantage = { kind = 'gae', epsilon = 1.0 }",
                "algorithm.advantage: unknown kind \"gae\" with settings of its own (known: ",
            ),
            (
                "loss = { kind = 'cispo', ratio_max = 0.5 }",
                "algorithm.loss.ratio_max: expected a number of at least 1, got 0.5",
            ),
            (
                "advantage = { kind = 'grpo', epsilon = 0.1 }\nlambda = 0.9",
                "algorithm.lambda: expected advantage = \"gae\" or \"decoupled_gae\", which reads it, or no lambda; got \
                 advantage = \"grpo\"",
            ),
        ] {
            let got = refused(text);
            assert!(got.starts_with(said), "{got}");
        }
    }
}
