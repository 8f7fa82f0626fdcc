//! Checkpoints by their name on the Hugging Face hub.

use std::path::{Path, PathBuf};

use crate::Error;

/// The folder of a checkpoint: `model` itself where it is there, else the hub's snapshot of that name.
///
/// Files come into the cache that Python's `huggingface_hub` uses (`HF_HUB_CACHE`, `HF_HOME`), and only those that are not
/// there yet; with `HF_HUB_OFFLINE=1` nothing is asked of the network, and where it cannot be reached the cache is taken. `HF_TOKEN` and `HF_ENDPOINT` count too.
///
/// # Errors
/// If it is neither there nor fetched; without the feature `hub`, if a name is given.
pub fn checkpoint_folder(model: &Path) -> Result<PathBuf, Error> {
    match name_on_hub(model) {
        Some(name) if !model.exists() => fetched(name).map_err(|reason| Error::file(model, reason)),
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

#[cfg(not(feature = "hub"))]
fn fetched(_: (&str, &str)) -> Result<PathBuf, String> {
    Err("no such folder; to fetch checkpoints by name, build with --features hub".to_owned())
}

#[cfg(feature = "hub")]
fn fetched((owner, name): (&str, &str)) -> Result<PathBuf, String> {
    /// Weights, configurations and tokenizers; not the other formats that repositories often hold too.
    const WANTED: [&str; 4] = ["*.safetensors", "*.json", "*.jinja", "merges.txt"];
    let offline = std::env::var("HF_HUB_OFFLINE")
        .is_ok_and(|value| ["1", "on", "true", "yes"].contains(&value.to_ascii_lowercase().as_str()));
    let fail = |error: hf_hub::HFError| {
        let offline = if offline { " (HF_HUB_OFFLINE is set)" } else { "" };
        format!("no such folder, and not fetched from the hub{offline}: {error}")
    };
    let repository = hf_hub::HFClientSync::new().map_err(fail)?.model(owner, name);
    let snapshot = |cached: bool| {
        let wanted = WANTED.map(str::to_owned).to_vec();
        repository.snapshot_download().allow_patterns(wanted).local_files_only(cached).send()
    };
    // Where the hub cannot be reached, what was fetched before is as good.
    snapshot(offline).or_else(|error| snapshot(true).map_err(|_| error)).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub_are_told_from_paths() {
        for (path, expected) in [
            ("HuggingFaceTB/SmolLM2-135M-Instruct", Some(("HuggingFaceTB", "SmolLM2-135M-Instruct"))),
            ("./model", None),
            ("../model", None),
            ("/root/model", None),
            ("runs/a/b", None),
            ("model", None),
            ("owner/", None),
        ] {
            assert_eq!(name_on_hub(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn a_folder_that_is_there_is_taken() {
        let folder = Path::new("src/run");
        assert_eq!(checkpoint_folder(folder).unwrap(), folder);
    }

    #[cfg(not(feature = "hub"))]
    #[test]
    fn without_the_feature_a_name_says_how_to_get_it() {
        let error = checkpoint_folder(Path::new("nobody/nothing")).unwrap_err().to_string();
        assert!(error.contains("nobody/nothing") && error.contains("--features hub"), "{error}");
    }
}
