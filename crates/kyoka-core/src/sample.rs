//! One row of a dataset.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{MediaRef, Modality};

/// A piece of a prompt, in reading order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Plain text.
    Text(String),
    /// A picture or a sound.
    Media(MediaRef),
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Says what the policy is and how it should answer.
    System,
    /// Asks.
    User,
    /// The policy.
    Assistant,
    /// A tool that the policy called.
    Tool,
}

impl Role {
    /// Its name in messages: `system`, `user`, `assistant` or `tool`.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// A turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said and shown, in reading order.
    pub parts: Vec<Part>,
}

impl Message {
    /// What a user asks and shows.
    pub fn user(parts: Vec<Part>) -> Self {
        Self { role: Role::User, parts }
    }

    /// Words alone.
    pub fn of_text(role: Role, text: impl Into<String>) -> Self {
        Self { role, parts: vec![Part::Text(text.into())] }
    }
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
    /// The prompt, as a conversation that the policy goes on with: mostly one message of the user, before it what the policy is
    /// told and what was said so far.
    pub messages: Vec<Message>,
    /// The reference answer as the row has it; see [`answers`](Self::answers). `None` when unknown.
    pub answer: Option<Value>,
    /// Labels of the reasoning steps, for step rewards; empty when unknown.
    pub steps: Vec<String>,
    /// A worked completion, for supervised fine-tuning; where there is a label, the completion that it is of.
    pub completion: Option<String>,
    /// Whether people took the completion, for learning from single judgements; `None` when unknown.
    pub label: Option<bool>,
    /// Columns that Kyoka does not know, as they stand in the row: for rewards of one's own.
    pub extra: BTreeMap<String, Value>,
    /// Where the row came from.
    pub origin: Origin,
}

impl Sample {
    /// A row whose prompt is one message of a user.
    ///
    /// ```
    /// use kyoka_core::{MediaRef, Modality, Part, Sample};
    ///
    /// let picture = Part::Media(MediaRef::file(Modality::Image, "cloth.png"));
    /// let row = Sample {
    ///     id: "cloth".to_owned(),
    ///     answer: Some("pass".into()),
    ///     ..Sample::asking(vec![picture, Part::Text("pass or reject?".to_owned())])
    /// };
    /// assert_eq!(row.prompt_text(), "<image>pass or reject?");
    /// assert_eq!(row.answers(), ["pass"]);
    /// ```
    pub fn asking(parts: Vec<Part>) -> Self {
        Self { messages: vec![Message::user(parts)], ..Self::default() }
    }

    /// Shows further parts at the end of the prompt.
    pub fn append(&mut self, parts: Vec<Part>) {
        match self.messages.last_mut() {
            Some(last) => last.parts.extend(parts),
            None => self.messages.push(Message::user(parts)),
        }
    }

    /// All parts of the prompt, in reading order.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.messages.iter().flat_map(|message| &message.parts)
    }

    /// The media, in reading order.
    pub fn media(&self) -> impl Iterator<Item = &MediaRef> {
        self.parts().filter_map(|part| match part {
            Part::Media(media) => Some(media),
            Part::Text(_) => None,
        })
    }

    /// The reference answers as texts, each of them right; empty when unknown. A list is one answer an element; numbers and
    /// booleans, and what is none of these, are as JSON writes them.
    pub fn answers(&self) -> Vec<String> {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        match &self.answer {
            None => Vec::new(),
            Some(Value::Array(list)) => list.iter().map(text).collect(),
            Some(one) => vec![text(one)],
        }
    }

    /// The reference answers as one text, for logs: several are joined by ` | `; `None` when unknown.
    pub fn answer_text(&self) -> Option<String> {
        self.answer.as_ref().map(|_| self.answers().join(" | "))
    }

    /// The prompt as text, with placeholders where the media stand: one message of a user as [`prompt_parts`] reads it, several
    /// messages one below the other with the names of those who speak.
    pub fn prompt_text(&self) -> String {
        if let [Message { role: Role::User, parts }] = &self.messages[..] {
            return written(parts);
        }
        let named = |message: &Message| format!("[{}] {}", message.role.name(), written(&message.parts));
        self.messages.iter().map(named).collect::<Vec<_>>().join("\n")
    }
}

