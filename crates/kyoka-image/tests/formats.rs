//! Pictures of many kinds give the pixels that Pillow reads; what is cut or not read is an error that says so.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{fs, io::Cursor, path::Path};

use kyoka_image::{ImageError, Picture};
use safetensors::SafeTensors;

fn golden(name: &str) -> Vec<u8> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/formats"));
    fs::read(folder.join(name)).unwrap()
}

/// Files that are read.
fn names() -> Vec<String> {
    let bytes = golden("pixels.safetensors");
    let names: Vec<String> =
        SafeTensors::deserialize(&bytes).unwrap().names().into_iter().map(str::to_owned).collect();
    assert!(names.len() > 30);
    names
}

#[test]
fn every_kind_gives_the_pixels_of_pillow_and_the_head_tells_the_size() {
    let bytes = golden("pixels.safetensors");
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    for name in names() {
        let file = golden(&name);
        let picture = Picture::decode(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
        let view = expected.tensor(&name).unwrap();
        assert_eq!(view.shape(), [picture.height, picture.width, 3], "{name}");
        let probed = Picture::probe(Cursor::new(&file)).unwrap();
        assert_eq!(probed, (picture.height, picture.width), "{name}");
        // Decoders of JPEG round and spread colours in their own ways.
        let most = if name.ends_with(".jpg") { 8 } else { 0 };
        let far = picture.rgb.iter().zip(view.data()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(far <= most, "{name}: a value differs by {far}");
    }
}

#[test]
fn cut_files_are_errors() {
    // Of several pictures the first is read, which may stand before the cut.
    for name in names().into_iter().filter(|name| name != "two_pages.tif") {
        let whole = golden(&name);
        for cut in [1, 9, whole.len() / 10, whole.len() * 3 / 10, whole.len() * 6 / 10, whole.len() * 9 / 10]
        {
            let result = Picture::decode(&whole[..cut]);
            assert!(result.is_err(), "{name} cut after {cut} of {}", whole.len());
        }
    }
    // Decoders miss the last bytes, or fill what they held with grey.
    for name in ["baseline.jpg", "progressive.jpg", "restarts.jpg", "cmyk.jpg", "turned.jpg", "lossy.webp"] {
        let whole = golden(name);
        for missing in 1..12 {
            let error = Picture::decode(&whole[..whole.len() - missing]).unwrap_err();
            assert!(matches!(error, ImageError::CutShort), "{name} without the last {missing}: {error}");
        }
    }
}

#[test]
fn what_follows_a_picture_is_no_matter() {
    for name in ["baseline.jpg", "grey8_lzw.tif", "whole.gif", "lossless.webp"] {
        let mut file = golden(name);
        file.extend([0x55; 40]);
        assert_eq!(Picture::decode(&file).unwrap(), Picture::decode(&golden(name)).unwrap(), "{name}");
    }
}

#[test]
fn what_is_not_read_says_what_to_do() {
    for name in ["float.tif", "signed.tif", "palette.tif"] {
        let error = Picture::decode(&golden(name)).unwrap_err();
        assert!(matches!(error, ImageError::Unsupported { .. }), "{name}: {error}");
        assert!(error.to_string().contains("magick INPUT OUTPUT.png"), "{name}: {error}");
    }
    for bytes in [b"%PDF-1.7 and more of it".as_slice(), b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"<svg/>"] {
        let [decoded, probed] =
            [Picture::decode(bytes).map(drop), Picture::probe(Cursor::new(bytes)).map(drop)];
        assert!(matches!(decoded, Err(ImageError::UnknownFormat)));
        assert!(matches!(probed, Err(ImageError::UnknownFormat)));
    }
}

#[test]
fn sides_that_no_picture_has_are_refused_from_the_head() {
    // Width and height of a TIFF file are its first two entries, twelve bytes each.
    let mut tiff = golden("rgb8_none.tif");
    let first = u32::from_le_bytes(tiff[4..8].try_into().unwrap()) as usize + 2;
    tiff[first + 8..first + 12].copy_from_slice(&100_000_u32.to_le_bytes());
    let mut bmp = golden("whole.bmp");
    bmp[18..22].copy_from_slice(&30_000_u32.to_le_bytes());
    let mut gif = golden("whole.gif");
    gif[6..8].copy_from_slice(&60_000_u16.to_le_bytes());
    for (name, file) in [("tiff", tiff), ("bmp", bmp), ("gif", gif)] {
        for result in [Picture::decode(&file).map(drop), Picture::probe(Cursor::new(&file)).map(drop)] {
            let error = result.unwrap_err();
            assert!(matches!(error, ImageError::Sides { .. }), "{name}: {error}");
        }
    }
}

#[test]
fn the_head_of_a_file_on_disk_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jpg");
    // Nothing behind the head of the first scan is looked at.
    let whole = golden("turned.jpg");
    let scan = whole.windows(2).rposition(|two| two == [0xff, 0xda]).unwrap();
    fs::write(&path, &whole[..scan + 14]).unwrap();
    let reader = std::io::BufReader::new(fs::File::open(&path).unwrap());
    assert_eq!(Picture::probe(reader).unwrap(), (19, 11));
}
