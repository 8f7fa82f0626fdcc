//! The `checkpoints/` folder of a run: never half-written, and mended where a process was killed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    CheckpointPolicy, CriticState, Progress, TrainError, TrainState, TrainableLm,
    checkpoint::{
        CRITIC, Content, HeadRecord, REWARD_MODEL, STATE, State, VERSION, failed, head_files, moments,
        weights,
    },
};

/// The `checkpoints/` folder of a run.
///
/// A checkpoint is a folder `<stage>-<name>-<step>` with `model.safetensors`, `optimizer.safetensors`, `state.json` and
/// the files the run adds (configuration, tokenizer). It is written under a temporary name, flushed, and renamed; what a
/// killed process leaves of that, [`recover`](Self::recover) finishes or removes.
#[derive(Debug, Clone)]
pub struct CheckpointStore {
    folder: PathBuf,
    policy: CheckpointPolicy,
    /// Written into every checkpoint besides the state.
    extra_files: Vec<(String, Vec<u8>)>,
}

impl CheckpointStore {
    /// A store under `folder`, which is made on the first write.
    pub fn new(folder: PathBuf, policy: CheckpointPolicy, extra_files: Vec<(String, Vec<u8>)>) -> Self {
        Self { folder, policy, extra_files }
    }

    /// How often and how many.
    pub fn policy(&self) -> CheckpointPolicy {
        self.policy
    }

    /// Complete checkpoints, oldest first.
    pub fn list(&self) -> Vec<PathBuf> {
        let mut found = self.folders();
        found.retain(|path| path.join(STATE).is_file());
        found
    }

