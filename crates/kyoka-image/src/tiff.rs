//! TIFF: the first picture of a file, of samples of 1, 2, 4, 8 or 16 bits.

use std::{
    io::{BufRead, Seek, SeekFrom},
    slice::ChunksExact,
};

use image::{DynamicImage, GrayAlphaImage, GrayImage, RgbImage, RgbaImage, metadata::Orientation};
use tiff::{
    ColorType, TiffError,
    decoder::{BufferLayoutPreference, Decoder, DecodingResult, Limits},
    tags::Tag,
};

use crate::{ImageError, limits::MAX_BYTES};

/// Values of the tag of extra samples.
const PREMULTIPLIED_ALPHA: u16 = 1;
const ALPHA: u16 = 2;

/// A TIFF file whose head is read.
pub(crate) struct Tiff<R: BufRead + Seek> {
    decoder: Decoder<R>,
    /// Width in pixels, before turning.
    pub width: u32,
    /// Height in pixels, before turning.
    pub height: u32,
    /// How the picture is to be turned.
    pub orientation: Orientation,
}

impl<R: BufRead + Seek> Tiff<R> {
    /// Whether a file begins as TIFF or BigTIFF does.
    pub(crate) fn is(head: &[u8]) -> bool {
        matches!(head, [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..])
    }

    /// Reads the head.
    ///
    /// # Errors
    /// If it is broken, or points behind the end of the file.
    pub(crate) fn open(mut reader: R) -> Result<Self, ImageError> {
        let length = reader.seek(SeekFrom::End(0))?;
        reader.seek(SeekFrom::Start(0))?;
        let mut decoder = Decoder::new(reader)?;
        let (width, height) = decoder.dimensions()?;
        for [places, sizes] in
            [[Tag::StripOffsets, Tag::StripByteCounts], [Tag::TileOffsets, Tag::TileByteCounts]]
        {
            let places: Vec<u64> = decoder.find_tag_unsigned_vec(places)?.unwrap_or_default();
            let sizes: Vec<u64> = decoder.find_tag_unsigned_vec(sizes)?.unwrap_or_default();
            if places.iter().zip(&sizes).any(|(place, size)| place.saturating_add(*size) > length) {
                return Err(ImageError::CutShort);
            }
        }
        let orientation: Option<u64> = decoder.find_tag_unsigned(Tag::Orientation)?;
        let orientation = orientation.and_then(|value| Orientation::from_exif(value.try_into().ok()?));
        let orientation = orientation.unwrap_or(Orientation::NoTransforms);
        Ok(Self { decoder, width, height, orientation })
    }

    /// The picture, eight bits a channel, not yet turned.
    ///
    /// # Errors
    /// If the pixels are broken, or of a kind that is not read: floats, negative numbers, palettes, other colour spaces.
    pub(crate) fn decode(self) -> Result<DynamicImage, ImageError> {
        let Self { decoder, width, height, .. } = self;
        let max_bytes = MAX_BYTES as usize;
        let mut limits = Limits::default();
        (limits.decoding_buffer_size, limits.intermediate_buffer_size) = (max_bytes, max_bytes);
        let mut decoder = decoder.with_limits(limits);
        let color = decoder.colortype()?;
        let formats: Vec<u16> = decoder.find_tag_unsigned_vec(Tag::SampleFormat)?.unwrap_or_default();
        if formats.iter().any(|&format| format != 1 && format != 4) {
            return Err(unsupported("floats or negative numbers"));
        }
        let extra: Vec<u16> = decoder.find_tag_unsigned_vec(Tag::ExtraSamples)?.unwrap_or_default();
        let mut values = DecodingResult::U8(Vec::new());
        let layout = decoder.read_image_to_buffer(&mut values)?;
        let samples = Samples::new(values, &layout, color, width)?;
        let size = (width as usize).checked_mul(height as usize).filter(|size| *size <= samples.pixels());
        let size = size.ok_or(ImageError::CutShort)?;
        let alpha = extra.iter().copied().find(|kind| [PREMULTIPLIED_ALPHA, ALPHA].contains(kind));
        let (kind, bytes) = samples.channels(color, alpha, size)?;
        let premultiplied = alpha == Some(PREMULTIPLIED_ALPHA);
        let bytes = if premultiplied { divided_by_alpha(bytes, kind) } else { bytes };
        let image = match kind {
            1 => GrayImage::from_raw(width, height, bytes).map(DynamicImage::from),
            2 => GrayAlphaImage::from_raw(width, height, bytes).map(DynamicImage::from),
            3 => RgbImage::from_raw(width, height, bytes).map(DynamicImage::from),
            _ => RgbaImage::from_raw(width, height, bytes).map(DynamicImage::from),
        };
        Ok(image.expect("every pixel has its channels"))
    }
}

fn unsupported(what: &str) -> ImageError {
    ImageError::Unsupported { format: "TIFF", what: what.to_owned() }
}

impl From<TiffError> for ImageError {
    fn from(error: TiffError) -> Self {
        match error {
            TiffError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Self::CutShort,
            TiffError::IoError(error) => Self::Read(error),
            TiffError::UnsupportedError(what) => unsupported(&what.to_string()),
            error => Self::Tiff(error),
        }
    }
}

