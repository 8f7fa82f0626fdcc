//! Small changes that leave a picture's meaning alone.

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::Picture;

/// Random shift and mirror; nothing unless asked for. A mirrored picture answers "which side?" wrongly, so neither is
/// harmless for every task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageAugment {
    /// Largest shift in pixels, up or down and left or right; the border takes the nearest pixel. Default 0.
    pub shift: usize,
    /// Mirror left and right with chance one half. Default false.
    pub mirror: bool,
}

impl ImageAugment {
    /// Whether every picture stays as it is.
    pub fn changes_nothing(&self) -> bool {
        self.shift == 0 && !self.mirror
    }

    /// A changed copy.
    pub fn apply(&self, picture: &Picture, rng: &mut impl Rng) -> Picture {
        let shift = self.shift as i64;
        let (down, right) = (rng.random_range(-shift..=shift), rng.random_range(-shift..=shift));
        let mirrored = self.mirror && rng.random_bool(0.5);
        let (height, width) = (picture.height, picture.width);
        let mut rgb = Vec::with_capacity(picture.rgb.len());
        for y in 0..height {
            let from_y = y.saturating_add_signed(-down as isize).min(height - 1);
            for x in 0..width {
                let x = if mirrored { width - 1 - x } else { x };
                let from_x = x.saturating_add_signed(-right as isize).min(width - 1);
                let place = (from_y * width + from_x) * 3;
                rgb.extend_from_slice(&picture.rgb[place..place + 3]);
            }
        }
        Picture { height, width, rgb }
    }
}

#[cfg(test)]
mod tests {
    use kyoka_core::{Stream, stream_rng};

    use super::*;

    #[test]
    fn nothing_to_change_changes_nothing() {
        let picture = Picture::grey(3, 4, (0..12).collect());
        let still = ImageAugment::default();
        assert!(still.changes_nothing());
        assert_eq!(still.apply(&picture, &mut stream_rng(1, Stream::Augment, &[])), picture);
    }

    #[test]
    fn shifts_move_the_middle_and_keep_the_size() {
        let mut values = vec![0; 49];
        values[24] = 255;
        let picture = Picture::grey(7, 7, values);
        for seed in 0..20 {
            let moved = ImageAugment { shift: 2, mirror: true }
                .apply(&picture, &mut stream_rng(seed, Stream::Augment, &[]));
            let bright: Vec<_> = (0..49).filter(|&i| moved.rgb[3 * i] == 255).collect();
            assert_eq!(bright.len(), 1);
            let (y, x) = (bright[0] / 7, bright[0] % 7);
            assert!(y.abs_diff(3) <= 2 && x.abs_diff(3) <= 2);
        }
    }
}
