//! Rows of a file: an object a line (JSONL), or one JSON array of objects.

use std::path::{Component, Path, PathBuf};

use kyoka_core::{Message, Modality, Origin, Role, Sample, conversation_parts};

use crate::{DataError, RowFault, columns::Columns, json::rows_of, warnings::Notes};

/// How a dataset is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadOptions {
    /// Allow media outside the dataset's folder: absolute paths, `..`, and links that lead out. Default false.
    pub allow_outside: bool,
    /// The rows hold completions that are only judged: a prompt may be missing, and `completions` may be a list, kept in
    /// [`Sample::extra`]. Default false.
    pub judged: bool,
}

/// The rows of a file that can be used.
#[derive(Debug, Clone)]
pub struct Rows<T> {
    /// At least one row, in the file's order.
    pub rows: Vec<T>,
    /// What the user should know about the file: columns that nothing reads, ids that stand more than once.
    pub warnings: Vec<String>,
}

impl<T> From<Vec<T>> for Rows<T> {
    fn from(rows: Vec<T>) -> Self {
        Self { rows, warnings: Vec::new() }
    }
}

/// What a file holds, good and bad.
#[derive(Debug, Clone)]
pub struct Scan<T> {
    /// The good rows.
    pub rows: Vec<T>,
    /// What is wrong with the others.
    pub faults: Vec<RowFault>,
    /// What the user should know besides.
    pub warnings: Vec<String>,
}

/// Reads all rows of a file.
///
/// # Errors
/// Lists every faulty row with its place: JSON that does not parse, bytes that are no UTF-8, rows that are no objects,
/// fields of the wrong type, an `id`, prompt or answer that is empty, columns whose name nearly is a known one,
/// placeholders that do not match the media, media outside the folder. Whether the media can be decoded is not looked at
/// here.
pub fn read_jsonl(path: &Path, options: ReadOptions) -> Result<Rows<Sample>, DataError> {
    all_good(path, scan_jsonl(path, options)?)
}

/// All rows, if there is one and none is faulty.
pub(crate) fn all_good<T>(path: &Path, scan: Scan<T>) -> Result<Rows<T>, DataError> {
    let Scan { rows, faults, warnings } = scan;
    match (faults.is_empty(), rows.is_empty()) {
        (false, _) => Err(DataError::Rows(faults)),
        (true, true) => Err(DataError::Empty { path: path.to_owned() }),
        (true, false) => Ok(Rows { rows, warnings }),
    }
}

/// The good rows of a file, and the faults of the others.
///
/// # Errors
/// If the file cannot be read at all.
pub fn scan_jsonl(path: &Path, options: ReadOptions) -> Result<Scan<Sample>, DataError> {
    scan_rows(path, options, |_, sample| sample)
}

