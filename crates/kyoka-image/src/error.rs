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
}
