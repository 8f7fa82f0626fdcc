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
    /// The bytes are no picture of a known format, or a broken one.
    #[error("picture: {0}")]
    Decode(#[from] image::ImageError),
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
