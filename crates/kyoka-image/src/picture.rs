//! A decoded picture.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageReader, Limits, metadata::Orientation};

use crate::ImageError;

/// Largest side a picture may have; larger headers are refused before memory is taken.
const MAX_SIDE: u32 = 16_384;
/// Largest memory one decoded picture may take.
const MAX_BYTES: u64 = 1 << 30;

/// Eight-bit RGB pixels, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// `height * width * 3` bytes.
    pub rgb: Vec<u8>,
}

impl Picture {
    /// Decodes a file by its content, whatever its name ends in.
    ///
    /// Transparency is laid over white and the EXIF orientation is applied; 16-bit channels keep their upper byte.
    ///
    /// # Errors
    /// If the bytes are empty, of no known format, cut short, or a header claims more than 16,384 pixels a side.
    pub fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        let mut decoder = open(bytes)?;
        let orientation = decoder.orientation()?;
        let mut image = DynamicImage::from_decoder(decoder)?;
        image.apply_orientation(orientation);
        Ok(Self::over_white(&image))
    }

    /// Height and width of the picture that [`decode`](Self::decode) would give, from the file's header.
    ///
    /// # Errors
    /// If the bytes are empty, of no known format, or cut short within the header.
    pub fn size(bytes: &[u8]) -> Result<[usize; 2], ImageError> {
        let mut decoder = open(bytes)?;
        let (width, height) = decoder.dimensions();
        let (height, width) = (height as usize, width as usize);
        Ok(match decoder.orientation()? {
            Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH => [width, height],
            _ => [height, width],
        })
    }

    /// A picture from grey values.
    ///
    /// # Panics
    /// If the number of values is not `height * width`.
    pub fn grey(height: usize, width: usize, values: Vec<u8>) -> Self {
        assert_eq!(values.len(), height * width, "grey picture: expected height x width values");
        Self { height, width, rgb: values.into_iter().flat_map(|value| [value; 3]).collect() }
    }

    fn over_white(image: &DynamicImage) -> Self {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let rgb = if image.color().has_alpha() {
            // Pillow's rounding.
            let blend = |value: u8, alpha: u8| {
                let (value, alpha) = (u32::from(value), u32::from(alpha));
                let sum = ((value * alpha + 255 * (255 - alpha)) << 7) + (0x80 << 7);
                ((((sum >> 8) + sum) >> 8) >> 7) as u8
            };
            let rgba = image.to_rgba8();
            rgba.pixels()
                .flat_map(|&image::Rgba([r, g, b, a])| [r, g, b].map(|value| blend(value, a)))
                .collect()
        } else {
            image.to_rgb8().into_raw()
        };
        Self { height, width, rgb }
    }
}

fn open(bytes: &[u8]) -> Result<impl ImageDecoder + '_, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    Ok(reader.into_decoder()?)
}

#[cfg(test)]
mod tests {
    use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};

    use super::*;

    fn png(pixels: &[u8], width: u32, height: u32, color: ExtendedColorType) -> Vec<u8> {
        let mut bytes = Vec::new();
        PngEncoder::new(&mut bytes).write_image(pixels, width, height, color).unwrap();
        bytes
    }

    #[test]
    fn every_colour_type_becomes_rgb() {
        let grey = Picture::decode(&png(&[0, 100, 255], 3, 1, ExtendedColorType::L8)).unwrap();
        assert_eq!(grey.rgb, [0, 0, 0, 100, 100, 100, 255, 255, 255]);
        let clear =
            Picture::decode(&png(&[10, 20, 30, 0, 10, 20, 30, 255], 2, 1, ExtendedColorType::Rgba8)).unwrap();
        assert_eq!(clear.rgb, [255, 255, 255, 10, 20, 30], "transparent pixels turn white");
        let deep = [0x12, 0x34, 0xff, 0xff].map(|byte: u8| byte);
        let deep = Picture::decode(&png(&deep, 2, 1, ExtendedColorType::L16)).unwrap();
        assert_eq!((deep.height, deep.width), (1, 2));
    }

    #[test]
    fn broken_files_are_errors_not_panics() {
        let whole = png(&[7; 64 * 64], 64, 64, ExtendedColorType::L8);
        assert!(matches!(Picture::decode(b""), Err(ImageError::Empty)));
        assert!(Picture::decode(b"no picture at all").is_err());
        for cut in [1, 8, 20, 33, whole.len() / 2] {
            assert!(Picture::decode(&whole[..cut]).is_err(), "cut after {cut} bytes");
        }
        // A header that claims 65,535 x 65,535 pixels.
        let mut huge = whole;
        huge[16..24].copy_from_slice(&[0, 0, 255, 255, 0, 0, 255, 255]);
        assert!(Picture::decode(&huge).is_err());
    }

    #[test]
    fn every_format_is_read_by_its_content() {
        let source = DynamicImage::ImageRgb8(image::RgbImage::from_fn(16, 8, |x, y| {
            image::Rgb([if x < 8 { 200 } else { 40 }, if y < 4 { 180 } else { 60 }, 90])
        }));
        for format in [
            image::ImageFormat::Png,
            image::ImageFormat::Jpeg,
            image::ImageFormat::WebP,
            image::ImageFormat::Bmp,
            image::ImageFormat::Gif,
        ] {
            let mut bytes = Cursor::new(Vec::new());
            source.write_to(&mut bytes, format).unwrap();
            let picture = Picture::decode(bytes.get_ref()).unwrap();
            assert_eq!((picture.height, picture.width), (8, 16), "{format:?}");
            let corner = [picture.rgb[0], picture.rgb[1], picture.rgb[2]];
            for (got, expected) in corner.into_iter().zip([200_u8, 180, 90]) {
                assert!(got.abs_diff(expected) < 12, "{format:?}: {corner:?}");
            }
        }
    }

    #[test]
    fn exif_orientation_turns_the_picture() {
        let mut bytes = Cursor::new(Vec::new());
        let source = DynamicImage::new_rgb8(16, 8);
        source.write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
        let plain = bytes.into_inner();
        // An APP1 segment with one tag, orientation 6 (turn clockwise), behind the start marker.
        let mut tagged = plain[..2].to_vec();
        tagged.extend([0xff, 0xe1, 0, 34]);
        tagged.extend(b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0");
        tagged.extend(&plain[2..]);
        assert_eq!(Picture::size(&plain).unwrap(), [8, 16]);
        let (plain, turned) = (Picture::decode(&plain).unwrap(), Picture::decode(&tagged).unwrap());
        assert_eq!((plain.height, plain.width, turned.height, turned.width), (8, 16, 16, 8));
        assert_eq!(Picture::size(&tagged).unwrap(), [16, 8]);
    }
}
