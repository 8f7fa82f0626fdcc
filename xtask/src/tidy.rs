//! Structure rules: layers, file lengths, file names, documented algorithms.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, MetadataCommand};

/// Layer of every crate: a crate may depend on lower layers only.
const LAYERS: [(&str, u32); 15] = [
    ("kyoka-core", 0),
    ("kyoka-nn", 1),
    ("kyoka-text", 1),
    ("kyoka-data", 1),
    ("kyoka-testing", 1),
    ("kyoka-image", 2),
    ("kyoka-audio", 2),
    ("kyoka-fusion", 2),
    ("kyoka-rollout", 2),
    ("kyoka-reward", 2),
    ("kyoka-algorithms", 2),
    ("kyoka-environment", 3),
    ("kyoka-trainer", 3),
    ("kyoka", 4),
    ("kyoka-cli", 5),
];

/// Crates that may use less than their layer allows.
const ONLY: [(&str, &[&str]); 3] = [
    ("kyoka-rollout", &["kyoka-core"]),
    ("kyoka-algorithms", &["kyoka-core"]),
    ("kyoka-trainer", &["kyoka-core", "kyoka-algorithms", "kyoka-data"]),
];

/// Packages outside the layers: they may use anything, and nothing may use them.
const OUTSIDE: [&str; 2] = ["xtask", "kyoka-benches"];

/// Features that choose a Burn backend; no library crate turns one on by default.
const BACKENDS: [&str; 9] = ["flex", "wgpu", "cuda", "vulkan", "metal", "webgpu", "rocm", "ndarray", "tch"];

/// Longest file in lines, tests left out.
const MAX_LINES: usize = 600;

/// Names that say nothing.
const FORBIDDEN: [&str; 7] = ["utils", "util", "common", "base", "helpers", "helper", "misc"];

/// Checks all rules and prints every fault.
pub fn check(root: &Path) -> Result<()> {
    let mut faults = Vec::new();
    check_layers(root, &mut faults)?;
    for folder in ["crates", "xtask", "benches"] {
        for file in rust_files(&root.join(folder))? {
            check_file(root, &file, &mut faults)?;
        }
    }
    check_algorithms(root, &mut faults)?;
    check_formulas(root, &mut faults)?;
    if !faults.is_empty() {
        bail!("{} fault(s):\n  {}", faults.len(), faults.join("\n  "));
    }
    Ok(())
}

fn layer(name: &str) -> Option<u32> {
    LAYERS.iter().find(|(known, _)| *known == name).map(|&(_, layer)| layer)
}

fn check_layers(root: &Path, faults: &mut Vec<String>) -> Result<()> {
    let metadata = MetadataCommand::new().manifest_path(root.join("Cargo.toml")).no_deps().exec()?;
    for package in &metadata.packages {
        let name = package.name.as_str();
        if OUTSIDE.contains(&name) || name.starts_with("x-") {
            continue;
        }
        let Some(own) = layer(name) else {
            faults.push(format!("{name}: not in the table of layers"));
            continue;
        };
        for dependency in &package.dependencies {
            let used = dependency.name.as_str();
            if dependency.kind == DependencyKind::Normal && used == "burn" && own < 4 {
                let chosen = dependency.features.iter().find(|feature| BACKENDS.contains(&feature.as_str()));
                faults.extend(chosen.map(|feature| format!("{name} turns on Burn's backend {feature}")));
            }
            if OUTSIDE.contains(&used) || (used.starts_with("x-") && dependency.path.is_some()) {
                faults.push(format!("{name} depends on {used}, which nothing may use"));
            }
            let Some(other) = layer(used).filter(|_| used != name) else { continue };
            let testing = used == "kyoka-testing" && dependency.kind == DependencyKind::Development;
            if other >= own && !testing && dependency.kind == DependencyKind::Normal {
                faults.push(format!("{name} (layer {own}) depends on {used} (layer {other})"));
            }
            let only = ONLY.iter().find(|(restricted, _)| *restricted == name);
            if dependency.kind == DependencyKind::Normal
                && only.is_some_and(|(_, allowed)| !allowed.contains(&used))
            {
                faults.push(format!("{name} depends on {used}, which the table does not allow it"));
            }
        }
    }
    Ok(())
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

fn check_file(root: &Path, path: &Path, faults: &mut Vec<String>) -> Result<()> {
    let shown = path.strip_prefix(root).unwrap_or(path).display();
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let folder = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    if FORBIDDEN.contains(&stem.as_str()) || folder.is_some_and(|folder| FORBIDDEN.contains(&folder.as_str()))
    {
        faults.push(format!("{shown}: the name says nothing; name the file after its idea"));
    }
    let text = fs::read_to_string(path)?;
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
    let is_test = path.components().any(|part| part.as_os_str() == "tests");
    if lines > MAX_LINES && !is_test {
        faults.push(format!("{shown}: {lines} lines, at most {MAX_LINES} are allowed"));
    }
    Ok(())
}

/// Every file of an algorithm and every preset has a row in `docs/algorithms.md`.
fn check_algorithms(root: &Path, faults: &mut Vec<String>) -> Result<()> {
    let table = fs::read_to_string(root.join("docs/algorithms.md")).context("docs/algorithms.md")?;
    for folder in ["advantage", "policy_loss", "filter", "preference"] {
        for file in rust_files(&root.join("crates/kyoka-algorithms/src").join(folder))? {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if stem != "mod" && !table.contains(&format!("{folder}/{stem}.rs")) {
                faults.push(format!("docs/algorithms.md: no row names {folder}/{stem}.rs"));
            }
        }
    }
    let sources = [("algorithm.rs", "Preset"), ("preference/config.rs", "PreferencePreset")];
    for (file, name) in sources {
        let source = fs::read_to_string(root.join("crates/kyoka-algorithms/src").join(file))?;
        for preset in variants_of(&source, name) {
            if !table.contains(&format!("`{preset}`")) {
                faults.push(format!("docs/algorithms.md: no row names the preset `{preset}`"));
            }
        }
    }
    Ok(())
}

/// Every public function of the formulas is called by a library crate: what only tests or this program call is a second home
/// of a formula, or none.
fn check_formulas(root: &Path, faults: &mut Vec<String>) -> Result<()> {
    let algorithms = root.join("crates/kyoka-algorithms/src");
    let mut code = String::new();
    for entry in fs::read_dir(root.join("crates"))? {
        let folder = entry?.path();
        let is_fork = folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("x-"));
        if is_fork || !folder.join("src").is_dir() {
            continue;
        }
        for file in rust_files(&folder.join("src"))? {
            let text = fs::read_to_string(&file)?;
            code += text.split("#[cfg(test)]").next().unwrap_or_default();
        }
    }
    for file in rust_files(&algorithms)? {
        let text = fs::read_to_string(&file)?;
        let shown = file.strip_prefix(root).unwrap_or(&file).display();
        for name in public_functions(text.split("#[cfg(test)]").next().unwrap_or_default()) {
            if calls(&code, name) == 0 {
                faults.push(format!("{shown}: nothing but tests calls `{name}`: a formula has one home, and the trainer calls it"));
            }
        }
    }
    Ok(())
}

