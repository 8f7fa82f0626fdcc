//! How a JPEG file keeps its colours: decoders may differ more where these are halved or four.

/// Whether a JPEG keeps its colours at half size, or has four channels.
pub fn is_coarse(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        // A frame's header, of any kind of coding.
        if matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc) {
            let components = bytes.get(at + 9).copied().unwrap_or_default();
            let luma_sampling = bytes.get(at + 11).copied().unwrap_or_default();
            return components == 4 || luma_sampling != 0x11;
        }
        at += 2 + usize::from(u16::from_be_bytes([high, low]));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_header_behind_other_segments_decides() {
        let file = |components: u8, sampling: u8| {
            let mut bytes = vec![0xff, 0xd8, 0xff, 0xe0, 0, 4, 1, 2];
            bytes.extend([0xff, 0xc2, 0, 11, 8, 0, 1, 0, 1, components, 1, sampling, 0]);
            bytes
        };
        assert!(!is_coarse(&file(3, 0x11)));
        assert!(is_coarse(&file(3, 0x22)));
        assert!(is_coarse(&file(4, 0x11)));
        assert!(!is_coarse(b""));
    }
}
