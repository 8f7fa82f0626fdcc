//! What a split held, in a few bytes.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use blake3::Hasher;
use kyoka_core::{Content, Message, Modality, Part, Role, Sample};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::PreferenceRow;

/// Bytes read at either end of a medium.
const END_BYTES: u64 = 8192;

/// What the rows of a split and their media were, so that a resumed run can tell whether they still are.
///
/// All fields of all rows count, and their order; of each medium its size and its first and last 8192 bytes, which any
/// tool that writes it anew changes. Names of folders do not count: a dataset may move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// Number of rows.
    num_rows: usize,
    /// Hash of all rows, in hexadecimal digits.
    rows: String,
    /// Hash of all media, in hexadecimal digits.
    media: String,
    /// Hash of the columns that are none of Kyoka's own, in hexadecimal digits; runs from before these were kept have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    extra: Option<String>,
    /// Hash of which row shows which medium, in hexadecimal digits; none where the rows' hash has the media's names, and in runs
    /// from before it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shown: Option<String>,
}

/// Whether the names of media files count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaNames {
    /// They do, below the folder of the rows.
    Counted,
    /// They do not: a source may put its files anywhere. What they hold counts all the same.
    LeftOut,
}

impl Fingerprint {
    /// Of rows as a stage uses them.
    pub fn of(samples: &[Sample], names: MediaNames) -> Self {
        Self::over(names, samples.iter().map(|sample| (sample, [""; 0])))
    }

    /// Of comparisons as a stage uses them.
    pub fn of_pairs(rows: &[PreferenceRow], names: MediaNames) -> Self {
        Self::over(names, rows.iter().map(|row| (&row.sample, [row.chosen.as_str(), row.rejected.as_str()])))
    }

    fn over<'a, const N: usize>(
        names: MediaNames,
        rows: impl Iterator<Item = (&'a Sample, [&'a str; N])>,
    ) -> Self {
        let (mut hasher, mut extra, mut num_rows) = (Hasher::new(), Hasher::new(), 0);
        let (mut seen, mut media) = (HashMap::new(), Vec::new());
        let mut shown = Hasher::new();
        for (sample, more) in rows {
            num_rows += 1;
            add_row(&mut hasher, sample, names);
            add_extra(&mut extra, sample);
            more.iter().for_each(|text| add(&mut hasher, text.as_bytes()));
            let own = [Modality::Image, Modality::Audio]
                .into_iter()
                .flat_map(|sense| sample.media().filter(move |medium| medium.modality == sense));
            for content in own.map(|medium| &medium.content) {
                let next = seen.len() as u64;
                let number = *seen.entry(content).or_insert(next);
                if number == next {
                    media.push(content);
                }
                shown.update(&number.to_le_bytes());
            }
        }
        let ends: Vec<_> = media.par_iter().map(|content| print_of(content)).collect();
        let mut all = Hasher::new();
        ends.iter().for_each(|hash| add(&mut all, hash));
        let hex = |hasher: &Hasher| hasher.finalize().to_hex().to_string();
        let shown = (names == MediaNames::LeftOut).then(|| hex(&shown));
        Self { num_rows, rows: hex(&hasher), media: hex(&all), extra: Some(hex(&extra)), shown }
    }

    /// What is different now, where anything is; `self` is what was.
    pub fn difference(&self, now: &Self) -> Option<String> {
        if self.num_rows != now.num_rows {
            return Some(format!("it had {} rows and has {}", self.num_rows, now.num_rows));
        }
        if self.rows != now.rows {
            return Some("its rows are others".to_owned());
        }
        if let (Some(was), Some(now)) = (&self.extra, &now.extra)
            && was != now
        {
            return Some("the further columns of its rows are others".to_owned());
        }
        if let (Some(was), Some(now)) = (&self.shown, &now.shown)
            && was != now
        {
            return Some("its rows show other media".to_owned());
        }
        (self.media != now.media).then(|| "its media files are others".to_owned())
    }
}

/// Adds one value so that no two rows read alike.
fn add(hasher: &mut Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
}

fn add_list<'a>(hasher: &mut Hasher, texts: impl ExactSizeIterator<Item = &'a String>) {
    hasher.update(&(texts.len() as u64).to_le_bytes());
    texts.for_each(|text| add(hasher, text.as_bytes()));
}

