//! A new algorithm or reward: its file with a test, its `mod` line and its place among the kinds, its row.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail, ensure};

use crate::tidy::variants_of;

/// What is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// A way to assign credit, in `kyoka-algorithms`
    Advantage,
    /// A per-token loss, in `kyoka-algorithms`
    PolicyLoss,
    /// A reward, in `kyoka-reward`
    Reward,
    /// A source of rows, in `kyoka-data`
    Source,
    /// A tool that the policy calls, in `kyoka-environment`
    Tool,
}

/// Where a part lives and what its file starts as.
struct Plan {
    /// Heading of its table in `docs/algorithms.md`; rewards say in their file what they are.
    heading: Option<&'static str>,
    /// The list of kinds that it is added to.
    kinds: &'static str,
    /// The file with the kinds that are none of the list, and the enum there; without one they stand as `"kind" =>`.
    known: &'static str,
    variants: Option<&'static str>,
    folder: &'static str,
    modules: &'static str,
    /// The path that the row names.
    shown: String,
    source: &'static str,
}

impl Part {
    fn plan(self, name: &str) -> Plan {
        match self {
            Self::Advantage => Plan {
                heading: Some("### Credit"),
                kinds: "OWN_ADVANTAGES",
                known: "crates/kyoka-algorithms/src/algorithm.rs",
                variants: Some("Credit"),
                folder: "crates/kyoka-algorithms/src/advantage",
                modules: "mod.rs",
                shown: format!("advantage/{name}.rs"),
                source: include_str!("new/advantage.rs.txt"),
            },
            Self::PolicyLoss => Plan {
                heading: Some("### Per-token loss"),
                kinds: "OWN_LOSSES",
                known: "crates/kyoka-algorithms/src/algorithm.rs",
                variants: Some("LossKind"),
                folder: "crates/kyoka-algorithms/src/policy_loss",
                modules: "mod.rs",
                shown: format!("policy_loss/{name}.rs"),
                source: include_str!("new/policy_loss.rs.txt"),
            },
            Self::Reward => Plan {
                heading: None,
                kinds: "RULES",
                known: "crates/kyoka/src/rewards.rs",
                variants: None,
                folder: "crates/kyoka-reward/src",
                modules: "lib.rs",
                shown: format!("kyoka-reward`: `{name}.rs"),
                source: include_str!("new/reward.rs.txt"),
            },
            Self::Source => Plan {
                heading: None,
                kinds: "SOURCES",
                known: "crates/kyoka-data/src/lib.rs",
                variants: None,
                folder: "crates/kyoka-data/src",
                modules: "lib.rs",
                shown: format!("kyoka-data`: `{name}.rs"),
                source: include_str!("new/source.rs.txt"),
            },
            Self::Tool => Plan {
                heading: None,
                kinds: "TOOLS",
                known: "crates/kyoka-environment/src/lib.rs",
                variants: None,
                folder: "crates/kyoka-environment/src",
                modules: "lib.rs",
                shown: format!("kyoka-environment`: `{name}.rs"),
                source: include_str!("new/tool.rs.txt"),
            },
        }
    }
}

impl Plan {
    /// How a recipe names what was made.
    fn in_recipe(&self, name: &str) -> String {
        match self.kinds {
            "OWN_ADVANTAGES" => format!("advantage = {{ kind = \"{name}\", scale = 1.0 }}"),
            "OWN_LOSSES" => format!("loss = {{ kind = \"{name}\", scale = 1.0 }}"),
            "TOOLS" => {
                format!("[environment] kind = \"tools\", tools = [{{ kind = \"{name}\", limit = 3 }}]")
            }
            "SOURCES" => format!("[data] source = {{ kind = \"{name}\", folder = \"...\" }}"),
            _ => format!("[[reward]] kind = \"{name}\", weight = 1.0"),
        }
    }
}

/// Makes `name` (snake_case) below `root`.
pub fn run(root: &Path, part: Part, name: &str) -> Result<()> {
    ensure!(
        name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'),
        "expected a name in snake_case, got {name:?}"
    );
    let plan = part.plan(name);
    let kinds = fs::read_to_string(root.join(plan.known)).with_context(|| plan.known.to_owned())?;
    ensure!(
        name != "custom" && !known_kinds(&kinds, plan.variants).any(|kind| kind == name),
        "recipes know {name:?} already: see {}",
        plan.known
    );
    let folder = root.join(plan.folder);
    let file = folder.join(format!("{name}.rs"));
    if file.exists() {
        bail!("{} is there already", file.display());
    }
    let modules = folder.join(plan.modules);
    let before = fs::read_to_string(&modules).with_context(|| modules.display().to_string())?;
    let after = with_module(&before, name, &camel_case(name))?;
    let after = with_kind(&after, plan.kinds, name, &camel_case(name))?;
    let docs = root.join("docs/algorithms.md");
    let table = match plan.heading {
        None => None,
        Some(heading) => {
            let table = fs::read_to_string(&docs).context("docs/algorithms.md")?;
            let row = format!("| {name} | its formula | its paper | `{}` | |", plan.shown);
            Some(with_row(&table, heading, &row)?)
        }
    };
    fs::write(&file, plan.source.replace("{name}", name).replace("{Name}", &camel_case(name)))?;
    fs::write(&modules, after)?;
    println!("made {}\nadded its `mod` line and its kind to {}", file.display(), modules.display());
    if let Some(table) = table {
        fs::write(&docs, table)?;
        println!("added its row to {}", docs.display());
    }
    println!("a recipe names it as {}", plan.in_recipe(name));
    Ok(())
}

