//! The folder of a run belongs to one process at a time.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{ErrorKind, Read, Write},
    path::{Path, PathBuf},
};

use crate::Error;

/// A run's folder, locked until this is dropped.
#[derive(Debug)]
pub(crate) struct RunFolder {
    pub path: PathBuf,
    _lock: File,
}

/// The file that is locked; it holds the number of the process.
const LOCK: &str = ".lock";

impl RunFolder {
    /// Makes and locks the folder of a new run: `out`, or `base`, numbered if it is taken.
    ///
    /// # Errors
    /// If `out` holds a run or checkpoints, or is in use.
    pub fn create(out: Option<&Path>, base: &Path) -> Result<Self, Error> {
        let path = match out {
            Some(out) => {
                fs::create_dir_all(out).map_err(|error| Error::file(out, error))?;
                out.to_owned()
            }
            None => new_folder(base)?,
        };
        let folder = Self::lock(path)?;
        refuse_taken(&folder.path)?;
        Ok(folder)
    }

    /// Locks the folder of a run that is there.
    ///
    /// # Errors
    /// If there is no run in it, or it is in use.
    pub fn reopen(path: &Path) -> Result<Self, Error> {
        config_of(path)?;
        Self::lock(path.to_owned())
    }

    fn lock(path: PathBuf) -> Result<Self, Error> {
        let file = path.join(LOCK);
        let fail = |error: std::io::Error| Error::file(&file, error);
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&file);
        let mut lock = open.map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => {
                lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(fail)?;
            }
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let _ = lock.read_to_string(&mut owner);
                let owner = owner.trim();
                let process = if owner.is_empty() { String::new() } else { format!(" (process {owner})") };
                let reason =
                    format!("another run{process} is writing here; wait for its end, or name another folder");
                return Err(Error::file(&path, reason));
            }
            // A file system without locks must not keep anybody from training.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(fail(error)),
        }
        Ok(Self { path, _lock: lock })
    }
}

/// Refuses a folder that holds a run, or checkpoints of one.
pub(crate) fn refuse_taken(folder: &Path) -> Result<(), Error> {
    if folder.join("config.toml").exists() {
        return Err(Error::file(folder, "holds a run already; name another folder or use --resume"));
    }
    if has_entries(&folder.join("checkpoints")) {
        let reason = "holds checkpoints of another run (there is no config.toml); name another folder, or move them away";
        return Err(Error::file(folder, reason));
    }
    Ok(())
}

/// The `config.toml` of a run.
///
/// # Errors
/// If there is none: the folder holds no run, or one that nobody knows.
pub(crate) fn config_of(run: &Path) -> Result<PathBuf, Error> {
    let config = run.join("config.toml");
    if config.is_file() {
        return Ok(config);
    }
    let reason = match has_entries(&run.join("checkpoints")) {
        true => {
            "holds checkpoints but no config.toml, so that nobody knows the run; start a new one from them with \
             --set model.start=FOLDER"
        }
        false => "holds no run: there is no config.toml",
    };
    Err(Error::file(run, reason))
}

fn has_entries(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

/// Makes `base`, or the first of `base-2`, `base-3`, .. that is not there: two processes never get the same.
fn new_folder(base: &Path) -> Result<PathBuf, Error> {
    if let Some(parent) = base.parent() {
        fs::create_dir_all(parent).map_err(|error| Error::file(parent, error))?;
    }
    let numbered = (2..).map(|number| PathBuf::from(format!("{}-{number}", base.display())));
    for folder in std::iter::once(base.to_owned()).chain(numbered) {
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::file(folder, error)),
        }
    }
    unreachable!("there is always another number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_given_to_one_process_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("run");
        let first = RunFolder::create(Some(&out), Path::new("")).unwrap();
        let error = RunFolder::create(Some(&out), Path::new("")).unwrap_err().to_string();
        assert!(error.contains(&format!("another run (process {})", std::process::id())), "{error}");
        fs::write(out.join("config.toml"), "").unwrap();
        assert!(RunFolder::reopen(&out).is_err(), "a run that goes on is not resumed");
        drop(first);
        assert!(RunFolder::reopen(&out).is_ok());
        let error = RunFolder::create(Some(&out), Path::new("")).unwrap_err().to_string();
        assert!(error.contains("holds a run already"), "{error}");
    }

    #[test]
    fn default_folders_are_numbered_and_never_shared() {
        let home = tempfile::tempdir().unwrap();
        let base = home.path().join("runs/count-seed1");
        let folders: Vec<RunFolder> = (0..3).map(|_| RunFolder::create(None, &base).unwrap()).collect();
        let names: Vec<_> = folders.iter().map(|folder| folder.path.file_name().unwrap()).collect();
        assert_eq!(names, ["count-seed1", "count-seed1-2", "count-seed1-3"]);
    }

    #[test]
    fn checkpoints_without_a_config_are_left_alone() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join("checkpoints/1-rl-000006")).unwrap();
        let error = RunFolder::create(Some(home.path()), Path::new("")).unwrap_err().to_string();
        assert!(error.contains("holds checkpoints of another run"), "{error}");
        let error = RunFolder::reopen(home.path()).unwrap_err().to_string();
        assert!(error.contains("no config.toml") && error.contains("model.start"), "{error}");
    }
}
