//! Pictures and sounds: where they lie, and what an encoder receives.

use std::{
    borrow::Cow,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

/// A sense other than text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Modality {
    /// A picture.
    Image,
    /// A sound.
    Audio,
}

impl Modality {
    /// The placeholder a prompt text holds for each medium of this kind.
    pub fn placeholder(self) -> &'static str {
        match self {
            Modality::Image => "<image>",
            Modality::Audio => "<audio>",
        }
    }

    /// The word for messages: `image` or `audio`.
    pub fn name(self) -> &'static str {
        match self {
            Modality::Image => "image",
            Modality::Audio => "audio",
        }
    }
}

/// What a medium is read from; nothing is read before it is needed.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Content {
    /// A file, resolved against the dataset's folder.
    File(PathBuf),
    /// The bytes of a file that lies in something else: a column of a table, an archive.
    Bytes {
        /// What messages call it.
        name: Arc<str>,
        /// The file's bytes.
        bytes: Arc<[u8]>,
    },
}

impl Content {
    /// The file, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Bytes { .. } => None,
        }
    }

    /// All bytes.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(&self) -> std::io::Result<Cow<'_, [u8]>> {
        match self {
            Self::File(path) => std::fs::read(path).map(Cow::Owned),
            Self::Bytes { bytes, .. } => Ok(Cow::Borrowed(bytes)),
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Bytes { name, .. } => f.write_str(name),
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Bytes { name, bytes } => write!(f, "Bytes({name:?}, {} bytes)", bytes.len()),
        }
    }
}

/// A medium as a dataset row names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MediaRef {
    /// Which sense reads it.
    pub modality: Modality,
    /// What it is read from.
    pub content: Content,
}

impl MediaRef {
    /// A medium in a file of its own.
    pub fn file(modality: Modality, path: impl Into<PathBuf>) -> Self {
        Self { modality, content: Content::File(path.into()) }
    }

    /// A medium whose file's bytes are at hand; messages call it `name`.
    ///
    /// ```
    /// use kyoka_core::{MediaRef, Modality};
    ///
    /// let medium = MediaRef::bytes(Modality::Image, "rows.parquet: row 3", vec![0x89, b'P', b'N', b'G']);
    /// assert_eq!(medium.content.to_string(), "rows.parquet: row 3");
    /// assert_eq!(medium.content.read().unwrap().len(), 4);
    /// ```
    pub fn bytes(modality: Modality, name: impl Into<Arc<str>>, bytes: impl Into<Arc<[u8]>>) -> Self {
        Self { modality, content: Content::Bytes { name: name.into(), bytes: bytes.into() } }
    }
}

/// A picture ready for the encoder.
///
/// The values are shared, so that the rollouts of a group never copy pixels.
#[derive(Debug, Clone)]
pub struct ImageInput {
    /// Normalised values, shape `[num_views, channels, height, width]`.
    pub pixel_values: Arc<[f32]>,
    /// Views of the picture: tiles where it was split (the global view last), frames of a clip; else 1.
    pub num_views: usize,
    /// Number of channels.
    pub channels: usize,
    /// Height of a view in pixels.
    pub height: usize,
    /// Width of a view in pixels.
    pub width: usize,
    /// Which pixels hold the picture, shape `[num_views, height, width]`; `None`: all.
    pub pixel_mask: Option<Arc<[bool]>>,
    /// Rows and columns of tiles that the picture was split into; `None`: not split.
    pub split: Option<[usize; 2]>,
    /// Seconds from one step of a clip to the next; 1 where nothing else is known.
    pub seconds_per_step: f32,
}

impl ImageInput {
    /// A picture seen in one view that it fills.
    ///
    /// # Shapes
    /// - `pixel_values`: `[channels, height, width]`
    pub fn one_view(pixel_values: Arc<[f32]>, [channels, height, width]: [usize; 3]) -> Self {
        Self {
            pixel_values,
            num_views: 1,
            channels,
            height,
            width,
            pixel_mask: None,
            split: None,
            seconds_per_step: 1.0,
        }
    }
}

/// A sound ready for the encoder.
#[derive(Debug, Clone)]
pub struct AudioInput {
    /// Log-mel features, shape `[num_mels, frames]`.
    pub input_features: Arc<[f32]>,
    /// Number of mel bands.
    pub num_mels: usize,
    /// Number of frames.
    pub frames: usize,
    /// Leading frames that hold sound, the rest is padding; equal to `frames` where nothing is padded.
    pub valid_frames: usize,
}
