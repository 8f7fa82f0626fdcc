//! What a folder that a user names as a model holds.

use std::path::{Path, PathBuf};

use kyoka_trainer::CheckpointStore;

use crate::{Error, pretrained::read_json};

/// The run's folder and the checkpoint meant by `folder`.
pub(crate) fn locate(folder: &Path) -> Result<(PathBuf, PathBuf), Error> {
    if folder.join("state.json").is_file() {
        let run = folder.parent().and_then(Path::parent).unwrap_or(Path::new("."));
        return Ok((run.to_owned(), folder.to_owned()));
    }
    let store = CheckpointStore::new(folder.join("checkpoints"), Default::default(), Vec::new());
    let latest =
        store.latest().ok_or_else(|| Error::file(folder, "holds neither a checkpoint nor a run with one"))?;
    Ok((folder.to_owned(), latest))
}

/// Whether a folder holds a Hugging Face checkpoint rather than one of ours.
///
/// # Errors
/// If its `config.json` cannot be read, or is no JSON.
pub(crate) fn is_hugging_face(folder: &Path) -> Result<bool, Error> {
    let path = folder.join("config.json");
    // One of ours has a state; what has neither is read as a checkpoint of others, which says what it lacks.
    Ok(path.exists() && (read_json(&path)?["model_type"].is_string() || !folder.join("state.json").is_file()))
}
