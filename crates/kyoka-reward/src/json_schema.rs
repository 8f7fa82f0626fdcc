//! Is the answer JSON of the form that is asked for?

use std::path::PathBuf;

use jsonschema::Validator;
use kyoka_core::{
    Completion, Reward, RewardContext, RewardError, RewardFn, Sample, SettingsFault, UnfitRow, read_settings,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use toml::Table;

use crate::{AnswerPlace, box_match::without_fence};

/// 1 if the answer is JSON that a JSON Schema (any draft) takes; else 0. A fence of ``` around it does not count. References to
/// other documents are refused: nothing is fetched.
///
/// The schema is the recipe's, in a file or a table, or the row's own: its column `schema`, which comes first.
#[derive(Debug)]
pub struct JsonSchema {
    settings: JsonSchemaSettings,
    schema: Option<Validator>,
}

/// Settings of [`JsonSchema`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JsonSchemaSettings {
    /// A file with the schema. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The schema itself; not beside `file`. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Table>,
    /// Where the answer stands. Default `tag`.
    pub answer: AnswerPlace,
}

/// The column of a row with a schema of its own.
const SCHEMA: &str = "schema";

fn compiled(schema: &Value) -> Result<Validator, String> {
    jsonschema::validator_for(schema).map_err(|error| format!("expected a JSON Schema: {error}"))
}

impl JsonSchema {
    /// Reads and compiles the schema.
    ///
    /// # Errors
    /// If the file cannot be read or the schema is none.
    pub fn read(settings: Table) -> Result<Self, SettingsFault> {
        let settings: JsonSchemaSettings = read_settings(toml::Value::Table(settings))?;
        let schema = match (&settings.file, &settings.schema) {
            (Some(_), Some(_)) => {
                return Err(SettingsFault::at("schema", "expected one of `file` and `schema`, got both"));
            }
            (Some(file), None) => {
                let fault =
                    |reason: String| SettingsFault::at("file", format!("{}: {reason}", file.display()));
                let text = std::fs::read_to_string(file).map_err(|error| fault(error.to_string()))?;
                let value: Value = serde_json::from_str(&text)
                    .map_err(|error| fault(format!("expected a JSON Schema: {error}")))?;
                Some(compiled(&value).map_err(fault)?)
            }
            (None, Some(schema)) => {
                let value = serde_json::to_value(schema)
                    .map_err(|error| SettingsFault::at("schema", error.to_string()))?;
                Some(compiled(&value).map_err(|reason| SettingsFault::at("schema", reason))?)
            }
            (None, None) => None,
        };
        Ok(Self { settings, schema })
    }
}

impl RewardFn for JsonSchema {
    fn name(&self) -> &str {
        "json_schema"
    }

    fn check_sample(&self, sample: &Sample) -> Result<(), UnfitRow> {
        let unfit = |reason| Err(UnfitRow { field: SCHEMA, reason });
        match (sample.extra.get(SCHEMA), &self.schema) {
            (Some(schema), _) => compiled(schema).map(drop).or_else(unfit),
            (None, Some(_)) => Ok(()),
            (None, None) => {
                unfit("missing, which the reward json_schema needs without `file` or `schema`".to_owned())
            }
        }
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let missing = || RewardError::MissingField {
            reward: self.name().to_owned(),
            id: context.sample.id.clone(),
            field: SCHEMA,
        };
        let own = match context.sample.extra.get(SCHEMA) {
            Some(schema) => Some(compiled(schema).map_err(|_| missing())?),
            None => None,
        };
        let schema = own.as_ref().or(self.schema.as_ref()).ok_or_else(missing)?;
        let json = self.settings.answer.find(completion).map(without_fence);
        let value = json.and_then(|text| serde_json::from_str::<Value>(text).ok());
        let valid = value.is_some_and(|value| schema.is_valid(&value));
        Ok(Reward::graded(self.name(), f32::from(valid)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sections::tests_support::{completion, sample};

    fn made(settings: &str) -> Result<JsonSchema, String> {
        JsonSchema::read(settings.parse().unwrap()).map_err(|fault| fault.to_string())
    }

    const VERDICT: &str = "schema = { type = 'object', required = ['verdict'], properties = { verdict = { enum = ['pass', 'reject'] } } }";

    #[test]
    fn answers_fit_the_recipes_schema_or_do_not() {
        let rule = made(VERDICT).unwrap();
        let total =
            |row: &Sample, text: &str| rule.score(&RewardContext::of(row), &completion(text)).unwrap().total;
        let row = sample(None, &[]);
        assert_eq!(rule.check_sample(&row), Ok(()));
        for (text, expected) in [
            ("<answer>{\"verdict\": \"pass\"}</answer>", 1.0),
            ("<answer>```json\n{\"verdict\": \"reject\", \"where\": [1, 2]}\n```</answer>", 1.0),
            ("<answer>{\"verdict\": \"perhaps\"}</answer>", 0.0),
            ("<answer>{\"verdict\": \"pass\"</answer>", 0.0),
            ("<answer>pass</answer>", 0.0),
            ("{\"verdict\": \"pass\"}", 0.0),
        ] {
            assert_eq!(total(&row, text), Some(expected), "{text}");
        }
        let own = Sample { extra: [("schema".to_owned(), json!({"type": "integer"}))].into(), ..row };
        assert_eq!(
            (total(&own, "<answer>5</answer>"), total(&own, "<answer>{\"verdict\": \"pass\"}</answer>")),
            (Some(1.0), Some(0.0))
        );
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        let missing = made("").unwrap().check_sample(&sample(None, &[])).unwrap_err().to_string();
        assert_eq!(missing, "schema: missing, which the reward json_schema needs without `file` or `schema`");
        assert!(made("schema = { type = 5 }").unwrap_err().starts_with("schema: expected a JSON Schema: "));
        assert!(made("file = 'nowhere.json'").unwrap_err().starts_with("file: nowhere.json: "));
        assert!(made(&format!("file = 'a.json'\n{VERDICT}")).unwrap_err().ends_with("got both"));
        let remote = made("schema = { '$ref' = 'https://example.com/schema.json' }").unwrap_err();
        assert!(remote.starts_with("schema: "), "nothing is fetched: {remote}");
        let row = Sample { extra: [("schema".to_owned(), json!({"type": 5}))].into(), ..sample(None, &[]) };
        assert!(made("").unwrap().check_sample(&row).is_err());
    }
}