    /// Folders named as checkpoints are, oldest first, whatever is in them; `best` is not one.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        let mut found: Vec<((usize, usize), PathBuf)> = entries(&self.folder)
            .filter_map(|path| Some((place_of(path.file_name()?.to_str()?)?, path)))
            .filter(|(_, path)| path.is_dir())
            .collect();
        found.sort();
        found.into_iter().map(|(_, path)| path).collect()
    }

    /// The newest complete checkpoint.
    pub fn latest(&self) -> Option<PathBuf> {
        self.list().pop()
    }

    /// Where the checkpoint of a place of the run lies, or would lie.
    pub(crate) fn path(&self, stage_name: &str, progress: &Progress) -> PathBuf {
        self.folder.join(format!("{}-{stage_name}-{:06}", progress.stage, progress.step))
    }

    /// Writes a checkpoint; `stage_state` is what the stage under way has to remember.
    ///
    /// # Errors
    /// If it cannot be written; the checkpoints before it stand.
    pub fn save<M: TrainableLm>(
        &self,
        stage_name: &str,
        state: &TrainState<M>,
        stage_state: Option<Vec<u8>>,
    ) -> Result<PathBuf, TrainError> {
        let TrainState { model, optimizer, reference, critic, reward_model, .. } = state;
        let mut files: Vec<(String, Content<'_>)> = vec![
            ("model.safetensors".into(), Content::Tensors(Box::new(|| weights(model)))),
            ("optimizer.safetensors".into(), Content::Tensors(Box::new(|| moments(optimizer)))),
        ];
        if let Some(reference) = reference {
            files.push(("reference.safetensors".into(), Content::Tensors(Box::new(|| weights(reference)))));
        }
        let extra_files = self.extra_files.iter().cloned();
        files.extend(extra_files.map(|(name, bytes)| (name, Content::Bytes(bytes))));
        files.extend(stage_state.map(|bytes| ("stage.json".into(), Content::Bytes(bytes))));
        for (name, head) in [(CRITIC, critic), (REWARD_MODEL, reward_model)] {
            let Some(CriticState { critic, optimizer }) = head else { continue };
            let (weights_file, moments_file) = head_files(name);
            files.push((weights_file, Content::Tensors(Box::new(|| weights(critic)))));
            files.push((moments_file, Content::Tensors(Box::new(|| moments(optimizer)))));
        }
        let record = |head: &CriticState<M>| HeadRecord {
            optimizer_steps: head.optimizer.num_steps(),
            own_trunk: head.critic.trunk.is_some(),
        };
        let (critic, reward_model) = (critic.as_ref().map(record), reward_model.as_ref().map(record));
        let (progress, optimizer_steps) = (state.progress.clone(), optimizer.num_steps());
        let path = self.path(stage_name, &progress);
        self.place(&path, &|aside| {
            let mut lengths = BTreeMap::new();
            for (name, content) in &files {
                let file = aside.join(name);
                fs::create_dir_all(file.parent().unwrap_or(aside))?;
                content.write(&file)?;
                lengths.insert(name.clone(), fs::metadata(&file)?.len());
            }
            let progress = progress.clone();
            let (version, files) = (VERSION, lengths);
            let state = State { version, progress, optimizer_steps, critic, reward_model, files };
            Content::Bytes(state.to_json()).write(&aside.join(STATE))
        })?;
        self.prune()?;
        Ok(path)
    }

    /// Removes the oldest checkpoints beyond those to keep.
    fn prune(&self) -> Result<(), TrainError> {
        let kept = self.list();
        for old in &kept[..kept.len().saturating_sub(self.policy.keep_last.max(1))] {
            fs::remove_dir_all(old).map_err(|error| failed(old, error))?;
        }
        Ok(())
    }

    /// Puts a new `progress` into a checkpoint that is there, and makes it `best` if it is the best so far: nothing but
    /// the state has changed since it was written.
    pub(crate) fn update(&self, path: &Path, progress: &Progress, best: bool) -> Result<(), TrainError> {
        let state_path = path.join(STATE);
        let bytes = fs::read(&state_path).map_err(|error| failed(&state_path, error))?;
        let state: State = serde_json::from_slice(&bytes).map_err(|error| failed(&state_path, error))?;
        let state = Content::Bytes(State { progress: progress.clone(), ..state }.to_json());
        // The state comes last: a run killed in between evaluates again and finds the same best.
        if best {
            self.place(&self.folder.join(BEST), &|aside| {
                link_files(path, aside)?;
                state.write(&aside.join(STATE))
            })?;
        }
        let aside = path.join(format!("{STATE}.tmp"));
        let written = state.write(&aside).and_then(|()| fs::rename(&aside, &state_path));
        written.map_err(|error| failed(&state_path, error))
    }

    /// Writes a folder aside, flushed, and renames it into place.
    fn place(&self, path: &Path, write: &dyn Fn(&Path) -> std::io::Result<()>) -> Result<(), TrainError> {
        let [aside, old, broken] = [ASIDE, OLD, BROKEN].map(|ending| with_ending(path, ending));
        let placed = || -> std::io::Result<()> {
            if aside.exists() {
                fs::remove_dir_all(&aside)?;
            }
            fs::create_dir_all(&aside)?;
            write(&aside)?;
            // An old folder of that name steps aside first: at every moment one of the two is whole.
            if path.exists() {
                let _ = fs::remove_dir_all(&old);
                fs::rename(path, &old)?;
            }
            fs::rename(&aside, path)?;
            flush_folder(&self.folder);
            for folder in [&old, &broken] {
                if folder.exists() {
                    fs::remove_dir_all(folder)?;
                }
            }
            Ok(())
        };
        placed().map_err(|error| {
            // What is left of a failed write must not fill the disk further; the checkpoints before it stand.
            let _ = fs::remove_dir_all(&aside);
            failed(path, error)
        })
    }

    /// Finishes or removes what a killed process left half-done. No other process may use the folder.
    pub fn recover(&self) -> Result<(), TrainError> {
        let endings: Vec<PathBuf> = entries(&self.folder).collect();
        for old in endings.iter().filter(|path| path.to_string_lossy().ends_with(OLD)) {
            let name = old.to_string_lossy();
            let path = PathBuf::from(name.strip_suffix(OLD).unwrap_or(&name));
            let aside = with_ending(&path, ASIDE);
            if !path.exists() {
                // The old folder stepped aside for one that was whole already.
                let whole = if aside.exists() { &aside } else { old };
                fs::rename(whole, &path).map_err(|error| failed(&path, error))?;
            }
        }
        let inner = self.folders().into_iter().map(|path| path.join(format!("{STATE}.tmp")));
        for left in entries(&self.folder).filter(|path| path.to_string_lossy().ends_with(ASIDE)).chain(inner)
        {
            let removed = match left.is_dir() {
                true => fs::remove_dir_all(&left),
                false if left.exists() => fs::remove_file(&left),
                false => Ok(()),
            };
            removed.map_err(|error| failed(&left, error))?;
        }
        Ok(())
    }

    /// Gives a checkpoint that cannot be read another name, so that it counts as none.
    pub(crate) fn set_aside(&self, path: &Path) -> Result<(), TrainError> {
        let broken = with_ending(path, BROKEN);
        let _ = fs::remove_dir_all(&broken);
        fs::rename(path, &broken).map_err(|error| failed(path, error))
    }
}

