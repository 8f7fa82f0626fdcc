//! What can be wrong with a sound.

/// Why a sound cannot be used; the caller adds the file's name.
#[derive(Debug, thiserror::Error)]
pub enum AudioError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] std::io::Error),
    /// The file holds no byte.
    #[error("sound: the file is empty")]
    Empty,
    /// A WAV file is broken or of an unknown kind.
    #[error("sound: {0}")]
    Wav(#[from] hound::Error),
    /// Another file is broken or of an unknown kind.
    #[error("sound: {0}")]
    Decode(#[from] symphonia::core::errors::Error),
    /// The file holds no sound.
    #[error("sound: {0}")]
    NoSound(&'static str),
    /// The header promises more samples than there are.
    #[error("sound: the file is cut short")]
    CutShort,
    /// The file changes its number of channels underway.
    #[error("sound: expected one number of channels throughout")]
    ChannelsChange,
    /// A sample is NaN or infinite.
    #[error("sound: sample {index} is not finite")]
    NotFinite {
        /// Its place.
        index: usize,
    },
    /// The header asks for something impossible.
    #[error("sound: expected a sampling rate of 1,000 to 768,000 Hz, got {got} Hz")]
    SampleRate {
        /// The rate in the header.
        got: u32,
    },
    /// The resampler refused.
    #[error("sound: resampling: {0}")]
    Resample(String),
}
