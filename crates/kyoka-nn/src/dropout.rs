//! Dropout whose masks follow from a seed.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Tensor, TensorData};
use kyoka_core::{Stream, stream_rng};
use rand::RngExt;
use rayon::prelude::*;

/// Sets values to 0 at random on the way to gradients, and scales the others so that the mean stays (Srivastava et al.
/// 2014).
///
/// Burn's own dropout draws from one generator for the whole process, which nothing seeds. Here a mask is a function of
/// the seed and of how many were drawn since it was set: a run that is seeded before every step drops the same values
/// again after a restart. Masks are drawn on the host, which costs a copy to the device. Without a seed nothing is
/// dropped.
#[derive(Debug, Clone)]
pub struct SeededDropout {
    probability: f64,
    /// Seed, and the number of masks drawn since it was set. Shared by clones: a model's copies take their turns.
    place: Arc<Mutex<Option<(u64, u64)>>>,
}

impl SeededDropout {
    /// Drops this share of the values, in `[0, 1)`, once it is seeded.
    ///
    /// # Panics
    /// If the share is out of range.
    pub fn new(probability: f64) -> Self {
        assert!((0.0..1.0).contains(&probability), "dropout: expected a share in [0, 1), got {probability}");
        Self { probability, place: Arc::default() }
    }

    /// Starts again with a seed: the masks to come are those that came after it before. `None` drops nothing.
    pub fn set(&self, seed: Option<u64>) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = seed.map(|seed| (seed, 0));
    }

    /// The seed and the number of the next mask.
    fn next(&self) -> Option<(u64, u64)> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let (seed, number) = place.as_mut()?;
        *number += 1;
        Some((*seed, *number))
    }

    /// The input with values dropped; as it is on a device without gradients, or without a seed.
    ///
    /// # Shapes
    /// - input and output: `[N, D]`
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        let device = input.device();
        if self.probability == 0.0 || !device.is_autodiff() {
            return input;
        }
        let Some((seed, number)) = self.next() else { return input };
        let ([n, d], dtype) = (input.dims(), input.dtype());
        let (probability, kept) = (self.probability as f32, (1.0 / (1.0 - self.probability)) as f32);
        let mut mask = vec![0.0_f32; n * d];
        mask.par_chunks_mut(d.max(1)).enumerate().for_each(|(row, mask)| {
            let mut rng = stream_rng(seed, Stream::Dropout, &[number, row as u64]);
            mask.iter_mut().filter(|_| rng.random::<f32>() >= probability).for_each(|value| *value = kept);
        });
        let mask = TensorData::new(mask, [n, d]);
        input * Tensor::<2>::from_data(mask, (&device.without_autodiff(), dtype)).autodiff()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn dropped(dropout: &SeededDropout) -> Vec<f32> {
        let input = Tensor::<2>::ones([200, 50], &Device::default()).autodiff();
        dropout.forward(input).into_data().try_into_vec().unwrap()
    }

    #[test]
    fn a_seed_gives_the_same_masks_in_turn_and_keeps_the_mean() {
        let dropout = SeededDropout::new(0.2);
        dropout.set(Some(7));
        let (first, second) = (dropped(&dropout), dropped(&dropout));
        assert_ne!(first, second);
        let copy = dropout.clone();
        copy.set(Some(7));
        assert_eq!((dropped(&copy), dropped(&dropout)), (first.clone(), second));
        dropout.set(Some(8));
        assert_ne!(dropped(&dropout), first);
        assert!(first.iter().all(|&value| value == 0.0 || (value - 1.25).abs() < 1e-6));
        let mean = first.iter().sum::<f32>() / first.len() as f32;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
    }

    #[test]
    fn nothing_is_dropped_without_gradients_or_a_seed() {
        let dropout = SeededDropout::new(0.9);
        assert!(dropped(&dropout).iter().all(|&value| value == 1.0));
        dropout.set(Some(3));
        let output = dropout.forward(Tensor::ones([2, 3], &Device::default()));
        assert_eq!(output.into_data().try_into_vec::<f32>().unwrap(), [1.0; 6]);
        dropout.set(None);
        assert!(dropped(&dropout).iter().all(|&value| value == 1.0));
    }
}
