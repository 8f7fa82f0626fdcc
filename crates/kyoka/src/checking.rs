//! `kyoka data check`: reads every row and every medium.

use std::path::Path;

use kyoka_audio::{AudioError, SHORTEST_SOUND, Waveform};
use kyoka_core::{Content, Modality};
use kyoka_data::{DataError, ReadOptions, RowFault, Scan, scan_jsonl};
use kyoka_image::Picture;

use crate::Error;

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckedData {
    /// Rows.
    pub rows: usize,
    /// Pictures, uses counted.
    pub images: usize,
    /// Sounds, uses counted.
    pub audios: usize,
    /// What the user should know: columns that nothing reads, ids that stand more than once.
    pub warnings: Vec<String>,
}

/// Reads a dataset file and decodes all its media.
///
/// # Errors
/// Lists every fault with file, line and field.
pub fn check_data(file: &Path, options: ReadOptions) -> Result<CheckedData, Error> {
    let Scan { rows: samples, mut faults, warnings } = scan_jsonl(file, options)?;
    if samples.is_empty() && faults.is_empty() {
        return Err(DataError::Empty { path: file.to_owned() }.into());
    }
    let mut checked = CheckedData { rows: samples.len(), warnings, ..CheckedData::default() };
    for sample in &samples {
        for media in sample.media() {
            let (field, result) = match media.modality {
                Modality::Image => {
                    checked.images += 1;
                    ("images", read(&media.content, |bytes| Picture::decode(bytes).map(drop)))
                }
                Modality::Audio => {
                    checked.audios += 1;
                    ("audios", read(&media.content, heard))
                }
            };
            if let Err(reason) = result {
                let message = format!("{}: {reason}", media.content);
                let origin = sample.origin.clone();
                faults.push(RowFault { origin, field: Some(field.to_owned()), message });
            }
        }
    }
    if faults.is_empty() { Ok(checked) } else { Err(DataError::Rows(faults).into()) }
}

fn read<E: std::fmt::Display>(
    content: &Content,
    decode: impl FnOnce(&[u8]) -> Result<(), E>,
) -> Result<(), String> {
    let bytes = content.read().map_err(|error| error.to_string())?;
    decode(&bytes).map_err(|error| error.to_string())
}

/// Refuses what some families hear nothing of, besides what cannot be decoded.
fn heard(bytes: &[u8]) -> Result<(), AudioError> {
    match Waveform::decode(bytes)?.samples.len() {
        got if got < SHORTEST_SOUND => Err(AudioError::TooShort { expected: SHORTEST_SOUND, got }),
        _ => Ok(()),
    }
}
