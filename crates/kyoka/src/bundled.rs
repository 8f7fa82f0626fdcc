//! Data that come with the program.

use std::{
    fs,
    path::{Path, PathBuf},
};

use flate2::read::GzDecoder;

use crate::Error;

/// Archives by dataset name.
const BUNDLED: [(&str, &[u8]); 1] = [("spoken-count", include_bytes!("../assets/spoken-count.tar.gz"))];

/// Where unpacked data lie: `$KYOKA_DATA_DIR`, else `$XDG_DATA_HOME/kyoka`, else `~/.local/share/kyoka`.
pub fn data_folder() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("KYOKA_DATA_DIR")
        .or_else(|| variable("XDG_DATA_HOME").map(|base| base.join("kyoka")))
        .or_else(|| {
            variable("HOME").or_else(|| variable("USERPROFILE")).map(|home| home.join(".local/share/kyoka"))
        })
        .unwrap_or_else(|| PathBuf::from("kyoka-data"))
}

/// Datasets that cannot be bundled, and what puts them into the data folder.
const FETCHED: [(&str, &str); 1] = [("tuxpaint", "cargo xtask data tuxpaint")];

/// The folder of a dataset: a bundled one by name (unpacked on first use), one fetched into the data folder, else a folder
/// on disk.
///
/// # Errors
/// If it is none of them (for one that can be fetched, how), or the archive cannot be unpacked.
pub fn dataset_folder(dataset: &str) -> Result<PathBuf, Error> {
    if let Some((name, archive)) = BUNDLED.iter().find(|(name, _)| *name == dataset) {
        return unpack(name, archive, &data_folder());
    }
    let folder = PathBuf::from(dataset);
    if folder.is_dir() {
        return Ok(folder);
    }
    if let Some((name, command)) = FETCHED.iter().find(|(name, _)| *name == dataset) {
        let folder = data_folder().join(name);
        return match folder.is_dir() {
            true => Ok(folder),
            false => Err(Error::file(folder, format!("not there yet: run `{command}` first"))),
        };
    }
    let names = BUNDLED.iter().map(|(name, _)| *name).chain(FETCHED.iter().map(|(name, _)| *name));
    let hint =
        kyoka_core::nearest(dataset, names).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    Err(Error::file(folder, format!("no such folder and no bundled dataset of that name{hint}")))
}

/// Unpacks beside the target and renames, so that a folder that is there is whole.
fn unpack(name: &str, archive: &[u8], data_folder: &Path) -> Result<PathBuf, Error> {
    let tag = &blake3::hash(archive).to_hex()[..12];
    let target = data_folder.join(format!("{name}-{tag}"));
    if target.is_dir() {
        return Ok(target);
    }
    let aside = data_folder.join(format!("{name}-{tag}.tmp"));
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(data_folder)?;
        // One process at a time: what lies aside once this one has its turn was left by one that was killed.
        let lock = fs::File::create(data_folder.join(format!(".{name}-{tag}.lock")))?;
        match lock.lock() {
            Err(error) if error.kind() != std::io::ErrorKind::Unsupported => return Err(error),
            _ => {}
        }
        if target.is_dir() {
            return Ok(());
        }
        if aside.exists() {
            fs::remove_dir_all(&aside)?;
        }
        fs::create_dir_all(&aside)?;
        tar::Archive::new(GzDecoder::new(archive)).unpack(&aside)?;
        fs::rename(&aside, &target)
    };
    write().map_err(|error| {
        let _ = fs::remove_dir_all(&aside);
        Error::file(&target, format!("cannot unpack the bundled data: {error}"))
    })?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_unpacks_once_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (name, archive) = BUNDLED[0];
        let tag = &blake3::hash(archive).to_hex()[..12];
        let left = folder.path().join(format!("{name}-{tag}.tmp"));
        fs::create_dir(&left).unwrap();
        fs::write(left.join("half.png"), "left by a kill").unwrap();
        let first = unpack(name, archive, folder.path()).unwrap();
        assert!(first.join("tokenizer.json").is_file() && first.join("images/test/boot/099.png").is_file());
        assert_eq!(unpack(name, archive, folder.path()).unwrap(), first);
        assert!(!left.exists() && !first.join("half.png").exists(), "what a kill left is removed");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            2,
            "nothing but the lock is left beside the data"
        );
        assert!(archive.len() <= 8_000_000);
    }

    #[test]
    fn an_unknown_dataset_names_the_nearest() {
        let error = dataset_folder("spoken-cuont").unwrap_err().to_string();
        assert!(error.contains("did you mean spoken-count?"), "{error}");
    }
}
