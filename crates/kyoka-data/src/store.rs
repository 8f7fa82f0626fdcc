//! Media decoded once.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use kyoka_core::Content;

/// Decoded media by the hash of their bytes.
///
/// A file is read and decoded on first use; files with equal bytes share one entry. When the entries outgrow the
/// capacity, the oldest go.
#[derive(Debug)]
pub struct MediaStore<T> {
    capacity_bytes: usize,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    hash_of: HashMap<Content, blake3::Hash>,
    decoded: HashMap<blake3::Hash, (Arc<T>, usize)>,
    age: VecDeque<blake3::Hash>,
    held_bytes: usize,
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
        if let Some(found) = self.lookup(content) {
            return Ok(found);
        }
        let bytes = content.read()?;
        let hash = blake3::hash(&bytes);
        if let Some(found) = self.adopt(content, hash) {
            return Ok(found);
        }
        let (medium, size) = decode(&bytes)?;
        Ok(self.insert(content, hash, Arc::new(medium), size))
    }

    fn lookup(&self, content: &Content) -> Option<Arc<T>> {
        let state = self.lock();
        let hash = state.hash_of.get(content)?;
        state.decoded.get(hash).map(|(medium, _)| medium.clone())
    }

    /// Lets `content` share the entry of equal bytes, if there is one.
    fn adopt(&self, content: &Content, hash: blake3::Hash) -> Option<Arc<T>> {
        let mut state = self.lock();
        let medium = state.decoded.get(&hash).map(|(medium, _)| medium.clone())?;
        state.hash_of.insert(content.clone(), hash);
        Some(medium)
    }

    fn insert(&self, content: &Content, hash: blake3::Hash, medium: Arc<T>, size: usize) -> Arc<T> {
        let mut state = self.lock();
        state.hash_of.insert(content.clone(), hash);
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
