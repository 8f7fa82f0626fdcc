//! Reading recipes: where each value stands, and faults that name key, place, what was expected and what stands there.

use std::collections::BTreeMap;

use kyoka_core::{SettingsFault, nearest, read_settings};
use serde::de::DeserializeOwned;
use toml::{
    Spanned, Table, Value,
    de::{DeTable, DeValue},
};

use crate::stages::STAGE;

/// What is wrong with a value, and the value's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Keys from the table that was read down to the value; empty for the table itself.
    path: Vec<String>,
    reason: String,
}

impl Fault {
    /// A fault of the value at `path`, keys with dots between them.
    pub fn at(path: &str, reason: impl Into<String>) -> Self {
        Self { path: path.split('.').map(str::to_owned).collect(), reason: reason.into() }
    }

    /// A fault of the table that is read.
    pub fn here(reason: impl Into<String>) -> Self {
        Self { path: Vec::new(), reason: reason.into() }
    }

    /// A kind that no part has.
    pub fn unknown_kind(kind: &str, known: &[&str]) -> Self {
        let hint = nearest(kind, known.iter().copied()).map(|near| format!("; did you mean `{near}`?"));
        let reason =
            format!("unknown kind `{kind}` (known: {}){}", known.join(", "), hint.unwrap_or_default());
        Self::at("kind", reason)
    }

    /// Reads a value as what it should be.
    ///
    /// # Errors
    /// Says where in it the first value stands that is none of that.
    pub fn reading<T: DeserializeOwned>(value: Value) -> Result<T, Self> {
        read_settings(value).map_err(Self::from)
    }

    /// The same fault under another key of the same table.
    pub fn under(mut self, key: &str) -> Self {
        self.path = vec![key.to_owned()];
        self
    }

    /// The same fault, seen from the table that holds the one that was read under `key`.
    pub fn below(mut self, key: &str) -> Self {
        self.path.insert(0, key.to_owned());
        self
    }

    /// As a sentence, with the place where the value was written.
    pub fn message(&self, places: &Places) -> String {
        let path = self.path.join(".");
        match (places.of(&self.path), path.is_empty()) {
            (_, true) => self.reason.clone(),
            (Some(place), false) => format!("{place}: {path}: {}", self.reason),
            (None, false) => format!("{path}: {}", self.reason),
        }
    }
}

impl From<SettingsFault> for Fault {
    fn from(SettingsFault { path, reason }: SettingsFault) -> Self {
        Self { path, reason }
    }
}

/// Where the values of a recipe were written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places {
    written: BTreeMap<Vec<String>, String>,
    /// Names of stages, and where in the list each stands.
    stages: Vec<String>,
}

impl Places {
    /// The place of a value, or of the nearest table around it.
    fn of(&self, path: &[String]) -> Option<&str> {
        let path = in_list(path, &self.stages);
        (1..=path.len()).rev().find_map(|length| self.written.get(&path[..length])).map(String::as_str)
    }

    /// Notes that a value, and everything below it, was written at `place`.
    pub fn write(&mut self, path: &[String], place: String) {
        self.written.retain(|other, _| !other.starts_with(path));
        self.written.insert(path.to_vec(), place);
    }
}

/// The names of the stages in a recipe's list, if it has one.
fn stage_names(table: &Table) -> Vec<String> {
    let stages = table.get(STAGE).and_then(Value::as_array).into_iter().flatten();
    stages.map(|stage| name_of(stage).unwrap_or_default().to_owned()).collect()
}

/// A path that begins with the name of a stage of the list, with the stage's place in its stead.
fn in_list(path: &[String], stages: &[String]) -> Vec<String> {
    let place = path.first().and_then(|name| stages.iter().position(|stage| stage == name));
    match place {
        Some(place) => {
            let head = [STAGE.to_owned(), place.to_string()];
            head.into_iter().chain(path[1..].iter().cloned()).collect()
        }
        None => path.to_vec(),
    }
}

