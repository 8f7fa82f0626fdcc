//! Media inside a page.

use std::{collections::BTreeMap, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};

/// Largest file that is put into a page; a larger one is named instead.
const MAX_BYTES: u64 = 300_000;

/// Files as `data:` addresses, each read once.
#[derive(Default)]
pub struct Embedder {
    known: BTreeMap<String, Option<String>>,
}

impl Embedder {
    /// The file as a `data:` address; `None` if it is too large, of an unknown kind, or gone.
    pub fn data_url(&mut self, path: &Path) -> Option<String> {
        let key = path.to_string_lossy().into_owned();
        self.known.entry(key).or_insert_with(|| read(path)).clone()
    }
}

fn read(path: &Path) -> Option<String> {
    let kind = match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "bmp" => "image/bmp",
        "wav" => "audio/wav",
        "mp3" => "audio/mpeg",
        "ogg" => "audio/ogg",
        "flac" => "audio/flac",
        _ => return None,
    };
    if std::fs::metadata(path).ok()?.len() > MAX_BYTES {
        return None;
    }
    let bytes = std::fs::read(path).ok()?;
    Some(format!("data:{kind};base64,{}", STANDARD.encode(bytes)))
}
