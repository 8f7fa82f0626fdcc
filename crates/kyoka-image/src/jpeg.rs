//! Where a JPEG file's parts begin and end (ITU-T T.81, annex B), which tells a cut that decoders fill with grey.

use std::io::{self, Read};

/// Start of a picture.
pub(crate) const START: [u8; 2] = [0xff, 0xd8];
/// Start of a scan: what follows its head are the pixels.
const SCAN: u8 = 0xda;
/// End of a picture.
const END: u8 = 0xd9;

/// Whether a file ends before its picture does.
pub(crate) fn is_cut(file: &[u8]) -> bool {
    let mut place = START.len();
    loop {
        let Some(marker) = next_marker(file, &mut place) else { return true };
        match marker {
            END => return false,
            // Marks that stand alone: restarts, and one for private use.
            0x01 | 0xd0..=0xd8 => {}
            _ => {
                let Some(&[high, low]) = file.get(place..place + 2) else { return true };
                place += usize::from(u16::from_be_bytes([high, low]));
            }
        }
    }
}

/// Moves behind the next marker; bytes in between, among them pixels and stuffed zeros, are left behind.
fn next_marker(file: &[u8], place: &mut usize) -> Option<u8> {
    loop {
        let ahead = file.get(*place..)?;
        *place += ahead.iter().position(|&byte| byte == 0xff)? + 1;
        let &next = file.get(*place)?;
        if next != 0x00 && next != 0xff {
            *place += 1;
            return Some(next);
        }
    }
}

/// The file up to its first scan, which is what size and orientation are read from.
///
/// # Errors
/// If reading fails; what ends early is given back as it is.
pub(crate) fn head(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut take = |count: u64, head: &mut Vec<u8>| -> io::Result<bool> {
        Ok(reader.by_ref().take(count).read_to_end(head)? as u64 == count)
    };
    if !take(2, &mut head)? {
        return Ok(head);
    }
    while take(2, &mut head)? {
        let marker = head[head.len() - 1];
        if matches!(marker, 0x01 | 0xd0..=0xd8 | 0xff) {
            // A fill byte belongs to the next mark: read on from it.
            if marker == 0xff && !take(1, &mut head)? {
                break;
            }
            continue;
        }
        if !take(2, &mut head)? {
            break;
        }
        let length = u16::from_be_bytes([head[head.len() - 2], head[head.len() - 1]]);
        if !take(u64::from(length.saturating_sub(2)), &mut head)? || marker == SCAN || marker == END {
            break;
        }
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: [u8; 18] =
        [0xff, 0xd8, 0xff, 0xe0, 0, 4, 0xff, 0xd9, 0xff, 0xff, SCAN, 0, 2, 7, 0xff, 0x00, 0xff, END];

    #[test]
    fn a_picture_ends_with_its_own_end_mark() {
        // The mark within the first segment and the stuffed zero are none.
        assert!(!is_cut(&WHOLE));
        for cut in 2..WHOLE.len() {
            assert!(is_cut(&WHOLE[..cut]), "cut after {cut}");
        }
    }

    #[test]
    fn the_head_ends_where_the_pixels_begin() {
        let segments = [&WHOLE[..8], &WHOLE[9..]].concat();
        assert_eq!(head(&mut segments.as_slice()).unwrap(), segments[..12]);
        assert_eq!(head(&mut &segments[..5]).unwrap(), segments[..5]);
        assert_eq!(head(&mut &segments[..1]).unwrap(), segments[..1]);
    }
}