/// Whether a table holds a dotted key.
pub(crate) fn holds(table: &Table, key: &str) -> bool {
    let path: Vec<String> = key.split('.').map(str::to_owned).collect();
    let mut keys = in_list(&path, &stage_names(table)).into_iter();
    let first = keys.next().and_then(|key| table.get(&key));
    keys.try_fold(first, |value, key| match value {
        Some(Value::Array(elements)) => Some(elements.get(key.parse::<usize>().ok()?)),
        value => Some(value?.get(&key)),
    })
    .flatten()
    .is_some()
}

/// Parses a recipe, with the line of every value.
///
/// # Errors
/// The parser's own message, which shows the line.
pub(crate) fn parse(text: &str) -> Result<(Table, Places), toml::de::Error> {
    let spanned = DeTable::parse(text)?;
    let mut places = Places::default();
    let line = |offset: usize| format!("line {}", 1 + text[..offset].matches('\n').count());
    note_table(spanned.get_ref(), &mut Vec::new(), &mut |path, offset| {
        places.written.insert(path.to_vec(), line(offset));
    });
    let table = text.parse()?;
    places.stages = stage_names(&table);
    Ok((table, places))
}

/// Tells the path and the offset of every value below a table.
fn note_table(table: &DeTable<'_>, path: &mut Vec<String>, note: &mut dyn FnMut(&[String], usize)) {
    for (key, value) in table {
        path.push(key.get_ref().to_string());
        note(path, key.span().start);
        note_value(value, path, note);
        path.pop();
    }
}

fn note_value(value: &Spanned<DeValue<'_>>, path: &mut Vec<String>, note: &mut dyn FnMut(&[String], usize)) {
    match value.get_ref() {
        DeValue::Table(table) => note_table(table, path, note),
        DeValue::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                path.push(index.to_string());
                note(path, value.span().start);
                note_value(value, path, note);
                path.pop();
            }
        }
        _ => {}
    }
}

/// The keys and the value of `a.b=5`; a value that is no TOML is taken as text.
///
/// # Errors
/// If there is no `=`.
pub(crate) fn assignment(text: &str) -> Result<(Vec<String>, Value), String> {
    let (path, value) = text.split_once('=').ok_or_else(|| format!("{text}: expected key=value"))?;
    let read = format!("v = {value}").parse::<Table>().ok().and_then(|mut table| table.remove("v"));
    let value = read.unwrap_or_else(|| Value::String(value.to_owned()));
    Ok((path.trim().split('.').map(str::to_owned).collect(), value))
}

/// Changes the value at `keys`. Elements of a list go by place or by name (`reward.format.weight`), those of the list of stages
/// by their name alone (`rl.steps`), and a preset that
/// stands there by its name alone becomes a table that can be changed.
///
/// # Errors
/// Says where the path ends.
pub(crate) fn assign(table: &mut Table, keys: &[String], value: Value) -> Result<Vec<String>, String> {
    let keys = in_list(keys, &stage_names(table));
    let (last, before) = keys.split_last().ok_or("expected a key, got none")?;
    let mut path: Vec<String> = Vec::new();
    let mut table = table;
    let mut rest = before;
    while let Some((key, further)) = rest.split_first() {
        let entry = table.entry(key.clone()).or_insert_with(|| Value::Table(Table::new()));
        path.push(key.clone());
        rest = further;
        if key == "algorithm" && entry.is_str() {
            *entry = Value::Table(Table::from_iter([("preset".to_owned(), entry.clone())]));
        }
        if let Value::Array(elements) = entry {
            let (element, further) = rest.split_first().ok_or_else(|| {
                format!(
                    "{} is a list: expected the place or the name of an element, got {last}",
                    path.join(".")
                )
            })?;
            let place = place_in(elements, element).ok_or_else(|| {
                let known: Vec<&str> = elements.iter().filter_map(name_of).collect();
                format!("{} has no {element} (there: {})", path.join("."), known.join(", "))
            })?;
            path.push(place.to_string());
            rest = further;
            table =
                elements[place].as_table_mut().ok_or_else(|| format!("{} is not a table", path.join(".")))?;
            continue;
        }
        table = entry.as_table_mut().ok_or_else(|| format!("{} is not a table", path.join(".")))?;
    }
    table.insert(last.clone(), value);
    path.push(last.clone());
    Ok(path)
}