/// Names of the functions that begin with `pub fn` at the start of a line: free ones.
fn public_functions(source: &str) -> impl Iterator<Item = &str> {
    let rest = source.lines().filter_map(|line| line.strip_prefix("pub fn "));
    rest.filter_map(|rest| rest.split(['(', '<']).next())
}

/// How often a function is called: named before its arguments, other than where it is defined; in comments and `use` lines it
/// is only spoken of.
fn calls(code: &str, name: &str) -> usize {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    let in_line = |line: &str| {
        let places = line.match_indices(name).filter(|(at, _)| {
            let (before, after) = (&line[..*at], &line[at + name.len()..]);
            !before.ends_with("fn ")
                && !before.chars().next_back().is_some_and(is_part)
                && (after.starts_with('(') || after.starts_with("::<"))
        });
        places.count()
    };
    let code = code.lines().map(str::trim_start);
    code.filter(|line| !["//", "use ", "pub use "].iter().any(|start| line.starts_with(start)))
        .map(in_line)
        .sum()
}

/// Kinds or presets as recipes write them, from the variants of an enum.
pub fn variants_of(source: &str, name: &str) -> Vec<String> {
    let Some(start) = source.find(&format!("pub enum {name} {{")) else { return Vec::new() };
    let body = source[start..].split('}').next().unwrap_or_default();
    body.lines()
        .skip(1)
        .map(str::trim)
        .filter(|line| line.ends_with(',') && !line.starts_with("//"))
        .map(|line| snake_case(line.trim_end_matches(',')))
        .collect()
}

fn snake_case(name: &str) -> String {
    let mut out = String::new();
    for (place, letter) in name.char_indices() {
        if letter.is_uppercase() && place > 0 {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        check(root).unwrap();
    }

    #[test]
    fn presets_are_read_from_the_source() {
        let source = "pub enum Preset {\n    /// One.\n    Grpo,\n    /// Two.\n    DrGrpo,\n}\n";
        assert_eq!(variants_of(source, "Preset"), ["grpo", "dr_grpo"]);
    }

    #[test]
    fn a_formula_that_only_tests_call_is_a_fault() {
        let source =
            "pub fn used(x: f64) -> f64 { x }\n    pub fn method(&self) {}\npub fn lonely<T>(x: T) {}\n";
        assert_eq!(public_functions(source).collect::<Vec<_>>(), ["used", "lonely"]);
        let spoken = "use a::{lonely, used};\n// lonely(2)\n/// [`lonely()`]\nlet lonely: f64 = 1.0;\n";
        let code = format!("{source}{spoken}fn f() {{ used(1.0); unused(2.0); used::<f32>(1.0); }}\n");
        assert_eq!((calls(&code, "used"), calls(&code, "lonely")), (2, 0));
    }

    #[test]
    fn a_name_that_says_nothing_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("utils.rs");
        fs::write(&path, "x\n".repeat(MAX_LINES + 1)).unwrap();
        let mut faults = Vec::new();
        check_file(folder.path(), &path, &mut faults).unwrap();
        assert_eq!(faults.len(), 2, "{faults:?}");
    }
}
