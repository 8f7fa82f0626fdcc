//! A decoded picture.

use std::io::{BufRead, Cursor, Read, Seek, SeekFrom};

use image::{
    DynamicImage, ExtendedColorType, ImageBuffer, ImageDecoder, ImageEncoder, ImageReader, Limits, Pixel,
    codecs::png::PngEncoder, metadata::Orientation,
};

use crate::{
    ImageError, jpeg,
    limits::{MAX_BYTES, MAX_SIDE},
    tiff::Tiff,
};

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
    /// Decodes a file by its content, whatever its name ends in: PNG, JPEG, WebP, BMP, TIFF, GIF; the first picture
    /// where there are several.
    ///
    /// Transparency is laid over white and the orientation that EXIF or TIFF states is applied; 16-bit channels keep
    /// their upper byte.
    ///
    /// # Errors
    /// If the bytes are empty, of no known format, cut short, of pixels that are not read (TIFF with floats or a
    /// palette), or a header claims more than 16,384 pixels a side.
    pub fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        if bytes.starts_with(&jpeg::START) && jpeg::is_cut(bytes) {
            return Err(ImageError::CutShort);
        }
        let (mut image, orientation) = match Opened::new(Cursor::new(bytes), Extent::Whole)? {
            Opened::Tiff(tiff) => {
                let orientation = tiff.orientation;
                (tiff.decode()?, orientation)
            }
            Opened::Other(mut decoder) => {
                let orientation = decoder.orientation()?;
                (DynamicImage::from_decoder(decoder)?, orientation)
            }
        };
        image.apply_orientation(orientation);
        Ok(Self::over_white(&upper_bytes(image)))
    }

    /// Height and width of the picture that [`decode`](Self::decode) would give, read from the file's head alone.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), as far as the head tells: damage within the pixels shows only when they are decoded.
    pub fn probe(reader: impl BufRead + Seek) -> Result<(usize, usize), ImageError> {
        let ((width, height), orientation) = match Opened::new(reader, Extent::Head)? {
            Opened::Tiff(tiff) => ((tiff.width, tiff.height), tiff.orientation),
            Opened::Other(mut decoder) => (decoder.dimensions(), decoder.orientation()?),
        };
        let (height, width) = (height as usize, width as usize);
        Ok(match orientation {
            Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH => (width, height),
            _ => (height, width),
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

    /// The picture as a PNG file.
    pub fn to_png(&self) -> Vec<u8> {
        let (width, height) = (self.width as u32, self.height as u32);
        let mut png = Vec::new();
        let encoder = PngEncoder::new(&mut png);
        encoder
            .write_image(&self.rgb, width, height, ExtendedColorType::Rgb8)
            .expect("a picture holds height x width x 3 bytes, and memory takes them");
        png
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

/// How much of a file is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Head,
    Whole,
}

/// A file whose head is read.
enum Opened<'r, R: BufRead + Seek> {
    Tiff(Box<Tiff<R>>),
    Other(Box<dyn ImageDecoder + 'r>),
}

impl<'r, R: BufRead + Seek + 'r> Opened<'r, R> {
    fn new(mut reader: R, extent: Extent) -> Result<Self, ImageError> {
        let mut head = Vec::new();
        reader.by_ref().take(16).read_to_end(&mut head)?;
        if head.is_empty() {
            return Err(ImageError::Empty);
        }
        let length = reader.seek(SeekFrom::End(0))?;
        reader.seek(SeekFrom::Start(0))?;
        // A WebP file states its length; its decoder does not miss the last bytes.
        if let [b'R', b'I', b'F', b'F', a, b, c, d, b'W', b'E', b'B', b'P', ..] = head[..]
            && u64::from(u32::from_le_bytes([a, b, c, d])) + 8 > length
        {
            return Err(ImageError::CutShort);
        }
        if Tiff::<R>::is(&head) {
            let tiff = Tiff::open(reader)?;
            check_sides((tiff.width, tiff.height))?;
            return Ok(Self::Tiff(Box::new(tiff)));
        }
        if extent == Extent::Head && head.starts_with(&jpeg::START) {
            let head = jpeg::head(&mut reader)?;
            return Ok(Self::Other(decoder(Cursor::new(head))?));
        }
        Ok(Self::Other(decoder(reader)?))
    }
}

fn decoder<'r>(reader: impl BufRead + Seek + 'r) -> Result<Box<dyn ImageDecoder + 'r>, ImageError> {
    let mut reader = ImageReader::new(reader).with_guessed_format()?;
    if reader.format().is_none() {
        return Err(ImageError::UnknownFormat);
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let decoder = reader.into_decoder()?;
    check_sides(decoder.dimensions())?;
    Ok(Box::new(decoder))
}

fn check_sides((width, height): (u32, u32)) -> Result<(), ImageError> {
    if width.max(height) <= MAX_SIDE && width.min(height) > 0 {
        return Ok(());
    }
    Err(ImageError::Sides { height: height as usize, width: width as usize, most: MAX_SIDE as usize })
}

/// Channels of 16 bits by their upper bytes, as Pillow reads them.
fn upper_bytes(image: DynamicImage) -> DynamicImage {
    match image {
        DynamicImage::ImageLuma16(image) => DynamicImage::ImageLuma8(upper(&image)),
        DynamicImage::ImageLumaA16(image) => DynamicImage::ImageLumaA8(upper(&image)),
        DynamicImage::ImageRgb16(image) => DynamicImage::ImageRgb8(upper(&image)),
        DynamicImage::ImageRgba16(image) => DynamicImage::ImageRgba8(upper(&image)),
        image => image,
    }
}

fn upper<P, Q>(image: &ImageBuffer<P, Vec<u16>>) -> ImageBuffer<Q, Vec<u8>>
where
    P: Pixel<Subpixel = u16>,
    Q: Pixel<Subpixel = u8>,
{
    let bytes = image.as_raw().iter().map(|&value| (value >> 8) as u8).collect();
    ImageBuffer::from_raw(image.width(), image.height(), bytes).expect("as many channels as before")
}

#[cfg(test)]
mod tests {
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
        // The encoder takes the bytes as the machine has them.
        let upper = u16::from_ne_bytes([0x12, 0x34]) >> 8;
        assert_eq!((deep.rgb[0], deep.rgb[3]), (upper as u8, 255), "16 bits keep their upper byte");
        assert_eq!(Picture::decode(&clear.to_png()).unwrap(), clear);
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
        assert_eq!(Picture::probe(Cursor::new(&plain)).unwrap(), (8, 16));
        let (plain, turned) = (Picture::decode(&plain).unwrap(), Picture::decode(&tagged).unwrap());
        assert_eq!((plain.height, plain.width, turned.height, turned.width), (8, 16, 16, 8));
        assert_eq!(Picture::probe(Cursor::new(&tagged)).unwrap(), (16, 8));
    }
}
