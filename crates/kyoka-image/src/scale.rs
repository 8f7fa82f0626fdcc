//! From bytes to the values that an encoder reads.

use serde::{Deserialize, Serialize};

use crate::Picture;

/// `(byte * rescale_factor - mean) / std`, channel by channel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PixelScale {
    /// Multiplies each byte; usually 1/255.
    pub rescale_factor: f64,
    /// Subtracted from each channel afterwards.
    pub image_mean: [f32; 3],
    /// Divides each channel at the end.
    pub image_std: [f32; 3],
}

impl PixelScale {
    /// Bytes as values in [0, 1], normalised.
    pub fn new(image_mean: [f32; 3], image_std: [f32; 3]) -> Self {
        Self { rescale_factor: 1.0 / 255.0, image_mean, image_std }
    }

    /// Appends the three planes of a picture.
    ///
    /// # Shapes
    /// - appended: `[3, height, width]`
    pub(crate) fn append(&self, picture: &Picture, values: &mut Vec<f32>) {
        let value = |channel: usize, byte: usize| {
            let value = (byte as f64 * self.rescale_factor) as f32;
            (value - self.image_mean[channel]) / self.image_std[channel]
        };
        values.reserve(picture.rgb.len());
        for channel in 0..3 {
            let table: [f32; 256] = std::array::from_fn(|byte| value(channel, byte));
            let bytes = picture.rgb.iter().skip(channel).step_by(3);
            values.extend(bytes.map(|&byte| table[usize::from(byte)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_follow_each_other_and_each_has_its_own_scale() {
        let scale = PixelScale { rescale_factor: 0.5, image_mean: [0.0, 1.0, 2.0], image_std: [1.0, 2.0, 4.0] };
        let mut values = vec![9.0];
        scale.append(&Picture { height: 1, width: 2, rgb: vec![2, 4, 6, 8, 10, 12] }, &mut values);
        assert_eq!(values, [9.0, 1.0, 4.0, 0.5, 2.0, 0.25, 1.0]);
    }
}