/// Placeholders and files that do not match in number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the prompt has {placeholders} {} placeholder(s), but {files} file(s) are given{}",
    .modality.placeholder(),
    hint(*.modality, .placeholders > .files)
)]
pub struct PlaceholderMismatch {
    /// Which sense.
    pub modality: Modality,
    /// Placeholders in the prompt.
    pub placeholders: usize,
    /// Files given for them.
    pub files: usize,
}

/// How a placeholder is written that stands for no medium.
fn hint(modality: Modality, too_many: bool) -> String {
    match too_many {
        true => format!("; where it is text and stands for no medium, write \\{}", modality.placeholder()),
        false => String::new(),
    }
}

/// Cuts a prompt text at its placeholders; files fill them in order, resolved against `folder`. Behind a backslash a
/// placeholder is text (`\<image>`); a backslash that stands before a medium is doubled.
///
/// # Errors
/// One mismatch for every modality whose placeholders and files differ in number.
pub fn prompt_parts(
    text: &str,
    folder: &Path,
    images: &[PathBuf],
    audios: &[PathBuf],
) -> Result<Vec<Part>, Vec<PlaceholderMismatch>> {
    Ok(conversation_parts(&[text], folder, images, audios)?.concat())
}

/// [`prompt_parts`] of the texts of a conversation's messages: files fill the placeholders of all of them, in order.
///
/// # Errors
/// One mismatch for every modality whose placeholders and files differ in number.
pub fn conversation_parts(
    texts: &[&str],
    folder: &Path,
    images: &[PathBuf],
    audios: &[PathBuf],
) -> Result<Vec<Vec<Part>>, Vec<PlaceholderMismatch>> {
    let pieces: Vec<Vec<Piece>> = texts.iter().map(|text| pieces(text)).collect();
    let senses = [(Modality::Image, images), (Modality::Audio, audios)];
    let mismatches: Vec<PlaceholderMismatch> = senses
        .into_iter()
        .map(|(modality, files)| PlaceholderMismatch {
            modality,
            placeholders: pieces
                .iter()
                .flatten()
                .filter(|piece| matches!(piece, Piece::Mark(of) if *of == modality))
                .count(),
            files: files.len(),
        })
        .filter(|counted| counted.placeholders != counted.files)
        .collect();
    if !mismatches.is_empty() {
        return Err(mismatches);
    }
    let mut files = senses.map(|(_, files)| files.iter());
    let mut part = |piece| match piece {
        Piece::Text(text) => Part::Text(text),
        Piece::Mark(modality) => {
            let files = &mut files[usize::from(modality == Modality::Audio)];
            let path = folder.join(files.next().expect("placeholders and files were counted"));
            Part::Media(MediaRef::file(modality, path))
        }
    };
    let mut parts = |pieces: Vec<Piece>| pieces.into_iter().map(&mut part).collect();
    Ok(pieces.into_iter().map(&mut parts).collect())
}

/// A prompt text for a policy that has no senses: placeholders are text, with a backslash before them or without.
pub fn prompt_without_media(text: &str) -> String {
    let written = pieces(text).into_iter().map(|piece| match piece {
        Piece::Text(text) => text,
        Piece::Mark(modality) => modality.placeholder().to_owned(),
    });
    written.collect()
}

/// What a prompt text consists of.
enum Piece {
    /// Text that is not empty, escaped placeholders in it written out.
    Text(String),
    /// A placeholder.
    Mark(Modality),
}