/// What an element of a list is called: its name, else its kind.
fn name_of(element: &Value) -> Option<&str> {
    element.get("name").or_else(|| element.get("kind"))?.as_str()
}

fn place_in(elements: &[Value], element: &str) -> Option<usize> {
    let by_place = element.parse().ok().filter(|&place: &usize| place < elements.len());
    by_place.or_else(|| elements.iter().position(|other| name_of(other) == Some(element)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(path: &str) -> Vec<String> {
        path.split('.').map(str::to_owned).collect()
    }

    #[test]
    fn every_value_knows_its_line() {
        let (_, places) = parse("a = 1\n[b]\nc = { d = 2 }\n[[e]]\nf = 3\n[[e]]\nf = 4\n").unwrap();
        let of = |path: &str| places.of(&keys(path)).unwrap_or_default().to_owned();
        let got = ["a", "b.c.d", "e.0.f", "e.1.f", "e.1.g"].map(of);
        assert_eq!(got, ["line 1", "line 3", "line 5", "line 7", "line 6"]);
    }

    #[test]
    fn types_are_told_in_the_words_of_a_recipe() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Part {
            #[expect(dead_code, reason = "only read")]
            steps: usize,
        }
        let read = |text: &str| {
            let (table, places) = parse(text).unwrap();
            Fault::reading::<Part>(table.into()).unwrap_err().message(&places)
        };
        assert_eq!(
            read("\nsteps = \"5\""),
            "line 2: steps: expected a whole number of at least 0, got the text \"5\""
        );
        assert_eq!(read("steps = 5.5"), "line 1: steps: expected a whole number of at least 0, got 5.5");
        assert_eq!(read("steps = -1"), "line 1: steps: expected a whole number of at least 0, got -1");
        assert_eq!(read("steps = {}"), "line 1: steps: expected a whole number of at least 0, got a table");
        assert_eq!(read(""), "steps: missing");
        let unknown = read("steps = 1\nsetps = 2");
        assert!(
            unknown.starts_with("line 2: setps: unknown field") && unknown.ends_with("did you mean `steps`?"),
            "{unknown}"
        );
    }

    #[test]
    fn elements_go_by_place_or_name_and_presets_open_up() {
        let (mut table, _) =
            parse("[rl]\nalgorithm = \"grpo\"\n[[r]]\nkind = \"a\"\n[[r]]\nkind = \"a\"\nname = \"b\"\n")
                .unwrap();
        let mut set = |path: &str| assign(&mut table, &keys(path), 7.into());
        assert_eq!(set("rl.algorithm.x").unwrap(), keys("rl.algorithm.x"));
        assert_eq!(set("r.b.w").unwrap(), keys("r.1.w"));
        assert_eq!(set("r.0.w").unwrap(), keys("r.0.w"));
        assert_eq!(set("r.c.w").unwrap_err(), "r has no c (there: a, b)");
        assert!(set("r.b").unwrap_err().contains("is a list"));
        assert!(set("rl.algorithm.x.y").unwrap_err().contains("rl.algorithm.x is not a table"));
        let algorithm = &table["rl"]["algorithm"];
        assert_eq!((algorithm["preset"].as_str(), algorithm["x"].as_integer()), (Some("grpo"), Some(7)));
        assert_eq!((table["r"][1]["w"].as_integer(), table["r"][0]["w"].as_integer()), (Some(7), Some(7)));
    }
}