/// Samples of eight bits, plane after plane, or pixel after pixel where there is one plane.
struct Samples {
    values: Vec<u8>,
    /// Samples of a plane.
    plane: usize,
    planes: usize,
    /// Samples side by side.
    stride: usize,
}

impl Samples {
    /// The upper eight bits of wider samples, narrower ones spread to eight.
    fn new(
        values: DecodingResult,
        layout: &BufferLayoutPreference,
        color: ColorType,
        width: u32,
    ) -> Result<Self, ImageError> {
        let bits = color.bit_depth();
        let (values, sample_bytes) = match values {
            DecodingResult::U8(values) if bits == 8 => (values, 1),
            DecodingResult::U8(values) if matches!((color, bits), (ColorType::Gray(_), 1 | 2 | 4)) => {
                (spread(&values, bits, width as usize), 1)
            }
            DecodingResult::U16(values) if bits == 16 => {
                (values.into_iter().map(|value| (value >> 8) as u8).collect(), 2)
            }
            _ => return Err(unsupported(&format!("{color:?}"))),
        };
        let planes = layout.planes.max(1);
        let plane = match layout.plane_stride {
            Some(bytes) if planes > 1 => bytes.get() / sample_bytes,
            _ => values.len(),
        };
        if plane == 0 || values.len() < plane * planes {
            return Err(ImageError::CutShort);
        }
        let stride = if planes > 1 { 1 } else { usize::from(color.num_samples()) };
        Ok(Self { values, plane, planes, stride })
    }

    fn pixels(&self) -> usize {
        self.plane / self.stride
    }

    /// One channel of every pixel.
    fn channel(&self, index: usize) -> impl Iterator<Item = u8> {
        let (plane, offset) = if self.planes > 1 { (index, 0) } else { (0, index) };
        let pixels: ChunksExact<'_, u8> =
            self.values[plane * self.plane..(plane + 1) * self.plane].chunks_exact(self.stride);
        pixels.map(move |pixel| pixel[offset])
    }

    /// Number of channels, 1 to 4, and their values side by side.
    fn channels(
        &self,
        color: ColorType,
        alpha: Option<u16>,
        size: usize,
    ) -> Result<(usize, Vec<u8>), ImageError> {
        let kind = match color {
            ColorType::Gray(_) => 1,
            ColorType::GrayA(_) => 2,
            ColorType::Multiband { num_samples: 2, .. } if alpha.is_some() => 2,
            ColorType::Multiband { num_samples: 2, .. } => 1,
            ColorType::RGB(_) => 3,
            ColorType::RGBA(_) => 4,
            ColorType::CMYK(_) => return Ok((3, self.of_inks(size))),
            _ => return Err(unsupported(&format!("{color:?}"))),
        };
        if self.planes > 1 && self.planes < kind {
            return Err(ImageError::CutShort);
        }
        let mut bytes = vec![0; size * kind];
        for index in 0..kind {
            for (pixel, value) in bytes.chunks_exact_mut(kind).zip(self.channel(index)) {
                pixel[index] = value;
            }
        }
        Ok((kind, bytes))
    }

    /// RGB of the four inks, as Pillow has it.
    fn of_inks(&self, size: usize) -> Vec<u8> {
        let times = |a: u8, b: u8| {
            let product = u32::from(a) * u32::from(b) + 128;
            (((product >> 8) + product) >> 8) as u8
        };
        let key = self.channel(3).map(|key| 255 - key).take(size).collect::<Vec<u8>>();
        let mut bytes = vec![0; size * 3];
        for index in 0..3 {
            let inks = self.channel(index).zip(&key);
            for (pixel, (ink, &light)) in bytes.chunks_exact_mut(3).zip(inks) {
                pixel[index] = light - times(ink, light);
            }
        }
        bytes
    }
}

/// Samples of 1, 2 or 4 bits as bytes from 0 to 255; rows begin on a byte.
fn spread(values: &[u8], bits: u8, width: usize) -> Vec<u8> {
    let per_byte = usize::from(8 / bits);
    let most = (1_u16 << bits) - 1;
    let sample = |row: &[u8], x: usize| {
        let shift = 8 - bits as usize * (x % per_byte + 1);
        let value = u16::from(row[x / per_byte] >> shift) & most;
        (value * 255 / most) as u8
    };
    let rows = values.chunks_exact(width.div_ceil(per_byte).max(1));
    rows.flat_map(|row| (0..width).map(move |x| sample(row, x))).collect()
}

/// Colours that were multiplied by their alpha, the last channel of `kind`.
fn divided_by_alpha(mut bytes: Vec<u8>, kind: usize) -> Vec<u8> {
    for pixel in bytes.chunks_exact_mut(kind) {
        let Some((alpha, colours)) = pixel.split_last_mut() else { continue };
        for colour in colours.iter_mut().filter(|_| *alpha > 0) {
            *colour = (u32::from(*colour) * 255 / u32::from(*alpha)).min(255) as u8;
        }
    }
    bytes
}