fn pieces(text: &str) -> Vec<Piece> {
    let (mut pieces, mut run, mut rest) = (Vec::new(), String::new(), text);
    while let Some((at, modality)) = next_placeholder(rest) {
        let before = rest[..at].trim_end_matches('\\');
        let backslashes = at - before.len();
        run.push_str(before);
        run.push_str(&"\\".repeat(backslashes / 2));
        if backslashes % 2 == 1 {
            run.push_str(modality.placeholder());
        } else {
            pieces.extend((!run.is_empty()).then(|| Piece::Text(std::mem::take(&mut run))));
            pieces.push(Piece::Mark(modality));
        }
        rest = &rest[at + modality.placeholder().len()..];
    }
    run.push_str(rest);
    pieces.extend((!run.is_empty()).then_some(Piece::Text(run)));
    pieces
}

fn next_placeholder(text: &str) -> Option<(usize, Modality)> {
    let places = [Modality::Image, Modality::Audio].into_iter();
    places
        .filter_map(|modality| Some((text.find(modality.placeholder())?, modality)))
        .min_by_key(|&(at, _)| at)
}

/// Parts as a prompt text that [`prompt_parts`] reads back.
fn written(parts: &[Part]) -> String {
    let next_parts = parts.iter().skip(1).map(Some).chain([None]);
    let texts = parts.iter().zip(next_parts).map(|(part, next)| match part {
        Part::Text(text) => escaped(text, matches!(next, Some(Part::Media(_)))),
        Part::Media(media) => media.modality.placeholder().to_owned(),
    });
    texts.collect()
}

/// Text with what [`pieces`] would take for a placeholder behind a backslash.
fn escaped(text: &str, before_medium: bool) -> String {
    let doubled = |text: &str| {
        let kept = text.trim_end_matches('\\');
        format!("{text}{}", "\\".repeat(text.len() - kept.len()))
    };
    let (mut out, mut rest) = (String::new(), text);
    while let Some((at, modality)) = next_placeholder(rest) {
        out.extend([doubled(&rest[..at]).as_str(), "\\", modality.placeholder()]);
        rest = &rest[at + modality.placeholder().len()..];
    }
    out + &if before_medium { doubled(rest) } else { rest.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_fill_placeholders_in_order() {
        let (images, audios) = (["a.png", "b.png"].map(PathBuf::from), [PathBuf::from("/s.wav")]);
        let parts = prompt_parts("<audio><image> or <image>?", Path::new("data"), &images, &audios).unwrap();
        let media = |modality, path: &str| Part::Media(MediaRef::file(modality, path));
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
                "the prompt has 1 <image> placeholder(s), but 0 file(s) are given; where it is text and stands for no \
                 medium, write \\<image>",
                "the prompt has 0 <audio> placeholder(s), but 1 file(s) are given"
            ]
        );
    }

    #[test]
    fn placeholders_behind_a_backslash_are_text_and_backslashes_elsewhere_stay() {
        let image = |path: &str| Part::Media(MediaRef::file(Modality::Image, path));
        let text = |text: &str| Part::Text(text.to_owned());
        for (prompt, images, expected) in [
            (r"the \<image> tag", vec![], vec![text("the <image> tag")]),
            (r"<image>\<image>\<audio>", vec!["a.png"], vec![image("a.png"), text("<image><audio>")]),
            (r"a\\<image>", vec!["a.png"], vec![text(r"a\"), image("a.png")]),
            (r"\\\<image>", vec![], vec![text(r"\<image>")]),
            (r"C:\dir \frac{1}{2}\\ x\", vec![], vec![text(r"C:\dir \frac{1}{2}\\ x\")]),
        ] {
            let images: Vec<PathBuf> = images.into_iter().map(PathBuf::from).collect();
            let parts = prompt_parts(prompt, Path::new(""), &images, &[]).unwrap();
            assert_eq!(parts, expected, "{prompt}");
            assert_eq!(written(&parts), prompt);
        }
        assert_eq!(prompt_without_media(r"<image> or \<image>"), "<image> or <image>");
    }
}
