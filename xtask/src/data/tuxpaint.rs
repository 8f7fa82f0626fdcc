//! The `tuxpaint` task: drawings and photos, and their names spoken in French.
//!
//! The stamps are free under the GPL, version 2 or later, and stay out of the repository: they come from Debian and go
//! into the user's data folder.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use rand::{
    SeedableRng,
    seq::{IndexedRandom, SliceRandom},
};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::{
    questions::Row,
    stamp_questions::{Draw, Kind, picture_path, sound_path},
    stamps::{self, Stamp},
};

const PACKAGE: &str = "tuxpaint-stamps-default";

/// Where the package puts the stamps.
const INSTALLED: &str = "usr/share/tuxpaint/stamps";

const NOTICE: &str = "\
Pictures and sounds: Tux Paint stamps, copyright 2002-2022 by Bill Kendrick and the contributors that its documentation
names, GNU General Public License, version 2 or later, from the Debian package tuxpaint-stamps-default. Drawings that the
package has as SVG only were drawn as PNG.
Questions: made by `cargo xtask data tuxpaint`, under the same licence.
";

/// Parts of a hundred of the groups that only `test` and `val` show.
const TEST_SHARE: usize = 20;
const VAL_SHARE: usize = 8;

/// Makes the dataset from the stamps in `folder`, or from the installed package, or from the one that apt downloads.
pub fn make(folder: Option<&Path>, target: Option<PathBuf>) -> Result<()> {
    let target = target.unwrap_or_else(|| data_folder().join("tuxpaint"));
    let installed = Path::new("/").join(INSTALLED);
    match folder {
        Some(folder) => write(folder, &target),
        None if installed.is_dir() => write(&installed, &target),
        None => {
            let downloaded = tempfile::tempdir()?;
            download(downloaded.path())?;
            write(&downloaded.path().join(INSTALLED), &target)
        }
    }
}

/// Downloads the package with apt and unpacks it; nothing is installed.
fn download(folder: &Path) -> Result<()> {
    let hint =
        || format!("install the Debian package {PACKAGE}, or name the folder of its stamps with --stamps");
    let run = |program: &str, args: &[&str]| -> Result<()> {
        let output = Command::new(program).args(args).current_dir(folder).output().with_context(hint)?;
        ensure!(
            output.status.success(),
            "{program}: {}; {}",
            String::from_utf8_lossy(&output.stderr).trim(),
            hint()
        );
        Ok(())
    };
    run("apt-get", &["download", PACKAGE])?;
    let package = fs::read_dir(folder)?.next().context("apt-get download leaves a file")??.path();
    run("dpkg-deb", &["--extract", &package.to_string_lossy(), "."])
}

/// Where `kyoka` looks for data by name: `$KYOKA_DATA_DIR`, else `$XDG_DATA_HOME/kyoka`, else `~/.local/share/kyoka`.
fn data_folder() -> PathBuf {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("KYOKA_DATA_DIR")
        .or_else(|| variable("XDG_DATA_HOME").map(|base| base.join("kyoka")))
        .or_else(|| {
            variable("HOME").or_else(|| variable("USERPROFILE")).map(|home| home.join(".local/share/kyoka"))
        })
        .unwrap_or_else(|| PathBuf::from("kyoka-data"))
}

/// Writes beside the target and renames, so that a folder that is there is whole.
fn write(stamps_folder: &Path, target: &Path) -> Result<()> {
    let stamps = stamps::read_all(stamps_folder)?;
    let files = dataset(&stamps)?;
    let aside = target.with_extension(format!("{}.tmp", std::process::id()));
    let written = files.iter().try_for_each(|(name, bytes)| {
        let path = aside.join(name);
        fs::create_dir_all(path.parent().context("files lie in the folder")?)?;
        fs::write(&path, bytes).with_context(|| path.display().to_string())
    });
    if let Err(error) = written {
        let _ = fs::remove_dir_all(&aside);
        return Err(error);
    }
    if target.exists() {
        fs::remove_dir_all(target)?;
    }
    fs::rename(&aside, target).with_context(|| target.display().to_string())?;
    let bytes: usize = files.values().map(Vec::len).sum();
    println!(
        "{}: {} files, {:.1} MB, digest {}",
        target.display(),
        files.len(),
        bytes as f64 / 1e6,
        digest(&files)
    );
    Ok(())
}

