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
    /// The bytes are no sound of a known format.
    #[error(
        "sound: expected WAV, AIFF, FLAC, MP3, Ogg Vorbis or Ogg Opus, got another format; convert it, for example \
         with `ffmpeg -i INPUT OUTPUT.wav`"
    )]
    UnknownFormat,
    /// The format is known, what is in it is not.
    #[error(
        "sound: {container} with {codec} is not read; convert it, for example with `ffmpeg -i INPUT -c:a pcm_s16le \
         OUTPUT.wav`"
    )]
    Codec {
        /// WAV or AIFF.
        container: &'static str,
        /// How its samples are written.
        codec: String,
    },
    /// A file is broken.
    #[error("sound: {0}")]
    Decode(#[from] symphonia::core::errors::Error),
    /// An Opus stream is broken.
    #[error("sound: Ogg Opus with {0}")]
    Opus(&'static str),
    /// The file holds no sound.
    #[error("sound: {0}")]
    NoSound(&'static str),
    /// The header promises more samples than there are.
    #[error("sound: the file is cut short")]
    CutShort,
    /// The samples take more than a WAV header can say.
    #[error("sound: expected at most 4 GiB of samples")]
    TooLong,
    /// The sound gives a policy nothing to hear.
    #[error("sound: expected at least {expected} samples at 16 kHz, got {got}: fewer give no token")]
    TooShort {
        /// Fewest samples.
        expected: usize,
        /// Samples that there are.
        got: usize,
    },
    /// The file changes its number of channels underway.
    #[error("sound: expected one number of channels throughout")]
    ChannelsChange,
    /// A sample is NaN or infinite.
    #[error(
        "sound: expected finite samples, got {value} at {seconds:.3} s (sample {index} of channel {channel})"
    )]
    NotFinite {
        /// Its place within the channel.
        index: usize,
        /// Its channel, the first being 1.
        channel: usize,
        /// Its time.
        seconds: f64,
        /// The sample.
        value: f32,
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