/// The checkpoint with the best evaluation so far.
const BEST: &str = "best";
/// What a folder is called while it is written, after its name.
const ASIDE: &str = ".tmp";
/// What the folder that it replaces is called meanwhile.
const OLD: &str = ".old.tmp";
/// What a checkpoint that cannot be read is called.
const BROKEN: &str = ".broken";

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Stage index and step in the name of a checkpoint's folder, `<stage>-<name>-<step>`.
fn place_of(name: &str) -> Option<(usize, usize)> {
    let (stage, rest) = name.split_once('-')?;
    let (_, step) = rest.rsplit_once('-')?;
    Some((stage.parse().ok()?, step.parse().ok()?))
}

/// Gives `to` the files of a checkpoint but its state, without copying them where the file system can.
fn link_files(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for path in entries(from) {
        let Some(name) = path.file_name() else { continue };
        let target = to.join(name);
        if path.is_dir() {
            link_files(&path, &target)?;
        } else if !name.to_string_lossy().starts_with(STATE) && fs::hard_link(&path, &target).is_err() {
            fs::copy(&path, &target)?;
            fs::File::open(&target)?.sync_all()?;
        }
    }
    Ok(())
}

/// Makes renames in a folder last through a power cut, where the system can.
fn flush_folder(folder: &Path) {
    let _ = fs::File::open(folder).and_then(|folder| folder.sync_all());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store with whole checkpoints of these names, and what is in each.
    fn store(names: &[&str]) -> (tempfile::TempDir, CheckpointStore) {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            fs::create_dir_all(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join(STATE), name).unwrap();
        }
        let store = CheckpointStore::new(folder.path().to_owned(), CheckpointPolicy::default(), Vec::new());
        (folder, store)
    }

    fn names(store: &CheckpointStore) -> Vec<String> {
        let mut names: Vec<String> = entries(&store.folder)
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn checkpoints_are_in_the_order_of_stages_and_steps() {
        let (_folder, store) =
            store(&["10-rl-000001", "2-rl-1000000", "2-rl-000020", "best", "2-rl-000030.tmp"]);
        let order: Vec<String> = store
            .list()
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(order, ["2-rl-000020", "2-rl-1000000", "10-rl-000001"]);
    }

    #[test]
    fn what_a_kill_leaves_is_finished_or_removed() {
        // Killed while it wrote: the old one stands. Killed between the renames: the new one was whole.
        let (_folder, store) = store(&[
            "0-sft-000001",
            "0-sft-000002.tmp",
            "0-sft-000003.old.tmp",
            "0-sft-000003.tmp",
            "best.old.tmp",
            "0-sft-000001.old.tmp",
        ]);
        fs::write(store.folder.join("0-sft-000001/state.json.tmp"), "half").unwrap();
        store.recover().unwrap();
        assert_eq!(names(&store), ["0-sft-000001", "0-sft-000003", "best"]);
        let state = |name: &str| fs::read_to_string(store.folder.join(name).join(STATE)).unwrap();
        assert_eq!(
            (state("0-sft-000003"), state("best")),
            ("0-sft-000003.tmp".into(), "best.old.tmp".into())
        );
        assert_eq!(state("0-sft-000001"), "0-sft-000001");
        assert!(!store.folder.join("0-sft-000001/state.json.tmp").exists());
    }
}
