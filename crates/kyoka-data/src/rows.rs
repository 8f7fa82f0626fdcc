//! One JSON object a line.

use std::{
    collections::HashMap,
    path::{Component, Path, PathBuf},
};

use kyoka_core::{Modality, Sample, prompt_parts};
use serde::Deserialize;

use crate::{DataError, RowFault};

/// How a dataset is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadOptions {
    /// Allow media outside the dataset's folder: absolute paths, `..`, and links that lead out. Default false.
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
    all_good(path, scan_jsonl(path, options)?)
}

/// All rows, if there is one and none is faulty.
pub(crate) fn all_good<T>(path: &Path, (rows, faults): (Vec<T>, Vec<RowFault>)) -> Result<Vec<T>, DataError> {
    match (faults.is_empty(), rows.is_empty()) {
        (false, _) => Err(DataError::Rows(faults)),
        (true, true) => Err(DataError::Empty { path: path.to_owned() }),
        (true, false) => Ok(rows),
    }
}

/// The good rows of a file, and the faults of the others.
///
/// # Errors
/// If the file cannot be read at all.
pub fn scan_jsonl(path: &Path, options: ReadOptions) -> Result<(Vec<Sample>, Vec<RowFault>), DataError> {
    scan_rows(path, options, |_, sample| Ok(sample))
}

/// The good rows of a file, and the faults of the others; `finish` makes a row of a line and its sample.
pub(crate) fn scan_rows<T>(
    path: &Path,
    options: ReadOptions,
    finish: impl Fn(&[u8], Sample) -> Result<T, Faults>,
) -> Result<(Vec<T>, Vec<RowFault>), DataError> {
    let bytes = std::fs::read(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    let folder = Folder::of(path);
    let (mut rows, mut faults) = (Vec::new(), Vec::new());
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
        match parse_row(line, &folder, options) {
            Err(found) => faults.extend(found.into_iter().map(fault)),
            Ok(mut sample) => match line_of_id.insert(sample.id.clone(), line_number) {
                Some(first) => {
                    faults.push(fault((Some("id"), format!("{} stands at line {first} already", sample.id))));
                }
                None => {
                    sample.origin = (path.to_owned(), line_number);
                    match finish(line, sample) {
                        Ok(row) => rows.push(row),
                        Err(found) => faults.extend(found.into_iter().map(fault)),
                    }
                }
            },
        }
    }
    Ok((rows, faults))
}

/// Fields with what is wrong with them.
pub(crate) type Faults = Vec<(Option<&'static str>, String)>;

fn parse_row(line: &[u8], folder: &Folder<'_>, options: ReadOptions) -> Result<Sample, Faults> {
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
    if !options.allow_outside {
        for (field, paths) in [("images", &row.images), ("audios", &row.audios)] {
            let outside = paths.iter().filter(|path| folder.leaves(path));
            faults.extend(
                outside.map(|path| {
                    (Some(field), format!("{} lies outside the dataset's folder", path.display()))
                }),
            );
        }
    }
    let parts = prompt_parts(&row.prompt, folder.path, &row.images, &row.audios);
    let parts = parts.unwrap_or_else(|mismatches| {
        faults.extend(mismatches.iter().map(|mismatch| {
            let field = match mismatch.modality {
                Modality::Image => "images",
                Modality::Audio => "audios",
            };
            (Some(field), mismatch.to_string())
        }));
        Vec::new()
    });
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(Sample {
        parts,
        id: row.id,
        answer: row.answer,
        steps: row.steps,
        completion: row.completion,
        origin: Default::default(),
    })
}

/// The dataset's folder, as written and with links resolved.
struct Folder<'a> {
    path: &'a Path,
    real: Option<PathBuf>,
}

impl<'a> Folder<'a> {
    fn of(file: &'a Path) -> Self {
        let path = file.parent().unwrap_or(Path::new(""));
        Self { path, real: Path::new(".").join(path).canonicalize().ok() }
    }

    /// Whether a medium lies elsewhere, by its name or through a link. A file that is missing stays to be found out
    /// when it is read.
    fn leaves(&self, medium: &Path) -> bool {
        if medium.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
            return true;
        }
        match (&self.real, self.path.join(medium).canonicalize()) {
            (Some(folder), Ok(file)) => !file.starts_with(folder),
            _ => false,
        }
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
        assert!(found[0].starts_with("1 images the prompt has 1 <image> placeholder(s), but 0 file(s)"));
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

    #[cfg(unix)]
    #[test]
    fn a_link_out_of_the_folder_needs_permission() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let secret = outside.path().join("x.png");
        std::fs::write(&secret, "x").unwrap();
        std::fs::write(inside.path().join("y.png"), "y").unwrap();
        std::os::unix::fs::symlink(&secret, inside.path().join("link.png")).unwrap();
        std::os::unix::fs::symlink("y.png", inside.path().join("own.png")).unwrap();
        let file = inside.path().join("rows.jsonl");
        let row = r#"{"id":"a","prompt":"<image><image>","images":["link.png","own.png"]}"#;
        std::fs::write(&file, row).unwrap();
        let Err(DataError::Rows(faults)) = read_jsonl(&file, ReadOptions::default()) else {
            panic!("expected a fault")
        };
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].message, "link.png lies outside the dataset's folder");
        assert!(read_jsonl(&file, ReadOptions { allow_outside: true }).is_ok());
    }

    #[test]
    fn a_file_without_rows_is_an_error() {
        assert!(matches!(read(b"\n \n", ReadOptions::default()), Err(DataError::Empty { .. })));
    }
}
