//! Checkpoints by their name on the Hugging Face hub.

use std::path::{Path, PathBuf};

use crate::Error;

/// The folder of a checkpoint: `model` itself where it is there, else the hub's snapshot of that name.
///
/// A name is `owner/name` where no folder `owner` is. Files come into the cache that Python's `huggingface_hub` uses
/// (`HF_HUB_CACHE`, `HF_HOME`), and only those that are not there yet; with `HF_HUB_OFFLINE=1` nothing is asked of the network.
/// `HF_TOKEN` and `HF_ENDPOINT` count too.
///
/// # Errors
/// If it is neither there nor fetched; without the feature `hub`, if a name is given.
pub fn checkpoint_folder(model: &Path) -> Result<PathBuf, Error> {
    match name_on_hub(model) {
        Some((owner, name)) if !Path::new(owner).is_dir() => {
            fetched((owner, name)).map_err(|reason| Error::file(model, reason))
        }
        _ => Ok(model.to_owned()),
    }
}

/// `owner/name`, as the hub writes it.
fn name_on_hub(model: &Path) -> Option<(&str, &str)> {
    let (owner, name) = model.to_str()?.split_once('/')?;
    let plain = |part: &str| {
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed)
    };
    (plain(owner) && plain(name)).then_some((owner, name))
}

/// The name of a model on the hub whose snapshot in the cache `folder` is: `models--OWNER--NAME/snapshots/COMMIT`.
pub(crate) fn name_of_snapshot(folder: &Path) -> Option<String> {
    let snapshots = folder.parent().filter(|parent| parent.ends_with("snapshots"))?;
    let name = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
    Some(name.replacen("--", "/", 1))
}

#[cfg(not(feature = "hub"))]
fn fetched(_: (&str, &str)) -> Result<PathBuf, String> {
    Err("no such folder (a name on the hub needs a build with --features hub)".to_owned())
}

#[cfg(feature = "hub")]
fn fetched((owner, name): (&str, &str)) -> Result<PathBuf, String> {
    /// Weights, configurations and tokenizers; not the other formats that repositories often hold too.
    const WANTED: [&str; 4] = ["*.safetensors", "*.json", "*.jinja", "merges.txt"];
    /// Other layouts of the same weights; `*` goes across folders.
    const NOT_WANTED: [&str; 2] = ["*/*", "consolidated*"];
    let truthy = |value: String| ["1", "on", "true", "yes"].contains(&value.to_ascii_lowercase().as_str());
    let offline = std::env::var("HF_HUB_OFFLINE").is_ok_and(truthy);
    let fail = |error: hf_hub::HFError| {
        let offline = if offline { " (HF_HUB_OFFLINE is set)" } else { "" };
        format!("no such folder, and not fetched from the hub{offline}: {error}")
    };
    let request = hf_hub::HFClientSync::new().map_err(fail)?.model(owner, name);
    let request = request.snapshot_download().allow_patterns(WANTED.map(str::to_owned).to_vec());
    let request = request.ignore_patterns(NOT_WANTED.map(str::to_owned).to_vec());
    let folder = request.local_files_only(offline).send().map_err(fail)?;
    // The cache may hold single files that another program asked for.
    let is_weights =
        |entry: std::fs::DirEntry| entry.path().extension().is_some_and(|end| end == "safetensors");
    let mut files = std::fs::read_dir(&folder).map_err(|error| error.to_string())?.flatten();
    match folder.join("config.json").is_file() && files.any(is_weights) {
        true => Ok(folder),
        false => Err(format!("{}: expected config.json and weights in safetensors", folder.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub_are_told_from_paths() {
        for (path, expected) in [
            ("HuggingFaceTB/SmolLM2-135M-Instruct", Some(("HuggingFaceTB", "SmolLM2-135M-Instruct"))),
            ("./model", None),
            ("./pretrained/model", None),
            ("../model", None),
            ("/srv/model", None),
            ("runs/a/b", None),
            ("model", None),
            ("owner/", None),
        ] {
            assert_eq!(name_on_hub(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn a_path_below_a_folder_that_is_there_is_no_name() {
        for path in ["src/run", "src/nothing"] {
            assert_eq!(checkpoint_folder(Path::new(path)).unwrap(), Path::new(path));
        }
    }

    #[test]
    fn a_snapshot_tells_its_name() {
        let name = |path: &str| name_of_snapshot(Path::new(path));
        assert_eq!(name("/c/hub/models--a--b-c/snapshots/0123"), Some("a/b-c".to_owned()));
        assert_eq!((name("/c/models--a--b/blobs/0123"), name("/models/a/b")), (None, None));
    }

    #[cfg(not(feature = "hub"))]
    #[test]
    fn without_the_feature_a_name_says_how_to_get_it() {
        let error = checkpoint_folder(Path::new("nobody/nothing")).unwrap_err().to_string();
        assert!(error.contains("nobody/nothing") && error.contains("--features hub"), "{error}");
    }
}
