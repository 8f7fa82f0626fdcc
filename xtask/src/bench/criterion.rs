//! All criterion benches; their medians are kept and compared with the run kept before.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{cargo, target_folder};

/// Medians in nanoseconds by bench.
type Medians = BTreeMap<String, f64>;

/// A change below this share is noise on most machines.
const MOVED: f64 = 0.05;

/// Runs all benches, prints every median and what moved, and keeps the run.
pub fn run_all(root: &Path) -> Result<()> {
    let target = target_folder(root)?;
    cargo(root, &["bench", "--package", "kyoka-benches", "--benches"])?;
    let medians = collect(&target.join("criterion"))?;
    let kept = target.join("kyoka-bench.json");
    let before: Medians =
        fs::read(&kept).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    for (name, &median) in &medians {
        println!("{name:<44} {:>12}{}", readable(median), moved(median, before.get(name).copied()));
    }
    fs::write(&kept, serde_json::to_vec_pretty(&medians)?).with_context(|| kept.display().to_string())?;
    println!("kept in {}", kept.display());
    Ok(())
}

fn moved(now: f64, before: Option<f64>) -> String {
    match before {
        None => "  (new)".to_owned(),
        Some(before) if (now / before - 1.0).abs() >= MOVED => {
            format!("  {:+.0} % since the last kept run", 100.0 * (now / before - 1.0))
        }
        Some(_) => String::new(),
    }
}

fn readable(nanoseconds: f64) -> String {
    match nanoseconds {
        n if n < 1e3 => format!("{n:.0} ns"),
        n if n < 1e6 => format!("{:.1} µs", n / 1e3),
        n if n < 1e9 => format!("{:.2} ms", n / 1e6),
        n => format!("{:.2} s", n / 1e9),
    }
}

/// Medians from criterion's folder: `<bench>/new/{benchmark,estimates}.json`.
fn collect(folder: &Path) -> Result<Medians> {
    let mut medians = Medians::new();
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())?.flatten() {
            let path = entry.path();
            if path.ends_with("new") {
                let read = |name: &str| -> Result<serde_json::Value> {
                    let path = path.join(name);
                    let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
                    Ok(serde_json::from_slice(&bytes)?)
                };
                let (about, estimates) = (read("benchmark.json")?, read("estimates.json")?);
                let name = about["full_id"].as_str().unwrap_or_default().to_owned();
                medians.insert(name, estimates["median"]["point_estimate"].as_f64().unwrap_or(f64::NAN));
            } else if path.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(medians)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moved_is_said() {
        assert_eq!(moved(110.0, Some(100.0)), "  +10 % since the last kept run");
        assert_eq!(moved(101.0, Some(100.0)), "");
        assert_eq!(moved(1.0, None), "  (new)");
        assert_eq!(readable(2_500_000.0), "2.50 ms");
    }

    #[test]
    fn medians_are_collected_from_criterions_folders() {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("a/b/new");
        fs::create_dir_all(&new).unwrap();
        fs::write(new.join("benchmark.json"), r#"{"full_id": "a/b"}"#).unwrap();
        fs::write(new.join("estimates.json"), r#"{"median": {"point_estimate": 12.5}}"#).unwrap();
        assert_eq!(collect(folder.path()).unwrap(), Medians::from([("a/b".to_owned(), 12.5)]));
    }
}