/// One number for all files: two runs on one package print the same.
fn digest(files: &BTreeMap<String, Vec<u8>>) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, bytes) in files {
        hasher.update(name.as_bytes()).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// A line of `stamps.jsonl`.
#[derive(Serialize)]
struct Entry<'a> {
    image: String,
    audio: String,
    label: &'a str,
    spoken: &'a str,
    group: usize,
    split: &'static str,
}

fn dataset(stamps: &[Stamp]) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::from([("NOTICE".to_owned(), NOTICE.as_bytes().to_vec())]);
    let pictures = stamps.iter().map(Stamp::png).collect::<Result<Vec<_>>>()?;
    let split_of = split_stamps(stamps, &pictures);
    for (stamp, picture) in stamps.iter().zip(pictures) {
        files.insert(picture_path(stamp), picture);
        files.insert(sound_path(stamp), stamp.ogg()?);
    }
    let entries = stamps.iter().zip(&split_of).map(|(stamp, split)| Entry {
        image: picture_path(stamp),
        audio: sound_path(stamp),
        label: &stamp.label,
        spoken: &stamp.spoken,
        group: stamp.group,
        split,
    });
    files.insert("stamps.jsonl".to_owned(), jsonl(entries)?);
    for (name, rows) in splits(stamps, &split_of) {
        files.insert(format!("{name}.jsonl"), jsonl(rows)?);
    }
    Ok(files)
}

/// The split of stamps whose picture is never trained on although others of their name are. What their voices say is
/// trained on, in most cases the same recording.
const SHARED: &str = "test_shared";

/// The split of every stamp: `val` and `test` hold names that are never trained on; of each name in `train` that several
/// stamps share, one with a picture that no other has is [`SHARED`].
fn split_stamps(stamps: &[Stamp], pictures: &[Vec<u8>]) -> Vec<&'static str> {
    let mut copies: HashMap<&[u8], usize> = HashMap::new();
    pictures.iter().for_each(|picture| *copies.entry(picture).or_default() += 1);
    let split_of_group = split_groups(stamps);
    let mut split_of: Vec<&str> = stamps.iter().map(|stamp| split_of_group[stamp.group]).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for (group, _) in split_of_group.iter().enumerate().filter(|(_, split)| **split == "train") {
        let places: Vec<usize> = (0..stamps.len()).filter(|&place| stamps[place].group == group).collect();
        if let (2.., Some(&chosen)) = (places.len(), places.choose(&mut rng))
            && copies[pictures[chosen].as_slice()] == 1
        {
            split_of[chosen] = SHARED;
        }
    }
    split_of
}

/// `train`, `val` or `test` for every group.
fn split_groups(stamps: &[Stamp]) -> Vec<&'static str> {
    let count = stamps.iter().map(|stamp| stamp.group + 1).max().unwrap_or(0);
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(0));
    let mut split_of = vec!["train"; count];
    for (place, &group) in order.iter().enumerate() {
        if place * 100 < count * TEST_SHARE {
            split_of[group] = "test";
        } else if place * 100 < count * (TEST_SHARE + VAL_SHARE) {
            split_of[group] = "val";
        }
    }
    split_of
}

/// Rows by split. The two kinds of question stand alone as well: their chance levels differ, and one of them is a quarter
/// of the work. So do yes/no questions about names that several stamps share.
fn splits(stamps: &[Stamp], split_of: &[&str]) -> Vec<(String, Vec<Row>)> {
    let shared: BTreeSet<usize> =
        stamps.iter().zip(split_of).filter(|(_, split)| **split == SHARED).map(|(s, _)| s.group).collect();
    let groups = |split: &str, wanted: &dyn Fn(usize) -> bool| -> Vec<Vec<&Stamp>> {
        let mut groups: BTreeMap<usize, Vec<&Stamp>> = BTreeMap::new();
        for (stamp, _) in stamps.iter().zip(split_of).filter(|(_, of)| **of == split) {
            groups.entry(stamp.group).or_default().push(stamp);
        }
        groups.into_iter().filter(|(group, _)| wanted(*group)).map(|(_, stamps)| stamps).collect()
    };
    let mut splits = Vec::new();
    for (name, split, worked, num_rows, seed) in [
        ("sft_shared", "train", true, 2_000, 6),
        ("train_shared", "train", false, 2_000, 7),
        (SHARED, SHARED, false, 400, 8),
    ] {
        let groups = groups(split, &|group| shared.contains(&group));
        let draw = Draw { name, groups: &groups, worked };
        let rows = draw.rows(&[Kind::Named], num_rows, &mut ChaCha8Rng::seed_from_u64(seed));
        let rows = if name == SHARED { distinct(rows) } else { rows };
        splits.push((name.to_owned(), rows));
    }
    for (name, split, worked, num_rows, seed) in [
        ("sft", "train", true, 4_000, 1),
        ("train", "train", false, 4_000, 2),
        ("val", "val", false, 200, 3),
        ("test", "test", false, 800, 4),
    ] {
        let groups = groups(split, &|_| true);
        let draw = Draw { name, groups: &groups, worked };
        let rows = draw.rows(&[Kind::Named, Kind::Which], num_rows, &mut ChaCha8Rng::seed_from_u64(seed));
        let (named, which) = rows.iter().cloned().partition(|row: &Row| row.images.len() == 1);
        splits.extend([
            (format!("{name}_named"), named),
            (format!("{name}_which"), which),
            (name.to_owned(), rows),
        ]);
    }
    splits
}