fn add_row(hasher: &mut Hasher, sample: &Sample, names: MediaNames) {
    let Sample { id, messages, answer: _, steps, completion, label: _, extra: _, origin } = sample;
    add(hasher, id.as_bytes());
    let folder = match names {
        MediaNames::Counted => Some(origin.file.parent().unwrap_or(Path::new(""))),
        MediaNames::LeftOut => None,
    };
    let (system, said) = match &messages[..] {
        [Message { role: Role::System, parts }, said @ ..] if matches!(parts[..], [Part::Text(_)]) => {
            (parts.first(), said)
        }
        said => (None, said),
    };
    match said {
        // The prompt alone: as it was before there were conversations.
        [Message { role: Role::User, parts }] => add_parts(hasher, parts, folder),
        said => {
            for Message { role, parts } in said {
                add(hasher, role.name().as_bytes());
                add_parts(hasher, parts, folder);
            }
        }
    }
    [&sample.answers(), steps].into_iter().for_each(|texts| add_list(hasher, texts.iter()));
    let system = system.and_then(|part| match part {
        Part::Text(text) => Some(text),
        Part::Media(_) => None,
    });
    [system, completion.as_ref()].into_iter().for_each(|text| add_list(hasher, text.into_iter()));
}

fn add_parts(hasher: &mut Hasher, parts: &[Part], folder: Option<&Path>) {
    hasher.update(&(parts.len() as u64).to_le_bytes());
    for part in parts {
        match part {
            Part::Text(text) => add(hasher, text.as_bytes()),
            Part::Media(medium) => {
                add(hasher, medium.modality.placeholder().as_bytes());
                match (&medium.content, folder) {
                    (_, None) => (),
                    (Content::File(path), Some(folder)) => {
                        let path = path.strip_prefix(folder).unwrap_or(path);
                        add(hasher, path.as_os_str().as_encoded_bytes());
                    }
                    (Content::Bytes { name, .. }, _) => add(hasher, name.as_bytes()),
                }
            }
        }
    }
}

fn add_extra(hasher: &mut Hasher, sample: &Sample) {
    let mut extra = sample.extra.clone();
    // It was a column like any other before it had a meaning.
    extra.extend(sample.label.map(|label| ("label".to_owned(), label.into())));
    hasher.update(&(extra.len() as u64).to_le_bytes());
    for (name, value) in &extra {
        add(hasher, name.as_bytes());
        add(hasher, value.to_string().as_bytes());
    }
}

/// What a medium is known by: of a file its size and both ends, of bytes at hand all of them.
fn print_of(content: &Content) -> Vec<u8> {
    match content {
        Content::File(path) => ends(path).unwrap_or_default(),
        Content::Bytes { bytes, .. } => blake3::hash(bytes).as_bytes().to_vec(),
    }
}

