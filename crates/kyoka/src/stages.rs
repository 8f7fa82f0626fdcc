//! The stages that a recipe has, in their order.

use kyoka_algorithms::OwnParts;
use kyoka_trainer::{
    JudgementKind, PreferenceStageConfig, RewardModelConfig, RlConfig, SettingError, SftConfig, StageKind,
    UnpairedStageConfig, Unread,
};
use serde::{Deserialize, Serialize, Serializer, ser::Error as _};
use toml::{Table, Value};

use crate::{kinds::kinds, reading::Fault};

/// One `[[stage]]` of a recipe: a kind with its own settings, and what every stage has.
#[derive(Debug, Clone, PartialEq)]
pub struct StageConfig {
    /// What the log, checkpoints and `--set NAME.steps=5` call it, unique in a recipe; the kind if it is not given.
    pub name: String,
    /// What its steps do.
    pub settings: StageSettings,
}

kinds! {
    /// What the steps of a stage do, with the settings of each kind.
    #[expect(clippy::large_enum_variant, reason = "a recipe has a handful of stages")]
    pub enum StageSettings {
        /// Supervised fine-tuning on worked completions.
        "sft" => Sft(SftConfig),
        /// Training on comparisons.
        "preference" => Preference(PreferenceStageConfig),
        /// Training on single completions that people took or did not take.
        "unpaired_preference" => UnpairedPreference(UnpairedStageConfig),
        /// Training of a reward model on what people have said.
        "reward_model" => RewardModel(RewardModelConfig),
        /// Reinforcement learning.
        "rl" => Rl(RlConfig),
    }
}

/// Tables of recipes that name no `[[stage]]`, in the order in which they run, and the kind of each.
const TABLES: [(&str, &str); 6] = [
    ("sft", "sft"),
    ("sft_continued", "sft"),
    ("preference", "preference"),
    ("unpaired_preference", "unpaired_preference"),
    ("reward_model", "reward_model"),
    ("rl", "rl"),
];

/// The key of the list.
pub(crate) const STAGE: &str = "stage";

impl Serialize for StageConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let kind = self.settings.kind();
        let mut table = Table::from_iter([("kind".to_owned(), kind.into())]);
        if self.name != kind {
            table.insert("name".to_owned(), self.name.clone().into());
        }
        table.extend(self.settings.to_table().map_err(S::Error::custom)?);
        table.serialize(serializer)
    }
}

impl StageConfig {
    /// Takes the stages out of a recipe's table: the list, or tables called as their kinds.
    pub(crate) fn take_all(table: &mut Table) -> Result<Vec<Self>, Fault> {
        let Some(list) = table.remove(STAGE) else {
            let tables = TABLES.iter().filter_map(|&(name, kind)| Some((name, kind, table.remove(name)?)));
            let tables: Vec<(&str, &str, Value)> = tables.collect();
            return tables.into_iter().map(|(name, kind, value)| Self::of_table(name, kind, value)).collect();
        };
        let list: Vec<Table> = Fault::reading(list).map_err(|fault| fault.below(STAGE))?;
        let read = |(index, table): (usize, Table)| {
            Self::read(table).map_err(|fault: Fault| fault.below(&index.to_string()).below(STAGE))
        };
        let stages = list.into_iter().enumerate().map(read).collect::<Result<Vec<Self>, Fault>>()?;
        for (index, stage) in stages.iter().enumerate() {
            if stages[..index].iter().any(|before| before.name == stage.name) {
                let reason =
                    format!("two stages are called {:?}; give one of them a `name` of its own", stage.name);
                return Err(Fault::at("name", reason).below(&index.to_string()).below(STAGE));
            }
        }
        if let Some((other, _)) = TABLES.iter().find(|(name, _)| table.contains_key(*name)) {
            let names: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
            let reason = format!(
                "expected the name of a [[stage]] (there: {}), or stages as tables alone, got both",
                names.join(", ")
            );
            return Err(Fault::at(other, reason));
        }
        Ok(stages)
    }

    fn of_table(name: &str, kind: &str, value: Value) -> Result<Self, Fault> {
        let table: Table = Fault::reading(value).map_err(|fault| fault.below(name))?;
        let settings = StageSettings::read(kind, table).map_err(|fault| fault.below(name))?;
        Ok(Self { name: name.to_owned(), settings })
    }