/// Kinds that recipes know beside those of the list.
fn known_kinds<'a>(source: &'a str, variants: Option<&str>) -> Box<dyn Iterator<Item = String> + 'a> {
    match variants {
        Some(name) => Box::new(variants_of(source, name).into_iter()),
        None => {
            let arms = source.lines().filter_map(|line| line.trim().strip_prefix('"')?.split_once("\" => "));
            Box::new(arms.map(|(kind, _)| kind.to_owned()))
        }
    }
}

/// `mod` and `pub use` lines added to their lists, in order.
fn with_module(source: &str, name: &str, type_name: &str) -> Result<String> {
    let source = insert_sorted(source, "mod ", &format!("mod {name};"))?;
    insert_sorted(&source, "pub use ", &format!("pub use {name}::{type_name};"))
}

/// A line added to a list of kinds, in order.
fn with_kind(source: &str, kinds: &str, name: &str, type_name: &str) -> Result<String> {
    let new = format!("    (\"{name}\", |settings| Ok(Box::new(own::<{type_name}>(settings)?))),");
    let mut lines: Vec<&str> = source.lines().collect();
    let head = lines.iter().position(|line| line.contains(&format!("const {kinds}:")));
    let first = head.with_context(|| format!("no list {kinds}"))? + 1;
    let rest = lines[first..].iter().position(|line| *line == "];" || line > &new.as_str());
    let place = first + rest.with_context(|| format!("the list {kinds} has no end"))?;
    lines.insert(before_attributes(&lines, place), &new);
    Ok(lines.join("\n") + "\n")
}

/// Adds a line before the first line of the same start that sorts after it, or after the last of them.
fn insert_sorted(source: &str, start: &str, new: &str) -> Result<String> {
    let mut lines: Vec<&str> = source.lines().collect();
    // The module of the tests is none of the list.
    let listed = lines.iter().position(|line| *line == "#[cfg(test)]").unwrap_or(lines.len());
    let alike: Vec<usize> = (0..listed).filter(|&at| lines[at].starts_with(start)).collect();
    let last = *alike.last().with_context(|| format!("no line starts with {start:?}"))?;
    // A `pub use` may span several lines.
    let end = (last..lines.len()).find(|&at| lines[at].ends_with(';')).unwrap_or(last);
    let place = alike.into_iter().find(|&at| lines[at] > new);
    lines.insert(place.map_or(end + 1, |place| before_attributes(&lines, place)), new);
    Ok(lines.join("\n") + "\n")
}

/// Where a line begins with its attributes, so that none of them comes to stand before another line.
fn before_attributes(lines: &[&str], place: usize) -> usize {
    let attributes = lines[..place].iter().rev().take_while(|line| line.trim_start().starts_with("#["));
    place - attributes.count()
}

/// The row added at the end of the table below a heading.
fn with_row(text: &str, heading: &str, row: &str) -> Result<String> {
    let mut lines: Vec<&str> = text.lines().collect();
    let found = lines.iter().position(|line| *line == heading);
    let heading = found.with_context(|| format!("docs/algorithms.md: no heading {heading:?}"))?;
    let rest = &lines[heading + 1..];
    let length = rest.iter().position(|line| line.starts_with('#')).unwrap_or(rest.len());
    let last = rest[..length].iter().rposition(|line| line.starts_with('|')).context("no table of parts")?;
    lines.insert(heading + 2 + last, row);
    Ok(lines.join("\n") + "\n")
}

