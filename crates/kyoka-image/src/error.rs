//! What can be wrong with a picture.

/// Why a picture cannot be used; the caller adds the file's name.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] std::io::Error),
    /// The file holds no byte.
    #[error("picture: the file is empty")]
    Empty,
    /// The bytes are no picture of a known format.
    #[error(
        "picture: expected PNG, JPEG, WebP, BMP, TIFF or GIF, got another format; convert it, for example with `magick \
         INPUT OUTPUT.png`"
    )]
    UnknownFormat,
    /// The picture is broken.
    #[error("picture: {0}")]
    Decode(image::ImageError),
    /// A TIFF file is broken.
    #[error("picture: {0}")]
    Tiff(tiff::TiffError),
    /// The format is known, what is in it is not.
    #[error(
        "picture: {format} with {what} is not read; convert it to 8 or 16 bit grey or RGB, for example with `magick \
         INPUT OUTPUT.png`"
    )]
    Unsupported {
        /// The format.
        format: &'static str,
        /// What is in it.
        what: String,
    },
    /// The file ends before its picture does.
    #[error("picture: the file is cut short")]
    CutShort,
    /// The header claims sides that are none.
    #[error("picture: expected sides of 1 to {most} pixels, got {height} x {width}")]
    Sides {
        /// Height in pixels.
        height: usize,
        /// Width in pixels.
        width: usize,
        /// Longest side.
        most: usize,
    },
    /// One side is far longer than the other.
    #[error("picture: expected an aspect ratio of at most {most}, got {height} x {width} pixels")]
    AspectRatio {
        /// Height in pixels.
        height: usize,
        /// Width in pixels.
        width: usize,
        /// Largest ratio.
        most: usize,
    },
    /// The picture would become too large.
    #[error("picture: expected at most {most} pixels after resizing, got {height} x {width}")]
    TooLarge {
        /// Height in pixels.
        height: usize,
        /// Width in pixels.
        width: usize,
        /// Most pixels.
        most: usize,
    },
    /// A picture that is not resized does not consist of whole patches.
    #[error("picture: expected sides in multiples of {factor}, got {height} x {width} pixels")]
    NotInPatches {
        /// Height in pixels.
        height: usize,
        /// Width in pixels.
        width: usize,
        /// Side of the merged patches.
        factor: usize,
    },
}

impl From<image::ImageError> for ImageError {
    fn from(error: image::ImageError) -> Self {
        match error {
            image::ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Self::CutShort
            }
            error => Self::Decode(error),
        }
    }
}