    fn read(mut table: Table) -> Result<Self, Fault> {
        #[derive(Deserialize)]
        struct Shared {
            kind: String,
            name: Option<String>,
        }
        let shared = ["kind", "name"].into_iter().filter_map(|key| table.remove_entry(key)).collect();
        let Shared { kind, name } = Fault::reading(Value::Table(shared))?;
        let settings = StageSettings::read(&kind, table)?;
        let name = name.unwrap_or(kind);
        let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let is_new = name.parse::<usize>().is_err() && !super::recipe::is_table(&name);
        if name.is_empty() || !name.chars().all(plain) || !is_new {
            let expected = "letters, digits and _ that are neither a number nor another table of a recipe";
            return Err(Fault::at("name", format!("expected {expected}, got {name:?}")));
        }
        Ok(Self { name, settings })
    }

    /// What its steps do.
    pub fn kind(&self) -> StageKind {
        match self.settings {
            StageSettings::Sft(_) => StageKind::Sft,
            StageSettings::Preference(_) => StageKind::Preference,
            StageSettings::UnpairedPreference(_) => StageKind::UnpairedPreference,
            StageSettings::RewardModel(_) => StageKind::RewardModel,
            StageSettings::Rl(_) => StageKind::Rl,
        }
    }

    /// Checks the ranges.
    pub(crate) fn check(&self, parts: &OwnParts) -> Result<(), SettingError> {
        match &self.settings {
            StageSettings::Sft(config) => config.check(&self.name),
            StageSettings::Preference(config) => config.check(&self.name),
            StageSettings::UnpairedPreference(config) => config.check(&self.name),
            StageSettings::RewardModel(config) => config.check(&self.name),
            StageSettings::Rl(config) => config.check(&self.name, parts),
        }
    }

    /// Settings that its parts do not read.
    pub(crate) fn unread(&self) -> Vec<Unread> {
        let rate = format!("{}.learning_rate", self.name);
        match &self.settings {
            StageSettings::Sft(config) => config.learning_rate.unread(&rate),
            StageSettings::Preference(config) => config.learning_rate.unread(&rate),
            StageSettings::UnpairedPreference(config) => config.learning_rate.unread(&rate),
            StageSettings::RewardModel(config) => config.unread(&self.name),
            StageSettings::Rl(config) => config.unread(&self.name),
        }
    }

    /// Its split, if that holds rows.
    pub(crate) fn rows(&self) -> Option<&str> {
        match &self.settings {
            StageSettings::Sft(SftConfig { data, .. })
            | StageSettings::UnpairedPreference(UnpairedStageConfig { data, .. })
            | StageSettings::Rl(RlConfig { data, .. }) => Some(data),
            StageSettings::RewardModel(RewardModelConfig { data, rows, .. }) => {
                (*rows != JudgementKind::Pairs).then_some(data.as_str())
            }
            StageSettings::Preference(_) => None,
        }
    }

    /// Its split, if that holds comparisons.
    pub(crate) fn pairs(&self) -> Option<&str> {
        match &self.settings {
            StageSettings::Preference(PreferenceStageConfig { data, .. }) => Some(data),
            StageSettings::RewardModel(RewardModelConfig { data, rows: JudgementKind::Pairs, .. }) => {
                Some(data)
            }
            _ => None,
        }
    }

    /// A split of judgements that it does not learn from, and what its rows say.
    pub(crate) fn held_out(&self) -> Option<(&str, JudgementKind)> {
        match &self.settings {
            StageSettings::RewardModel(config) => Some((config.held_out.as_deref()?, config.rows)),
            _ => None,
        }
    }

    /// What each row must say, beside its completion; `None` where nothing.
    pub(crate) fn judgement(&self) -> Option<JudgementKind> {
        match &self.settings {
            StageSettings::UnpairedPreference(_) => Some(JudgementKind::Labels),
            StageSettings::RewardModel(config) => {
                Some(config.rows).filter(|rows| *rows != JudgementKind::Pairs)
            }
            _ => None,
        }
    }

    /// Rows, prompts or pairs that it draws, and whether their media are changed each time.
    pub(crate) fn draws(&self) -> (usize, bool) {
        match &self.settings {
            StageSettings::Sft(config) => (config.steps * config.batch_size, config.augment),
            StageSettings::Preference(config) => (config.steps * config.batch_size, false),
            StageSettings::UnpairedPreference(config) => (config.steps * config.batch_size, false),
            StageSettings::RewardModel(config) => (config.steps * config.batch_size, false),
            StageSettings::Rl(config) => (config.total_steps() * config.prompts_per_step, config.augment),
        }
    }

