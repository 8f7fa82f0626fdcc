//! One JSON object a line.

use std::{
    collections::HashMap,
    path::{Component, Path, PathBuf},
};

use kyoka_core::{MediaRef, Modality, Part, Sample};
use serde::Deserialize;

use crate::{DataError, RowFault};

/// How a dataset is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadOptions {
    /// Allow media outside the dataset's folder: absolute paths and `..`. Default false.
    pub allow_outside: bool,
}

#[derive(Deserialize)]
struct Row {
    id: String,
    prompt: String,
    #[serde(default)]
    images: Vec<PathBuf>,
    #[serde(default)]
    audios: Vec<PathBuf>,
    answer: Option<String>,
    #[serde(default)]
    steps: Vec<String>,
    completion: Option<String>,
}

/// Reads all rows of a file.
///
/// # Errors
/// Lists every faulty row with its line: JSON that does not parse, bytes that are no UTF-8, an empty or repeated
/// `id`, an empty prompt, placeholders that do not match the media, media outside the folder. Whether the media can
/// be decoded is not looked at here.
pub fn read_jsonl(path: &Path, options: ReadOptions) -> Result<Vec<Sample>, DataError> {
    let (samples, faults) = scan_jsonl(path, options)?;
    match (faults.is_empty(), samples.is_empty()) {
        (false, _) => Err(DataError::Rows(faults)),
        (true, true) => Err(DataError::Empty { path: path.to_owned() }),
        (true, false) => Ok(samples),
    }
}

/// The good rows of a file, and the faults of the others.
///
/// # Errors
/// If the file cannot be read at all.
pub fn scan_jsonl(path: &Path, options: ReadOptions) -> Result<(Vec<Sample>, Vec<RowFault>), DataError> {
    let bytes = std::fs::read(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let (mut samples, mut faults) = (Vec::new(), Vec::new());
    let mut line_of_id = HashMap::new();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let line_number = index + 1;
        let fault = |(field, message): (Option<&str>, String)| RowFault {
            file: path.to_owned(),
            line: line_number,
            field: field.map(str::to_owned),
            message,
        };
        match parse_row(line, folder, options) {
            Err(found) => faults.extend(found.into_iter().map(fault)),
            Ok(mut sample) => match line_of_id.insert(sample.id.clone(), line_number) {
                Some(first) => {
                    faults.push(fault((Some("id"), format!("{} stands at line {first} already", sample.id))));
                }
                None => {
                    sample.origin = (path.to_owned(), line_number);
                    samples.push(sample);
                }
            },
        }
    }
    Ok((samples, faults))
}

