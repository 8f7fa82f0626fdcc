//! Features of media that a frozen encoder has read, by the media's content.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use burn::tensor::Tensor;
use kyoka_core::{AudioInput, ImageInput, ModalityFeatures};

/// Features kept across batches and epochs; clones share them.
///
/// Only for encoders whose weights stay as they are: a medium is encoded when it is first seen, and never again until
/// the cache has outgrown its capacity.
#[derive(Clone)]
pub struct FeatureCache {
    state: Arc<Mutex<State>>,
    capacity_bytes: usize,
}

#[derive(Default)]
struct State {
    /// Without gradients, `[P, D]` each.
    features: HashMap<blake3::Hash, Tensor<2>>,
    /// Oldest first.
    age: VecDeque<blake3::Hash>,
    held_bytes: usize,
    num_encoded: usize,
}

impl std::fmt::Debug for FeatureCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeatureCache").field("num_media", &self.lock().features.len()).finish_non_exhaustive()
    }
}

impl FeatureCache {
    /// A cache of about `capacity_bytes`; it always holds the media of one batch.
    pub fn new(capacity_bytes: usize) -> Self {
        Self { state: Arc::default(), capacity_bytes }
    }

    /// Media that were encoded so far.
    pub fn num_encoded(&self) -> usize {
        self.lock().num_encoded
    }

    /// Features of the media with these keys, in order; `encode` gets the places of those that are not known, each
    /// content once.
    pub(crate) fn features(
        &self,
        keys: &[blake3::Hash],
        encode: impl FnOnce(&[usize]) -> ModalityFeatures,
    ) -> ModalityFeatures {
        let mut state = self.lock();
        let mut missing: Vec<usize> = Vec::new();
        for (place, key) in keys.iter().enumerate() {
            if !state.features.contains_key(key) && missing.iter().all(|&other| keys[other] != *key) {
                missing.push(place);
            }
        }
        if !missing.is_empty() {
            let ModalityFeatures { embeddings, lengths } = encode(&missing);
            let embeddings = embeddings.without_autodiff();
            let mut start = 0;
            for (&place, length) in missing.iter().zip(lengths) {
                state.insert(keys[place], embeddings.clone().narrow(0, start, length));
                start += length;
            }
        }
        let found: Vec<Tensor<2>> = keys.iter().map(|key| state.features[key].clone()).collect();
        state.shrink(self.capacity_bytes);
        let lengths = found.iter().map(|features| features.dims()[0]).collect();
        ModalityFeatures { embeddings: Tensor::cat(found, 0), lengths }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the lock")
    }
}

impl State {
    fn insert(&mut self, key: blake3::Hash, features: Tensor<2>) {
        self.held_bytes += bytes(&features);
        self.num_encoded += 1;
        self.features.insert(key, features);
        self.age.push_back(key);
    }

    /// Forgets the oldest until the rest fits.
    fn shrink(&mut self, capacity_bytes: usize) {
        while self.held_bytes > capacity_bytes {
            let Some(oldest) = self.age.pop_front() else { return };
            let features = self.features.remove(&oldest).expect("every key in the queue has an entry");
            self.held_bytes -= bytes(&features);
        }
    }
}

fn bytes(features: &Tensor<2>) -> usize {
    4 * features.dims().iter().product::<usize>()
}

fn add_values(hasher: &mut blake3::Hasher, values: &[f32]) {
    let mut bytes = Vec::with_capacity(4 * 1024);
    for piece in values.chunks(1024) {
        bytes.clear();
        piece.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
        hasher.update(&bytes);
    }
}

fn add_sizes(hasher: &mut blake3::Hasher, sizes: &[usize]) {
    for &size in sizes {
        hasher.update(&(size as u64).to_le_bytes());
    }
}

/// The content of a picture as an encoder reads it.
pub(crate) fn image_key(input: &ImageInput) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let [rows, columns] = input.split.unwrap_or_default();
    add_sizes(&mut hasher, &[input.num_views, input.channels, input.height, input.width, rows, columns]);
    add_values(&mut hasher, &[input.seconds_per_step]);
    add_values(&mut hasher, &input.pixel_values);
    for piece in input.pixel_mask.iter().flat_map(|mask| mask.chunks(1024)) {
        let bytes: Vec<u8> = piece.iter().map(|&counts| u8::from(counts)).collect();
        hasher.update(&bytes);
    }
    hasher.finalize()
}

/// The content of a sound as an encoder reads it.
pub(crate) fn audio_key(input: &AudioInput) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    add_sizes(&mut hasher, &[input.num_mels, input.frames, input.valid_frames]);
    add_values(&mut hasher, &input.input_features);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn rows(values: &[f32]) -> Tensor<2> {
        Tensor::<1>::from_floats(values, &Device::default()).reshape([values.len(), 1])
    }

    fn values(features: ModalityFeatures) -> Vec<f32> {
        features.embeddings.into_data().try_into_vec().unwrap()
    }

    /// Medium `n` has `n` positions of value `n`.
    fn encode(media: &[usize]) -> ModalityFeatures {
        let embeddings: Vec<f32> = media.iter().flat_map(|&n| std::iter::repeat_n(n as f32, n)).collect();
        ModalityFeatures { embeddings: rows(&embeddings), lengths: media.to_vec() }
    }

    #[test]
    fn every_content_is_encoded_once_and_comes_back_in_order() {
        let cache = FeatureCache::new(1 << 20);
        let features = |media: &[usize]| {
            let keys: Vec<blake3::Hash> = media.iter().map(|n| blake3::hash(&[*n as u8])).collect();
            cache.features(&keys, |missing| {
                encode(&missing.iter().map(|&place| media[place]).collect::<Vec<_>>())
            })
        };
        assert_eq!(values(features(&[2, 1, 2])), [2.0, 2.0, 1.0, 2.0, 2.0]);
        assert_eq!(cache.num_encoded(), 2);
        let again = features(&[1, 3, 2]);
        assert_eq!(again.lengths, [1, 3, 2]);
        assert_eq!(values(again), [1.0, 3.0, 3.0, 3.0, 2.0, 2.0]);
        assert_eq!(cache.num_encoded(), 3);
    }

    #[test]
    fn the_oldest_go_when_the_capacity_is_outgrown() {
        // Room for three values.
        let cache = FeatureCache::new(12);
        let features = |n: usize| values(cache.features(&[blake3::hash(&[n as u8])], |_| encode(&[n])));
        features(2);
        features(1);
        features(1);
        assert_eq!(cache.num_encoded(), 2);
        features(2);
        assert_eq!(cache.num_encoded(), 2, "both fit");
        features(3);
        features(2);
        assert_eq!(cache.num_encoded(), 4, "the third pushed the others out");
    }

    #[test]
    fn keys_tell_contents_apart() {
        let image = |shade: f32| ImageInput::one_view(vec![shade; 12].into(), [3, 2, 2]);
        assert_eq!(image_key(&image(0.5)), image_key(&image(0.5)));
        assert_ne!(image_key(&image(0.5)), image_key(&image(0.25)));
        let other_shape = ImageInput::one_view(vec![0.5; 12].into(), [3, 1, 4]);
        assert_ne!(image_key(&image(0.5)), image_key(&other_shape));
    }
}
