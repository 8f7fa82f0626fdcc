//! Pictures that somebody has sorted into folders: the folder's name is the answer.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use kyoka_core::{MediaRef, Modality, OwnSettings, Part, Sample, SettingsFault};
use serde::{Deserialize, Serialize};

use crate::{RowSource, Rows, SourceError};

/// Endings of files that are pictures, in lower case.
const ENDINGS: [&str; 8] = ["bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp"];

/// Pictures as `<folder>/<split>/<answer>/<picture>`: one question about all of them, behind the picture.
///
/// Rows are in the order of the names of folders and files; a row's id is `<answer>/<picture>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageFolders {
    /// The folder with one folder a split.
    pub folder: PathBuf,
    /// What is asked about every picture; not empty.
    pub question: String,
}

impl OwnSettings for ImageFolders {
    fn check(&self) -> Result<(), SettingsFault> {
        let named = !self.folder.as_os_str().is_empty();
        SettingsFault::unless(named, "folder", "the name of a folder", "none")?;
        SettingsFault::unless(!self.question.trim().is_empty(), "question", "a question", "none")
    }
}

/// What lies in a folder, by name.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, SourceError> {
    let fault = |error: std::io::Error| format!("{}: {error}", folder.display());
    let named = |entry: std::io::Result<fs::DirEntry>| -> Result<(String, PathBuf), SourceError> {
        let path = entry.map_err(fault)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| format!("{}: expected a name in UTF-8", path.display()))?.to_owned();
        Ok((name, path))
    };
    let mut entries: Vec<_> = fs::read_dir(folder).map_err(fault)?.map(named).collect::<Result<_, _>>()?;
    // What begins with a dot is the system's, not the user's.
    entries.retain(|(name, _)| !name.starts_with('.'));
    entries.sort();
    Ok(entries)
}

fn is_picture(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

impl RowSource for ImageFolders {
    fn rows(&self, split: &str) -> Result<Rows<Sample>, SourceError> {
        // A name, not a way out of the folder.
        if !matches!(Path::new(split).components().collect::<Vec<_>>()[..], [Component::Normal(_)]) {
            return Err(format!("{split:?}: expected the name of a folder").into());
        }
        let (mut rows, mut others) = (Vec::new(), Vec::new());
        for (answer, folder) in entries(&self.folder.join(split))? {
            if !folder.is_dir() {
                others.push(folder);
                continue;
            }
            for (name, path) in entries(&folder)? {
                if !is_picture(&path) {
                    others.push(path);
                    continue;
                }
                let medium = MediaRef::file(Modality::Image, path);
                rows.push(Sample {
                    id: format!("{answer}/{name}"),
                    answer: Some(answer.as_str().into()),
                    ..Sample::asking(vec![Part::Media(medium), Part::Text(self.question.clone())])
                });
            }
        }
        let warning = others.first().map(|first| {
            format!(
                "{}: no picture in a folder of its answer; {} such file(s) are left out",
                first.display(),
                others.len()
            )
        });
        Ok(Rows { rows, warnings: warning.into_iter().collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SOURCES;

    fn made(settings: String) -> Result<Box<dyn RowSource>, String> {
        let (_, make) = SOURCES.iter().find(|(kind, _)| *kind == "image_folders").unwrap();
        make(settings.parse().unwrap()).map_err(|fault| fault.to_string())
    }

    #[test]
    fn the_folder_of_a_picture_is_its_answer() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["train/good/b.png", "train/good/a.JPG", "train/scratch/1.tiff", "train/good/.hidden.png"]
        {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        for name in ["train/readme.txt", "train/good/notes.csv"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        let source = made(format!("folder = {:?}\nquestion = 'Which?'", folder.path())).unwrap();
        let Rows { rows, warnings } = source.rows("train").unwrap();
        let told = rows.iter().map(|row| (row.id.as_str(), row.answer.as_ref().unwrap().as_str().unwrap()));
        let expected = [("good/a.JPG", "good"), ("good/b.png", "good"), ("scratch/1.tiff", "scratch")];
        assert_eq!(told.collect::<Vec<_>>(), expected);
        assert!(matches!(&rows[0].messages[0].parts[..], [Part::Media(medium), Part::Text(text)]
            if medium.content.path().unwrap().ends_with("good/a.JPG") && text == "Which?"));
        assert!(warnings[0].ends_with("2 such file(s) are left out"), "{warnings:?}");
        assert!(source.rows("val").unwrap_err().to_string().contains("val: "));
        for odd in ["../train", "", "/", "train/good", "."] {
            assert!(
                source.rows(odd).unwrap_err().to_string().ends_with("expected the name of a folder"),
                "{odd}"
            );
        }
        assert_eq!(source.pairs("train").unwrap_err().to_string(), "this source has no comparisons");
    }

    #[test]
    fn what_is_missing_is_named() {
        for (settings, said) in [
            ("question = '?'", "folder: missing"),
            ("folder = 'x'\nquestion = ' '", "question: expected a question, got none"),
            ("folder = ''\nquestion = '?'", "folder: expected the name of a folder, got none"),
        ] {
            assert_eq!(made(settings.to_owned()).err().as_deref(), Some(said));
        }
    }
}
