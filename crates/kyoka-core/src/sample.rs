//! One row of a dataset.

use std::path::{Path, PathBuf};

use crate::{MediaRef, Modality};

/// A piece of a prompt, in reading order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Plain text.
    Text(String),
    /// A picture or a sound.
    Media(MediaRef),
}

/// Where in its file a row stands, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// The line, in files with a row a line.
    Line(usize),
    /// The row, in files where lines say nothing.
    Row(usize),
}

/// File and place of a row: what a row is known by, since an `id` may stand more than once. Written `rows.jsonl:7` or
/// `rows.jsonl: row 7`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The dataset file.
    pub file: PathBuf,
    /// Where in the file.
    pub place: Place,
}

impl Default for Origin {
    fn default() -> Self {
        Self { file: PathBuf::new(), place: Place::Row(1) }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let file = self.file.display();
        match self.place {
            Place::Line(line) => write!(f, "{file}:{line}"),
            Place::Row(row) => write!(f, "{file}: row {row}"),
        }
    }
}

/// One question, with what is known about its answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// The row's name, for logs and reports; it may stand more than once.
    pub id: String,
    /// What the policy is told before the prompt, as a turn of its own.
    pub system: Option<String>,
    /// The prompt, text and media interleaved.
    pub parts: Vec<Part>,
    /// The reference answers, each of them right; empty when unknown.
    pub answers: Vec<String>,
    /// Labels of the reasoning steps, for step rewards; empty when unknown.
    pub steps: Vec<String>,
    /// A worked completion, for supervised fine-tuning.
    pub completion: Option<String>,
    /// Where the row came from.
    pub origin: Origin,
}

impl Sample {
    /// The media of one modality, in prompt order.
    pub fn media(&self, modality: Modality) -> impl Iterator<Item = &MediaRef> {
        self.parts.iter().filter_map(move |part| match part {
            Part::Media(media) if media.modality == modality => Some(media),
            _ => None,
        })
    }

    /// The reference answers as one text, for logs: several are joined by ` | `; `None` when unknown.
    pub fn answer_text(&self) -> Option<String> {
        (!self.answers.is_empty()).then(|| self.answers.join(" | "))
    }

    /// The prompt as text, with placeholders where the media stand.
    pub fn prompt_text(&self) -> String {
        self.parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.as_str(),
                Part::Media(media) => media.modality.placeholder(),
            })
            .collect()
    }
}

/// Placeholders and files that do not match in number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the prompt has {placeholders} {} placeholder(s), but {files} file(s) are given", .modality.placeholder())]
pub struct PlaceholderMismatch {
    /// Which sense.
    pub modality: Modality,
    /// Placeholders in the prompt.
    pub placeholders: usize,
    /// Files given for them.
    pub files: usize,
}

/// Cuts a prompt text at its placeholders; files fill them in order, resolved against `folder`.
///
/// # Errors
/// One mismatch for every modality whose placeholders and files differ in number.
pub fn prompt_parts(
    text: &str,
    folder: &Path,
    images: &[PathBuf],
    audios: &[PathBuf],
) -> Result<Vec<Part>, Vec<PlaceholderMismatch>> {
    let senses = [(Modality::Image, images), (Modality::Audio, audios)];
    let mismatches: Vec<PlaceholderMismatch> = senses
        .into_iter()
        .map(|(modality, files)| PlaceholderMismatch {
            modality,
            placeholders: text.matches(modality.placeholder()).count(),
            files: files.len(),
        })
        .filter(|counted| counted.placeholders != counted.files)
        .collect();
    if !mismatches.is_empty() {
        return Err(mismatches);
    }
    let mut files = senses.map(|(modality, files)| (modality, files.iter()));
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((at, (modality, files))) = files
        .iter_mut()
        .filter_map(|sense| Some((rest.find(sense.0.placeholder())?, sense)))
        .min_by_key(|&(at, _)| at)
    {
        if at > 0 {
            parts.push(Part::Text(rest[..at].to_owned()));
        }
        let path = folder.join(files.next().expect("placeholders and files were counted"));
        parts.push(Part::Media(MediaRef { modality: *modality, path }));
        rest = &rest[at + modality.placeholder().len()..];
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_fill_placeholders_in_order() {
        let (images, audios) = (["a.png", "b.png"].map(PathBuf::from), [PathBuf::from("/s.wav")]);
        let parts = prompt_parts("<audio><image> or <image>?", Path::new("data"), &images, &audios).unwrap();
        let media = |modality, path: &str| Part::Media(MediaRef { modality, path: path.into() });
        let expected = [
            media(Modality::Audio, "/s.wav"),
            media(Modality::Image, "data/a.png"),
            Part::Text(" or ".into()),
            media(Modality::Image, "data/b.png"),
            Part::Text("?".into()),
        ];
        assert_eq!(parts, expected);
    }

    #[test]
    fn a_place_is_a_line_or_a_row() {
        let origin = |place| Origin { file: "a.jsonl".into(), place }.to_string();
        assert_eq!([origin(Place::Line(7)), origin(Place::Row(7))], ["a.jsonl:7", "a.jsonl: row 7"]);
    }

    #[test]
    fn every_modality_that_does_not_match_is_named() {
        let faults = prompt_parts("<image>", Path::new(""), &[], &["s.wav".into()]).unwrap_err();
        let messages: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(
            messages,
            [
                "the prompt has 1 <image> placeholder(s), but 0 file(s) are given",
                "the prompt has 0 <audio> placeholder(s), but 1 file(s) are given"
            ]
        );
    }
}
