//! Media decoded once.

use std::{
    collections::{HashMap, VecDeque},
    fs::Metadata,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::SystemTime,
};

use kyoka_core::Content;

/// Decoded media by the hash of their bytes.
///
/// A file is read and decoded on first use, and again once it is another: its size or its time of change tells. Files with equal
/// bytes share one entry. When the entries outgrow the capacity, the oldest go; nothing else is kept of bytes in memory.
#[derive(Debug)]
pub struct MediaStore<T> {
    capacity_bytes: usize,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    hash_of: HashMap<PathBuf, (Stamp, blake3::Hash)>,
    decoded: HashMap<blake3::Hash, (Arc<T>, usize)>,
    age: VecDeque<blake3::Hash>,
    held_bytes: usize,
}

/// What a file shows when it has been written anew.
type Stamp = (u64, Option<SystemTime>);

fn stamp(file: &Metadata) -> Stamp {
    (file.len(), file.modified().ok())
}

impl<T> MediaStore<T> {
    /// A store that holds about `capacity_bytes` of decoded media.
    pub fn new(capacity_bytes: usize) -> Self {
        let state =
            State { hash_of: HashMap::new(), decoded: HashMap::new(), age: VecDeque::new(), held_bytes: 0 };
        Self { capacity_bytes, state: Mutex::new(state) }
    }

    /// The decoded medium; `decode` turns the file's bytes into it and its size in bytes.
    ///
    /// # Errors
    /// Whatever reading or decoding gives; nothing is kept then.
    pub fn get<E: From<std::io::Error>>(
        &self,
        content: &Content,
        decode: impl FnOnce(&[u8]) -> Result<(T, usize), E>,
    ) -> Result<Arc<T>, E> {
        let file = match content.path() {
            Some(path) => Some((path, stamp(&std::fs::metadata(path)?))),
            None => None,
        };
        if let Some(found) = file.and_then(|file| self.lookup(file)) {
            return Ok(found);
        }
        let bytes = content.read()?;
        let hash = blake3::hash(&bytes);
        if let Some(found) = self.adopt(file, hash) {
            return Ok(found);
        }
        let (medium, size) = decode(&bytes)?;
        Ok(self.insert(file, hash, (Arc::new(medium), size)))
    }

    fn lookup(&self, (path, stamp): (&Path, Stamp)) -> Option<Arc<T>> {
        let state = self.lock();
        let (_, hash) = state.hash_of.get(path).filter(|(then, _)| *then == stamp)?;
        state.decoded.get(hash).map(|(medium, _)| medium.clone())
    }

    /// Lets a medium share the entry of equal bytes, if there is one.
    fn adopt(&self, file: Option<(&Path, Stamp)>, hash: blake3::Hash) -> Option<Arc<T>> {
        let mut state = self.lock();
        let medium = state.decoded.get(&hash).map(|(medium, _)| medium.clone())?;
        if let Some((path, stamp)) = file {
            state.hash_of.insert(path.to_owned(), (stamp, hash));
        }
        Some(medium)
    }

    fn insert(
        &self,
        file: Option<(&Path, Stamp)>,
        hash: blake3::Hash,
        (medium, size): (Arc<T>, usize),
    ) -> Arc<T> {
        let mut state = self.lock();
        if let Some((path, stamp)) = file {
            state.hash_of.insert(path.to_owned(), (stamp, hash));
        }
        if state.decoded.insert(hash, (medium.clone(), size)).is_none() {
            state.age.push_back(hash);
            state.held_bytes += size;
        }
        while state.held_bytes > self.capacity_bytes && state.age.len() > 1 {
            let oldest = state.age.pop_front().expect("more than one entry");
            let (_, size) = state.decoded.remove(&oldest).expect("every hash in the queue has an entry");
            state.held_bytes -= size;
        }
        medium
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<T>> {
        self.state.lock().expect("no code panics while it holds the lock")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_file_that_is_written_anew_is_read_anew_and_bytes_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let frame = folder.path().join("frame");
        let store = MediaStore::new(8);
        let read = |content: &Content| {
            store.get(content, |bytes| Ok::<_, std::io::Error>((bytes.to_vec(), bytes.len()))).unwrap()
        };
        let content = Content::File(frame.clone());
        for text in ["a", "bb", "ccc"] {
            std::fs::write(&frame, text).unwrap();
            assert_eq!(*read(&content), text.as_bytes());
        }
        for frame in 0..100_u8 {
            let content = Content::Bytes { name: "frame".into(), bytes: [frame; 4].into() };
            assert_eq!(*read(&content), [frame; 4]);
        }
        let state = store.lock();
        assert!(state.held_bytes <= 8 && state.decoded.len() <= 2 && state.hash_of.len() == 1);
    }

    #[test]
    fn equal_bytes_are_decoded_once_and_shared() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a", "b", "c"].map(|name| folder.path().join(name));
        for (path, text) in paths.iter().zip(["same", "same", "other"]) {
            std::fs::write(path, text).unwrap();
        }
        let files = paths.map(Content::File);
        let store = MediaStore::new(1 << 20);
        let decoded = Cell::new(0);
        let get = |content: &Content| {
            store
                .get::<std::io::Error>(content, |bytes| {
                    decoded.set(decoded.get() + 1);
                    Ok((bytes.to_vec(), bytes.len()))
                })
                .unwrap()
        };
        assert!(Arc::ptr_eq(&get(&files[0]), &get(&files[1])));
        get(&files[0]);
        get(&files[2]);
        assert_eq!(decoded.get(), 2);
        // Wherever the bytes lie.
        let at_hand = Content::Bytes { name: "row 1".into(), bytes: b"other".as_slice().into() };
        assert!(Arc::ptr_eq(&get(&at_hand), &get(&files[2])));
        assert_eq!(decoded.get(), 2);
    }

    #[test]
    fn oldest_media_leave_when_the_store_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let store = MediaStore::new(10);
        for name in ["a", "b", "c"] {
            let path = folder.path().join(name);
            std::fs::write(&path, name).unwrap();
            store.get::<std::io::Error>(&Content::File(path), |bytes| Ok((bytes.to_vec(), 6))).unwrap();
        }
        assert_eq!(store.lock().decoded.len(), 1);
        assert_eq!(store.lock().held_bytes, 6);
    }

    #[test]
    fn a_medium_that_cannot_be_read_is_an_error_and_leaves_nothing() {
        let store: MediaStore<()> = MediaStore::new(10);
        let missing = store.get::<std::io::Error>(&Content::File("no/such/file".into()), |_| Ok(((), 0)));
        assert_eq!(missing.unwrap_err().kind(), std::io::ErrorKind::NotFound);
        assert!(store.lock().hash_of.is_empty());
    }
}
