//! Media inside a page.

use std::{collections::BTreeMap, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use kyoka_audio::Recording;
use kyoka_image::Picture;

/// Largest file that is put into a page; a larger one is named instead.
const MAX_BYTES: u64 = 300_000;

/// Files as `data:` addresses, each read once.
#[derive(Default)]
pub struct Embedder {
    known: BTreeMap<String, Option<String>>,
}

impl Embedder {
    /// The file as a `data:` address; `None` if it is too large, of an unknown kind, or gone. What browsers do not show
    /// (TIFF, AIFF) is put in as PNG or WAV.
    pub fn data_url(&mut self, path: &Path) -> Option<String> {
        let key = path.to_string_lossy().into_owned();
        self.known.entry(key).or_insert_with(|| read(path)).clone()
    }
}

fn read(path: &Path) -> Option<String> {
    if std::fs::metadata(path).ok()?.len() > MAX_BYTES {
        return None;
    }
    let bytes = || std::fs::read(path).ok();
    let (kind, bytes) = match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "png" => ("image/png", bytes()?),
        "jpg" | "jpeg" => ("image/jpeg", bytes()?),
        "gif" => ("image/gif", bytes()?),
        "webp" => ("image/webp", bytes()?),
        "bmp" => ("image/bmp", bytes()?),
        "tif" | "tiff" => ("image/png", Picture::decode(&bytes()?).ok()?.to_png()),
        "wav" => ("audio/wav", bytes()?),
        "aif" | "aiff" | "aifc" => ("audio/wav", Recording::decode(&bytes()?).ok()?.to_wav()),
        "mp3" => ("audio/mpeg", bytes()?),
        "ogg" | "oga" | "opus" => ("audio/ogg", bytes()?),
        "flac" => ("audio/flac", bytes()?),
        _ => return None,
    };
    Some(format!("data:{kind};base64,{}", STANDARD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_browsers_do_not_show_is_shown_as_something_else() {
        let golden = |path: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
        let mut embedder = Embedder::default();
        let mut begins = |path: &str, start: &str| {
            let url = embedder.data_url(&golden(path)).unwrap();
            assert!(url.starts_with(start), "{path}: {}", &url[..40]);
        };
        begins("kyoka-image/tests/golden/formats/grey16_lzw.tif", "data:image/png;base64,iVBORw0KGgo");
        begins("kyoka-image/tests/golden/formats/baseline.jpg", "data:image/jpeg;base64,/9j/");
        begins("kyoka-audio/tests/golden/formats/s24.aiff", "data:audio/wav;base64,UklGR");
        begins("kyoka-audio/tests/golden/formats/mono.opus", "data:audio/ogg;base64,T2dnUw");
        assert!(embedder.data_url(Path::new("no/such.tif")).is_none());
    }
}