/// Every question once, yes and no in equal parts: what is answered twice is one observation.
fn distinct(mut rows: Vec<Row>) -> Vec<Row> {
    let mut seen = BTreeSet::new();
    rows.retain(|row| seen.insert((row.images.clone(), row.audios.clone())));
    let count = |answer: &str| rows.iter().filter(|row| row.answer == answer).count();
    let each = count("yes").min(count("no"));
    let mut taken = BTreeMap::new();
    rows.retain(|row| {
        let taken = taken.entry(row.answer.clone()).or_insert(0);
        *taken += 1;
        *taken <= each
    });
    rows
}

fn jsonl(rows: impl IntoIterator<Item = impl Serialize>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut bytes, &row)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tested_is_never_trained_on() {
        // Sixty names, each of them shared by two stamps in every third case.
        let stamps: Vec<Stamp> = (0..60)
            .flat_map(|group| (0..1 + usize::from(group % 3 == 0)).map(move |i| (group, i)))
            .map(|(group, i)| Stamp::named(&format!("g{group}-{i}"), group))
            .collect();
        // The two stamps of every sixth name show the same picture: neither can be tested.
        let copied = |stamp: &Stamp| stamp.group.is_multiple_of(6);
        let picture = |stamp: &Stamp| match copied(stamp) {
            true => stamp.group.to_string().into_bytes(),
            false => stamp.path.clone().into_bytes(),
        };
        let split_of = split_stamps(&stamps, &stamps.iter().map(picture).collect::<Vec<_>>());
        let of_copies: Vec<&str> = stamps
            .iter()
            .zip(&split_of)
            .filter(|(stamp, _)| copied(stamp))
            .map(|(_, split)| *split)
            .collect();
        assert!(of_copies.contains(&"train") && !of_copies.contains(&SHARED), "{of_copies:?}");
        let rows: BTreeMap<String, Vec<Row>> = splits(&stamps, &split_of).into_iter().collect();
        let media = |names: &[&str]| -> BTreeSet<String> {
            let rows = names.iter().flat_map(|name| &rows[*name]);
            rows.flat_map(|row| row.images.iter().chain(&row.audios).cloned()).collect()
        };
        let trained = media(&["sft", "train", "sft_shared", "train_shared"]);
        // Of `images/g12-0.png`, `g12`.
        let group = |path: &String| {
            let name = path.rsplit('/').next().unwrap_or_default();
            name.split('-').next().unwrap_or_default().to_owned()
        };
        let trained_names: BTreeSet<String> = trained.iter().map(group).collect();
        for path in media(&["val", "test"]) {
            assert!(!trained_names.contains(&group(&path)), "{path}");
        }
        let shared = media(&[SHARED]);
        assert!(shared.len() > 5, "{shared:?}");
        let mut questions: Vec<_> = rows[SHARED].iter().map(|row| (&row.images, &row.audios)).collect();
        let yes = rows[SHARED].iter().filter(|row| row.answer == "yes").count();
        assert_eq!(2 * yes, questions.len(), "half of the answers are yes");
        questions.sort();
        questions.dedup();
        assert_eq!(questions.len(), rows[SHARED].len(), "no question stands there twice");
        for path in &shared {
            assert!(!trained.contains(path) && trained_names.contains(&group(path)), "{path}");
        }
    }
}