type Faults = Vec<(Option<&'static str>, String)>;

fn parse_row(line: &[u8], folder: &Path, options: ReadOptions) -> Result<Sample, Faults> {
    let text = std::str::from_utf8(line).map_err(|error| vec![(None, format!("invalid UTF-8: {error}"))])?;
    let row: Row =
        serde_json::from_str(text).map_err(|error| vec![(None, format!("invalid row: {error}"))])?;
    let mut faults: Faults = Vec::new();
    if row.id.trim().is_empty() {
        faults.push((Some("id"), "expected a name, got an empty text".into()));
    }
    if row.prompt.trim().is_empty() {
        faults.push((Some("prompt"), "expected a question, got an empty text".into()));
    }
    for (field, modality, paths) in
        [("images", Modality::Image, &row.images), ("audios", Modality::Audio, &row.audios)]
    {
        let placeholders = row.prompt.matches(modality.placeholder()).count();
        if placeholders != paths.len() {
            let message = format!(
                "the prompt has {placeholders} {} placeholder(s), the row has {} file(s)",
                modality.placeholder(),
                paths.len()
            );
            faults.push((Some(field), message));
        }
        if !options.allow_outside {
            for path in paths.iter().filter(|path| leaves_folder(path)) {
                let message = format!("{} lies outside the dataset's folder", path.display());
                faults.push((Some(field), message));
            }
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(Sample {
        parts: split_prompt(&row, folder),
        id: row.id,
        answer: row.answer,
        steps: row.steps,
        completion: row.completion,
        origin: Default::default(),
    })
}

fn leaves_folder(path: &Path) -> bool {
    path.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir))
}

/// Text and media in reading order; placeholders and files are known to match.
fn split_prompt(row: &Row, folder: &Path) -> Vec<Part> {
    let (mut images, mut audios) = (row.images.iter(), row.audios.iter());
    let mut parts = Vec::new();
    let mut rest = row.prompt.as_str();
    loop {
        let next = [Modality::Image, Modality::Audio]
            .into_iter()
            .filter_map(|modality| rest.find(modality.placeholder()).map(|at| (at, modality)))
            .min();
        let (text, after) = match next {
            Some((at, modality)) => {
                (&rest[..at], Some((&rest[at + modality.placeholder().len()..], modality)))
            }
            None => (rest, None),
        };
        if !text.is_empty() {
            parts.push(Part::Text(text.to_owned()));
        }
        let Some((after, modality)) = after else { return parts };
        let file = match modality {
            Modality::Image => images.next(),
            Modality::Audio => audios.next(),
        };
        let file = file.expect("placeholders and files were counted");
        parts.push(Part::Media(MediaRef { modality, path: folder.join(file) }));
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8], options: ReadOptions) -> Result<Vec<Sample>, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rows.jsonl");
        std::fs::write(&file, text).unwrap();
        read_jsonl(&file, options)
    }

    fn faults(text: &[u8]) -> Vec<String> {
        match read(text, ReadOptions::default()) {
            Err(DataError::Rows(faults)) => faults
                .iter()
                .map(|f| format!("{} {} {}", f.line, f.field.clone().unwrap_or_default(), f.message))
                .collect(),
            other => panic!("expected row faults, got {other:?}"),
        }
    }

    #[test]
    fn media_stand_where_their_placeholders_are() {
        let row = br#"{"id":"a","prompt":"<image>and<audio><image>?","images":["1.png","2.png"],"audios":["s.wav"]}"#;
        let samples = read(row, ReadOptions::default()).unwrap();
        assert_eq!(samples[0].prompt_text(), "<image>and<audio><image>?");
        let names: Vec<_> =
            samples[0].media(Modality::Image).map(|m| m.path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["1.png", "2.png"]);
    }

    #[test]
    fn all_faults_are_listed_with_line_and_field() {
        let text = b"{\"id\":\"a\",\"prompt\":\"<image>x\"}\n\nnot json\n{\"id\":\"b\",\"prompt\":\" \"}\n\xff\xfe\n\
            {\"id\":\"c\",\"prompt\":\"<audio>\",\"audios\":[\"../s.wav\"]}\n{\"id\":\"d\",\"prompt\":\"p\"}\n{\"id\":\"d\",\"prompt\":\"q\"}";
        let found = faults(text);
        assert_eq!(found.len(), 6, "{found:#?}");
        assert!(found[0].starts_with("1 images the prompt has 1 <image> placeholder(s), the row has 0"));
        assert!(found[1].starts_with("3  invalid row"));
        assert!(found[2].starts_with("4 prompt expected a question"));
        assert!(found[3].starts_with("5  invalid UTF-8"));
        assert!(found[4].contains("../s.wav lies outside"));
        assert_eq!(found[5], "8 id d stands at line 7 already");
    }

    #[test]
    fn paths_outside_the_folder_need_permission() {
        let row = br#"{"id":"a","prompt":"<image>","images":["/etc/x.png"]}"#;
        assert!(matches!(read(row, ReadOptions::default()), Err(DataError::Rows(_))));
        let samples = read(row, ReadOptions { allow_outside: true }).unwrap();
        assert_eq!(samples[0].media(Modality::Image).next().unwrap().path, Path::new("/etc/x.png"));
    }

    #[test]
    fn a_file_without_rows_is_an_error() {
        assert!(matches!(read(b"\n \n", ReadOptions::default()), Err(DataError::Empty { .. })));
    }
}