fn camel_case(name: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters
            .next()
            .map(|first| first.to_ascii_uppercase().to_string() + letters.as_str())
            .unwrap_or_default()
    };
    name.split('_').map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_stay_with_their_lines() {
        let source = "mod a;\n#[cfg(feature = \"j\")]\nmod j;\n#[cfg(feature = \"j\")]\npub use j::J;\nconst RULES: X = &[\n    \
            #[cfg(feature = \"j\")]\n    (\"j\", |settings| make(settings)),\n];\n";
        let with = with_module(source, "idea", "Idea")
            .and_then(|source| with_kind(&source, "RULES", "idea", "Idea"));
        let with = with.unwrap();
        for line in ["mod j;", "pub use j::J;", "    (\"j\", |settings| make(settings)),"] {
            let place = with.lines().position(|own| own == line).unwrap();
            assert!(with.lines().nth(place - 1).unwrap().trim_start().starts_with("#[cfg"), "{line}: {with}");
        }
    }

    fn workspace() -> tempfile::TempDir {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let copy = tempfile::tempdir().unwrap();
        for file in [
            "docs/algorithms.md",
            "crates/kyoka-algorithms/src/advantage/mod.rs",
            "crates/kyoka-algorithms/src/policy_loss/mod.rs",
            "crates/kyoka-reward/src/lib.rs",
            "crates/kyoka-algorithms/src/algorithm.rs",
            "crates/kyoka/src/rewards.rs",
            "crates/kyoka-data/src/lib.rs",
            "crates/kyoka-environment/src/lib.rs",
        ] {
            fs::create_dir_all(copy.path().join(file).parent().unwrap()).unwrap();
            fs::copy(root.join(file), copy.path().join(file)).unwrap();
        }
        copy
    }

    #[test]
    fn a_part_has_a_file_a_module_line_and_a_row() {
        let root = workspace();
        for part in [Part::Advantage, Part::PolicyLoss, Part::Reward, Part::Source, Part::Tool] {
            run(root.path(), part, "new_idea").unwrap();
            let plan = part.plan("new_idea");
            let folder = root.path().join(plan.folder);
            let source = fs::read_to_string(folder.join("new_idea.rs")).unwrap();
            assert!(source.contains("NewIdea") && !source.contains("{name}") && !source.contains("{Name}"));
            let modules = fs::read_to_string(folder.join(plan.modules)).unwrap();
            assert!(
                modules.contains("\nmod new_idea;\n") && modules.contains("\npub use new_idea::NewIdea;\n")
            );
            let kind = "    (\"new_idea\", |settings| Ok(Box::new(own::<NewIdea>(settings)?))),\n";
            assert!(modules.contains(kind), "{modules}");
            let table = fs::read_to_string(root.path().join("docs/algorithms.md")).unwrap();
            assert_eq!(table.contains(&format!("`{}`", plan.shown)), plan.heading.is_some());
            assert!(run(root.path(), part, "new_idea").is_err());
        }
    }

    #[test]
    fn a_kind_that_recipes_know_is_not_made_again() {
        let root = workspace();
        for (part, name) in [
            (Part::Advantage, "max_rl"),
            (Part::PolicyLoss, "dppo_tv"),
            (Part::Reward, "exact_answer"),
            (Part::Reward, "learned"),
            (Part::Advantage, "custom"),
        ] {
            let said = run(root.path(), part, name).unwrap_err().to_string();
            assert!(said.starts_with(&format!("recipes know {name:?} already")), "{said}");
        }
    }

    /// The files below a folder with what is in them.
    fn contents(folder: &Path) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
        let mut all = std::collections::BTreeMap::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                all.extend(contents(&path));
            } else {
                all.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
        all
    }

    #[test]
    fn an_estimator_or_a_loss_touches_three_files_and_a_reward_a_source_or_a_tool_two() {
        let three = [Part::Advantage, Part::PolicyLoss].map(|part| (part, 3));
        for (part, files) in
            three.into_iter().chain([Part::Reward, Part::Source, Part::Tool].map(|part| (part, 2)))
        {
            let root = workspace();
            let before = contents(root.path());
            run(root.path(), part, "new_idea").unwrap();
            let after = contents(root.path());
            let touched = after.iter().filter(|(path, bytes)| before.get(*path) != Some(bytes)).count();
            assert_eq!(touched, files, "{part:?}");
        }
    }

    #[test]
    fn names_are_snake_case() {
        let root = workspace();
        for name in ["", "NewIdea", "new-idea", "1st", "../escape"] {
            assert!(run(root.path(), Part::Advantage, name).is_err(), "{name}");
        }
    }

    #[test]
    fn the_last_name_of_all_stays_outside_the_tests() {
        let source = "mod b;\n\npub use b::B;\n\n#[cfg(test)]\nmod tests {\n    use super::*;\n}\n";
        let added = with_module(source, "zebra", "Zebra").unwrap();
        assert!(
            added.starts_with("mod b;\nmod zebra;\n\npub use b::B;\npub use zebra::Zebra;\n\n#[cfg(test)]")
        );
    }

    #[test]
    fn lines_are_added_in_order() {
        let source = "mod b;\nmod d;\n\npub use b::B;\npub use d::{\n    D,\n};\nrest\n";
        let added = with_module(source, "c", "C").unwrap();
        assert!(added.starts_with("mod b;\nmod c;\nmod d;\n\npub use b::B;\npub use c::C;\npub use d::{"));
        let added = with_module(source, "e", "E").unwrap();
        assert!(
            added.ends_with(
                "mod d;\nmod e;\n\npub use b::B;\npub use d::{\n    D,\n};\npub use e::E;\nrest\n"
            )
        );
    }
}