/// Hash of the size and both ends of a file.
fn ends(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut bytes = size.to_le_bytes().to_vec();
    if size <= 2 * END_BYTES {
        file.read_to_end(&mut bytes)?;
    } else {
        (&mut file).take(END_BYTES).read_to_end(&mut bytes)?;
        file.seek(SeekFrom::End(-(END_BYTES as i64)))?;
        file.read_to_end(&mut bytes)?;
    }
    Ok(blake3::hash(&bytes).as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{ReadOptions, read_jsonl, read_pairs};

    fn of(folder: &Path, text: &str) -> Fingerprint {
        fs::write(folder.join("rows.jsonl"), text).unwrap();
        Fingerprint::of(
            &read_jsonl(&folder.join("rows.jsonl"), ReadOptions::default()).unwrap().rows,
            MediaNames::Counted,
        )
    }

    const ROW: &str = r#"{"id": "a", "prompt": "<image>?", "images": ["a.png"], "answer": "1"}"#;

    #[test]
    fn any_change_of_a_row_or_of_a_medium_is_seen_and_moving_the_folder_is_not() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.png"), vec![7; 50_000]).unwrap();
        fs::write(folder.path().join("b.png"), vec![7; 50_000]).unwrap();
        let was = of(folder.path(), ROW);
        assert_eq!(was.difference(&of(folder.path(), &ROW.replace(": ", ":"))), None, "spelling of the JSON");
        for (from, to) in
            [("\"a\"", "\"b\""), ("?", "!"), ("\"1\"", "2"), ("a.png", "b.png"), ("answer", "completion")]
        {
            let now = of(folder.path(), &ROW.replace(from, to));
            assert_eq!(was.difference(&now).as_deref(), Some("its rows are others"), "{from} to {to}");
        }
        let longer = of(folder.path(), &format!("{ROW}\n{ROW}"));
        assert_eq!(was.difference(&longer).as_deref(), Some("it had 1 rows and has 2"));
        let mut changed = vec![7; 50_000];
        changed[49_990] = 8;
        fs::write(folder.path().join("a.png"), changed).unwrap();
        assert_eq!(was.difference(&of(folder.path(), ROW)).as_deref(), Some("its media files are others"));
        fs::remove_file(folder.path().join("a.png")).unwrap();
        assert!(was.difference(&of(folder.path(), ROW)).is_some());
        let moved = tempfile::tempdir().unwrap();
        fs::write(moved.path().join("a.png"), vec![7; 50_000]).unwrap();
        assert_eq!(was.difference(&of(moved.path(), ROW)), None);
        let text = serde_json::to_string(&was).unwrap();
        assert_eq!(serde_json::from_str::<Fingerprint>(&text).unwrap(), was);
    }

    #[test]
    fn further_columns_count_where_they_were_known() {
        let folder = tempfile::tempdir().unwrap();
        let with = |columns: &str| of(folder.path(), &format!(r#"{{"id": "a", "prompt": "p"{columns}}}"#));
        let was = with(r#", "level": 1"#);
        assert_eq!(was.difference(&with(r#", "level": 1"#)), None);
        let said = "the further columns of its rows are others";
        for other in ["", r#", "level": 1, "label": true"#, r#", "level": 2"#, r#", "level": 1, "more": 0"#] {
            assert_eq!(was.difference(&with(other)).as_deref(), Some(said), "{other}");
        }
        let older = Fingerprint { extra: None, ..was.clone() };
        assert_eq!(older.difference(&with(r#", "level": 2"#)), None, "a run from before they were kept");
        assert!(!serde_json::to_string(&older).unwrap().contains("extra"));
    }

    #[test]
    fn which_row_shows_which_medium_counts_without_names_too() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rows.jsonl");
        for (name, byte) in [("a.png", 1), ("b.png", 2)] {
            fs::write(folder.path().join(name), vec![byte; 100]).unwrap();
        }
        let of = |shown: [&str; 3]| {
            let row = |name: &str| format!(r#"{{"id": 1, "prompt": "<image>?", "images": ["{name}.png"]}}"#);
            fs::write(&file, shown.map(row).join("\n")).unwrap();
            let rows = read_jsonl(&file, ReadOptions::default()).unwrap().rows;
            Fingerprint::of(&rows, MediaNames::LeftOut)
        };
        let was = of(["a", "b", "a"]);
        assert_eq!(was.difference(&of(["a", "b", "a"])), None);
        assert_eq!(was.difference(&of(["a", "b", "b"])).as_deref(), Some("its rows show other media"));
        let older = Fingerprint { shown: None, ..was };
        assert_eq!(older.difference(&of(["a", "b", "b"])), None, "a run from before it was kept");
    }

    #[test]
    fn both_completions_of_a_comparison_count() {
        let folder = tempfile::tempdir().unwrap();
        let of = |chosen: &str, rejected: &str| {
            let row =
                format!(r#"{{"id": "a", "prompt": "p", "chosen": "{chosen}", "rejected": "{rejected}"}}"#);
            fs::write(folder.path().join("rows.jsonl"), row).unwrap();
            Fingerprint::of_pairs(
                &read_pairs(&folder.path().join("rows.jsonl"), ReadOptions::default()).unwrap().rows,
                MediaNames::Counted,
            )
        };
        assert_eq!(of("x", "y"), of("x", "y"));
        assert!(of("x", "y").difference(&of("y", "x")).is_some());
    }
}