    /// Most tokens of a micro-batch.
    pub(crate) fn token_budget(&self) -> usize {
        match &self.settings {
            StageSettings::Sft(config) => config.tokens_per_micro_batch,
            StageSettings::Preference(config) => config.tokens_per_micro_batch,
            StageSettings::UnpairedPreference(config) => config.tokens_per_micro_batch,
            StageSettings::RewardModel(config) => config.tokens_per_micro_batch,
            StageSettings::Rl(config) => config.tokens_per_micro_batch,
        }
    }

    /// As a stage of reinforcement learning.
    pub(crate) fn rl(&self) -> Option<&RlConfig> {
        match &self.settings {
            StageSettings::Rl(config) => Some(config),
            _ => None,
        }
    }

    /// As a supervised stage.
    pub(crate) fn sft(&self) -> Option<&SftConfig> {
        match &self.settings {
            StageSettings::Sft(config) => Some(config),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recipe;

    const SFT: &str = "data = 'a'\nsteps = 1\nbatch_size = 1\nlearning_rate = { peak = 1e-3 }\n";

    fn recipe(stages: &str) -> Result<Recipe, String> {
        let rest =
            "[data]\ndataset = 'd'\n[model]\nconfig = 'tiny'\n[eval]\nsplits = ['a']\nmax_new_tokens = 4\n";
        Recipe::parse("test", &format!("{rest}{stages}")).map_err(|error| error.to_string())
    }

    fn stages(text: &str) -> Result<Vec<StageConfig>, String> {
        Ok(recipe(text)?.settings().map_err(|error| error.to_string())?.stage)
    }

    #[test]
    fn a_list_of_stages_runs_in_its_order_and_tables_in_the_usual_one() {
        let names = |text: &str| -> Vec<String> {
            stages(text).unwrap().into_iter().map(|stage| stage.name).collect()
        };
        let list = format!("[[stage]]\nkind = 'sft'\nname = 'again'\n{SFT}[[stage]]\nkind = 'sft'\n{SFT}");
        assert_eq!(names(&list), ["again", "sft"]);
        let tables = format!("[sft_continued]\n{SFT}[sft]\n{SFT}");
        assert_eq!(names(&tables), ["sft", "sft_continued"]);
    }

    #[test]
    fn a_stage_is_changed_by_its_name_and_faults_know_their_line() {
        let list = format!("[[stage]]\nkind = 'sft'\nname = 'again'\n{SFT}");
        let mut recipe = recipe(&list).unwrap();
        recipe.set("again.steps=7").unwrap();
        assert_eq!(recipe.settings().unwrap().stage[0].sft().unwrap().steps, 7);
        recipe.set("again.batch_size=0").unwrap();
        let said = recipe.check().unwrap_err().to_string();
        assert!(said.contains("--set: again.batch_size: expected at least 1, got 0"), "{said}");
        let said = stages(&list.replace("batch_size = 1", "batch_size = 'x'")).unwrap_err();
        assert!(said.contains("line 13: stage.0.batch_size: expected a whole number"), "{said}");
        let said = recipe.set("sft.steps=7").unwrap_err().to_string();
        assert!(said.contains("sft: expected the name of a [[stage]] (there: again)"), "{said}");
    }

    #[test]
    fn names_are_unique_and_free() {
        let two = format!("[[stage]]\nkind = 'sft'\n{SFT}");
        assert!(stages(&two.repeat(2)).unwrap_err().contains("two stages are called \"sft\""));
        for name in ["", "a.b", "3", "model", "a b"] {
            let named = format!("[[stage]]\nkind = 'sft'\nname = '{name}'\n{SFT}");
            assert!(stages(&named).unwrap_err().contains("stage.0.name: expected letters"), "{name}");
        }
        assert!(stages("[[stage]]\nkind = 'sfft'\n").unwrap_err().contains("did you mean `sft`?"));
        let both = format!("{two}[rl]\n");
        assert!(stages(&both).unwrap_err().contains("got both"));
    }

    #[test]
    fn stages_survive_being_written_and_read() {
        let list = format!("[[stage]]\nkind = 'sft'\nname = 'again'\n{SFT}[[stage]]\nkind = 'sft'\n{SFT}");
        let settings = recipe(&list).unwrap().settings().unwrap();
        let again = Recipe::parse("again", &settings.to_toml()).unwrap().settings().unwrap();
        assert_eq!(settings, again);
    }
}