/// The good rows of a file, and the faults of the others; `finish` makes a row of a sample and the columns it left.
pub(crate) fn scan_rows<T>(
    path: &Path,
    options: ReadOptions,
    finish: impl Fn(&mut Columns, Sample) -> T,
) -> Result<Scan<T>, DataError> {
    let bytes = std::fs::read(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    let folder = Folder::of(path);
    let mut notes = Notes::default();
    let (mut rows, mut faults) = (Vec::new(), Vec::new());
    for (place, row) in rows_of(&bytes) {
        let origin = Origin { file: path.to_owned(), place };
        let fault =
            |(field, message): (Option<String>, String)| RowFault { origin: origin.clone(), field, message };
        let mut columns = match row.and_then(Columns::new) {
            Ok(columns) => columns,
            Err(message) => {
                faults.push(fault((None, message)));
                continue;
            }
        };
        let sample = Sample { origin: origin.clone(), ..sample_of(&mut columns, &folder, options) };
        let id = sample.id.clone();
        let row = finish(&mut columns, sample);
        let unread = columns.unread();
        if columns.faults.is_empty() {
            rows.push(row);
            notes.id(&id, &origin);
            unread.into_iter().for_each(|column| notes.unread(column, &origin));
        }
        faults.extend(columns.faults.into_iter().map(fault));
    }
    Ok(Scan { rows, faults, warnings: notes.messages(path) })
}

/// The columns that every row may have; what is wrong with them becomes faults of `columns`.
fn sample_of(columns: &mut Columns, folder: &Folder<'_>, options: ReadOptions) -> Sample {
    let id = columns.name("id", "a name");
    let mut said = columns.conversation(options.judged);
    let (images, audios) = (columns.paths("images"), columns.paths("audios"));
    if !options.allow_outside {
        for (field, paths) in [("images", &images), ("audios", &audios)] {
            for path in paths.iter().filter(|path| folder.leaves(path)) {
                columns.fault(field, format!("{} lies outside the dataset's folder", path.display()));
            }
        }
    }
    let several = if options.judged { columns.take("completions") } else { None };
    // A conversation that ends with the policy's words has the answer that SFT learns.
    let ends = said.len() > 1 && said.last().is_some_and(|(role, _)| *role == Role::Assistant);
    let last = if ends { said.pop() } else { None };
    let completion = match (columns.text("completion"), last) {
        (Some(_), Some(_)) => {
            let stands = "stands beside messages that end with the policy's; expected one of both";
            columns.fault("completion", stands);
            None
        }
        (Some(completion), None) | (None, Some((_, completion))) => Some(completion),
        (None, None) => None,
    };
    let texts: Vec<&str> = said.iter().map(|(_, text)| text.as_str()).collect();
    let parts = conversation_parts(&texts, folder.path, &images, &audios).unwrap_or_else(|mismatches| {
        for mismatch in mismatches.iter().filter(|_| texts.iter().any(|text| !text.is_empty())) {
            let field = match mismatch.modality {
                Modality::Image => "images",
                Modality::Audio => "audios",
            };
            columns.fault(field, mismatch.to_string());
        }
        Vec::new()
    });
    let label = columns.boolean("label");
    let extra = columns.unknown();
    // What reward models and rules read of them.
    for name in ["score", "tag", "options", "schema", "reward"] {
        columns.take(name);
    }
    Sample {
        id,
        messages: said.iter().zip(parts).map(|((role, _), parts)| Message { role: *role, parts }).collect(),
        answer: columns.answer("answer"),
        steps: columns.labels("steps"),
        completion,
        label,
        extra: extra.into_iter().chain(several.map(|list| ("completions".to_owned(), list))).collect(),
        origin: Origin::default(),
    }
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

    use kyoka_core::Place;

    fn read(text: &[u8], options: ReadOptions) -> Result<Vec<Sample>, DataError> {
        read_with_warnings(text, options).map(|read| read.rows)
    }

    fn read_with_warnings(text: &[u8], options: ReadOptions) -> Result<Rows<Sample>, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rows.jsonl");
        std::fs::write(&file, text).unwrap();
        read_jsonl(&file, options)
    }

    fn good(text: &[u8]) -> Vec<Sample> {
        read(text, ReadOptions::default()).unwrap()
    }

    fn faults(text: &[u8]) -> Vec<String> {
        match read(text, ReadOptions::default()) {
            Err(DataError::Rows(faults)) => faults
                .iter()
                .map(|f| {
                    let place = match f.origin.place {
                        Place::Line(line) => line.to_string(),
                        Place::Row(row) => format!("row {row}"),
                    };
                    format!("{place} {} {}", f.field.clone().unwrap_or_default(), f.message)
                })
                .collect(),
            other => panic!("expected row faults, got {other:?}"),
        }
    }

    #[test]
    fn media_stand_where_their_placeholders_are() {
        let row = br#"{"id":"a","prompt":"<image>and<audio><image>?","images":["1.png","2.png"],"audios":["s.wav"]}"#;
        let samples = read(row, ReadOptions::default()).unwrap();
        assert_eq!(samples[0].prompt_text(), "<image>and<audio><image>?");
        let images = samples[0].media().filter(|medium| medium.modality == Modality::Image);
        let names: Vec<_> =
            images.map(|m| m.content.path().unwrap().file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["1.png", "2.png"]);
    }

    #[test]
    fn a_row_may_be_a_conversation_that_the_policy_goes_on_with() {
        let row = |messages: &str, more: &str| {
            format!("{{\"id\": 1, \"messages\": [{messages}], \"images\": [\"a.png\", \"b.png\"]{more}}}")
        };
        let said = |role: &str, text: &str| format!("{{\"role\": \"{role}\", \"content\": \"{text}\"}}");
        let first = [said("system", "Be brief."), said("user", "<image> what?"), said("assistant", "a cat")];
        let asked = [&first[..], &[said("user", "and <image>?")]].concat().join(", ");
        let rows = good(row(&asked, "").as_bytes());
        let text = "[system] Be brief.\n[user] <image> what?\n[assistant] a cat\n[user] and <image>?";
        assert_eq!(
            (rows[0].prompt_text().as_str(), rows[0].media().count(), &rows[0].completion),
            (text, 2, &None)
        );
        let answered = [asked.clone(), said("assistant", "a dog")].join(", ");
        let rows = good(row(&answered, "").as_bytes());
        assert_eq!((rows[0].prompt_text().as_str(), rows[0].completion.as_deref()), (text, Some("a dog")));
        for (messages, more, expected) in [
            (asked.as_str(), ", \"prompt\": \"p\"", "1 prompt stands beside messages"),
            (asked.as_str(), ", \"system\": \"p\"", "1 system stands beside messages"),
            (answered.as_str(), ", \"completion\": \"p\"", "1 completion stands beside messages that end"),
            (first[1].as_str(), "", "1 images the prompt has 1 <image> placeholder(s), but 2 file(s)"),
            (first[0].as_str(), "", "1 messages expected a message of the user"),
            ("{\"role\": \"human\", \"content\": \"?\"}", "", "1 messages expected a list such as"),
            ("5", "", "1 messages expected a list such as"),
        ] {
            let found = faults(row(messages, more).as_bytes());
            assert!(found[0].starts_with(expected), "{messages}: {found:?}");
        }
    }

    #[test]
    fn a_label_is_true_or_false_and_anything_else_a_column_of_its_own() {
        let row = |label: &str| format!(r#"{{"id": 1, "prompt": "p", "completion": "c", "label": {label}}}"#);
        let read = |label: &str| good(row(label).as_bytes()).remove(0);
        assert_eq!(
            (read("true").label, read("false").label, read("null").label),
            (Some(true), Some(false), None)
        );
        let named = read("\"cat\"");
        assert_eq!((named.label, named.extra["label"].as_str()), (None, Some("cat")), "a class, say");
        assert!(!read("true").extra.contains_key("label"));
    }

    #[test]
    fn completions_that_are_only_judged_need_no_prompt() {
        let row = br#"{"id": 1, "answer": "2", "completions": ["2", "3"]}"#;
        let rows = read(row, ReadOptions { judged: true, ..ReadOptions::default() }).unwrap();
        assert_eq!(
            (rows[0].messages.len(), &rows[0].extra["completions"]),
            (0, &serde_json::json!(["2", "3"]))
        );
        assert!(read(row, ReadOptions::default()).is_err());
        let empty =
            read(br#"{"id": 1, "prompt": " "}"#, ReadOptions { judged: true, ..ReadOptions::default() });
        assert!(empty.is_err(), "a prompt that is there must say something");
    }

    #[test]
    fn answers_are_kept_as_they_stand() {
        let boxes = r#"{"id": 1, "prompt": "p", "answer": {"boxes": [[1, 2, 3, 4]]}}"#;
        let rows =
            good([boxes, r#"{"id": 2, "prompt": "p", "answer": [[1, 2], [3, 4]]}"#].join("\n").as_bytes());
        assert_eq!(rows[0].answer, Some(serde_json::json!({"boxes": [[1, 2, 3, 4]]})));
        assert_eq!(rows[1].answers(), ["[1,2]", "[3,4]"]);
    }

    #[test]
    fn all_faults_are_listed_with_line_and_field() {
        let text = b"{\"id\":\"a\",\"prompt\":\"<image>x\"}\n\nnot json\n{\"id\":\"b\",\"prompt\":\" \"}\n\xff\xfe\n\
            {\"id\":\"c\",\"prompt\":\"<audio>\",\"audios\":[\"../s.wav\"]}\n{\"id\":\"d\",\"prompt\":\"p\"}\n{\"id\":\"d\",\"prompt\":\"q\"}";
        let found = faults(text);
        assert_eq!(found.len(), 5, "{found:#?}");
        assert!(found[0].starts_with("1 images the prompt has 1 <image> placeholder(s), but 0 file(s)"));
        assert!(found[1].starts_with("3  invalid row"));
        assert!(found[2].starts_with("4 prompt expected a question"));
        assert!(found[3].starts_with("5  invalid UTF-8"));
        assert!(found[4].contains("../s.wav lies outside"));
    }

    #[test]
    fn what_exporters_write_is_taken() {
        let text = "\u{feff}{\"id\": 7, \"prompt\": \"<image>?\", \"images\": \"a.png\", \"answer\": 2.5}\r\n\
            {\"id\": true, \"prompt\": \"p\", \"images\": null, \"audios\": null, \"answer\": null, \"steps\": null, \
            \"completion\": null, \"system\": null}\r\n\
            \u{feff}{\"id\": \"c\", \"prompt\": \"p\", \"answer\": [1, \"one\", true], \"system\": \"Be brief.\"}\r\n";
        let rows = good(text.as_bytes());
        assert_eq!(rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["7", "true", "c"]);
        assert_eq!(rows[0].media().count(), 1);
        assert_eq!(rows[0].answers(), ["2.5"]);
        assert_eq!((rows[1].answers().len(), rows[1].steps.len(), &rows[1].completion), (0, 0, &None));
        assert_eq!(rows[2].answers(), ["1", "one", "true"]);
        let user = Message::of_text(Role::User, "p");
        assert_eq!(rows[1].messages, std::slice::from_ref(&user));
        assert_eq!(rows[2].messages, [Message::of_text(Role::System, "Be brief."), user]);
    }

    #[test]
    fn a_json_array_is_read_like_lines_and_places_are_rows() {
        let lines = b"{\"id\": 1, \"prompt\": \"p\"}\n{\"id\": 2, \"prompt\": \"q\"}";
        for array in [
            "[{\"id\": 1, \"prompt\": \"p\"}, {\"id\": 2, \"prompt\": \"q\"}]",
            "\u{feff}[\n {\n  \"id\": 1,\n  \"prompt\": \"p\"\n },\n {\n  \"id\": 2,\n  \"prompt\": \"q\"\n }\n]\n",
        ] {
            let (rows, expected) = (good(array.as_bytes()), good(lines));
            assert_eq!(
                rows.iter().map(|row| row.origin.place).collect::<Vec<_>>(),
                [Place::Row(1), Place::Row(2)]
            );
            for (row, expected) in rows.into_iter().zip(expected) {
                assert_eq!(
                    Sample { origin: Origin::default(), ..row },
                    Sample { origin: Origin::default(), ..expected }
                );
            }
        }
        let found = faults(b"[{\"id\": 1, \"prompt\": \"p\"},\n 5, {\"id\": 2}]");
        assert_eq!(
            found[0],
            "row 2  expected an object such as {\"id\": \"a\", \"prompt\": \"\u{2026}\"}, got a number"
        );
        assert_eq!(found[1], "row 3 prompt missing; the row has id");
        let cut = faults(b"[{\"id\": 1,\n \"prompt\": \"p\"},\n {\"id\"");
        assert!(cut.len() == 1 && cut[0].starts_with("3  invalid JSON array of rows: EOF"), "{cut:?}");
    }

    #[test]
    fn rows_that_are_no_objects_are_refused() {
        let found = faults(b"[\"a\", \"p\"]\n[\"b\", \"q\"]\n\"c\"\n5\nnull\ntrue\n[1, 2");
        let kinds: Vec<_> = found.iter().map(|fault| fault.rsplit(", ").next().unwrap()).collect();
        let expected =
            ["got a list", "got a list", "got a text", "got a number", "got null", "got a boolean"];
        assert_eq!(kinds[..6], expected);
        assert!(found[6].starts_with("7  invalid row"), "{found:?}");
        assert!(faults(b"\xff\xfe{\0")[0].contains("got UTF-16"));
    }

    #[test]
    fn values_that_say_nothing_or_are_of_another_type_are_refused_with_their_field() {
        for (row, expected) in [
            (r#""answer": """#, "1 answer expected an answer, got an empty text"),
            (r#""answer": " \n""#, "1 answer expected an answer, got an empty text"),
            (r#""answer": []"#, "1 answer expected an answer, got an empty list"),
            (r#""answer": ["a", ""]"#, "1 answer expected an answer, got an empty text"),
            (r#""answer": 123456789012345678901"#, "1 answer 1.2345678901234568e+20 has more digits"),
            (r#""images": 3"#, "1 images expected a path or a list of paths, got a number"),
            (r#""images": [null]"#, "1 images expected texts, got null among them"),
            (r#""steps": "bag""#, "1 steps expected a list of texts, got a text"),
            (r#""completion": 5"#, "1 completion expected a text, got a number"),
            (r#""system": ["a"]"#, "1 system expected a text, got a list"),
            (r#""id": "b""#, "1 id stands twice in the row"),
        ] {
            let found = faults(format!(r#"{{"id": "a", "prompt": "p", {row}}}"#).as_bytes());
            assert!(found.len() == 1 && found[0].starts_with(expected), "{row}: {found:?}");
        }
        assert_eq!(
            faults(br#"{"prompt": 5, "id": []}"#),
            [
                "1 id expected a text, a number or a boolean, got a list",
                "1 prompt expected a text, got a number"
            ]
        );
        assert_eq!(faults(b"{\"id\": null, \"prompt\": \"p\"}"), ["1 id missing; the row has prompt"]);
    }

    #[test]
    fn columns_that_were_meant_to_be_known_ones_are_refused() {
        for (column, known) in [
            ("image", "images"),
            ("audio", "audios"),
            ("img", "images"),
            ("setps", "steps"),
            ("sytem", "system"),
            ("Answer", "answer"),
            ("answers", "answer"),
            ("compeltion", "completion"),
            ("image_path", "images"),
            ("system_prompt", "system"),
        ] {
            let row = format!(r#"{{"id": "a", "prompt": "p", "{column}": "x"}}"#);
            assert_eq!(
                faults(row.as_bytes()),
                [format!("1 {column} unknown column; did you mean `{known}`?")]
            );
        }
        let found = faults(br#"{"id": "a", "question": "p"}"#);
        assert_eq!(found[0], "1 prompt missing; the row has id, question");
        assert_eq!(found[1], "1 question unknown column; did you mean `prompt`?");
    }

    #[test]
    fn other_columns_and_repeated_ids_are_warned_of_once_a_file() {
        let row = r#"{"id": "a", "prompt": "p", "source": "web", "idx": 3, "question": "p", "chosen": "c"}"#;
        let text = [row, row, r#"{"id": "b", "prompt": "p", "level": 1}"#, row].join("\n");
        let read = read_with_warnings(text.as_bytes(), ReadOptions::default()).unwrap();
        assert_eq!(read.rows.len(), 4);
        let extra = serde_json::json!({"source": "web", "idx": 3, "question": "p"});
        assert_eq!(serde_json::json!(read.rows[0].extra), extra, "they are kept for rewards");
        let [unread, repeated] = &read.warnings[..] else { panic!("{:?}", read.warnings) };
        assert!(
            unread.ends_with("rows.jsonl:1: nothing reads `source`, `idx`, `question`, `level`"),
            "{unread}"
        );
        assert!(repeated.contains("rows.jsonl:2: id: a stands at "), "{repeated}");
        assert!(repeated.ends_with("rows.jsonl:1 already; 2 row(s) repeat an id"), "{repeated}");
    }

    #[test]
    fn paths_outside_the_folder_need_permission() {
        let row = br#"{"id":"a","prompt":"<image>","images":["/etc/x.png"]}"#;
        assert!(matches!(read(row, ReadOptions::default()), Err(DataError::Rows(_))));
        let samples = read(row, ReadOptions { allow_outside: true, ..ReadOptions::default() }).unwrap();
        assert_eq!(samples[0].media().next().unwrap().content.path(), Some(Path::new("/etc/x.png")));
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
        assert!(read_jsonl(&file, ReadOptions { allow_outside: true, ..ReadOptions::default() }).is_ok());
    }

    #[test]
    fn a_file_without_rows_is_an_error() {
        assert!(matches!(read(b"\n \n", ReadOptions::default()), Err(DataError::Empty { .. })));
    }
}
