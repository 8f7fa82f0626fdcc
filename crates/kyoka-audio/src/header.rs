//! What the head of a sound file tells.

use std::io::{self, Read, Seek, SeekFrom};

use symphonia::core::{
    codecs::audio::{
        AudioCodecParameters,
        well_known::{CODEC_ID_MP1, CODEC_ID_MP2, CODEC_ID_MP3},
    },
    formats::{FormatOptions, FormatReader, Track, TrackType, probe::Hint},
    io::{MediaSource, MediaSourceStream},
    meta::MetadataOptions,
};

use crate::{AudioError, SAMPLE_RATE_HZ, Waveform, aiff::Aiff, resampled_len, wav::Wav};

/// Rate, channels and length of a sound that is not decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudioHeader {
    /// Moments a second in the file.
    pub sample_rate_hz: u32,
    /// Number of channels.
    pub channels: usize,
    /// Samples that [`Waveform::decode`] gives, mono and at 16 kHz; `None` where the file does not tell (MP3).
    pub num_samples: Option<usize>,
}

impl AudioHeader {
    /// Of a file with so many moments.
    pub(crate) fn new(sample_rate_hz: u32, channels: usize, moments: Option<u64>) -> Self {
        let num_samples = moments.map(|moments| resampled_len(moments, sample_rate_hz, SAMPLE_RATE_HZ));
        Self { sample_rate_hz, channels, num_samples }
    }

    fn read(mut reader: impl Read + Seek + Send + Sync) -> Result<Self, AudioError> {
        let mut head = Vec::new();
        reader.by_ref().take(12).read_to_end(&mut head)?;
        if head.is_empty() {
            return Err(AudioError::Empty);
        }
        if Wav::is(&head) {
            return Ok(Wav::read(reader)?.header());
        }
        if Aiff::is(&head) {
            return Aiff::read(reader)?.header();
        }
        let length = reader.seek(SeekFrom::End(0))?;
        reader.seek(SeekFrom::Start(0))?;
        let format = open(Source { reader, length })?;
        let (track, parameters) = audio_track(format.as_ref())?;
        let is_mpeg = [CODEC_ID_MP1, CODEC_ID_MP2, CODEC_ID_MP3].contains(&parameters.codec);
        // MPEG audio tells a length that is estimated, or that of its first encoder's run.
        let moments =
            track.num_frames.filter(|_| !is_mpeg).map(|moments| moments - skipped(track, parameters));
        let rate = parameters.sample_rate.ok_or(AudioError::NoSound("no sampling rate"))?;
        let channels = parameters.channels.as_ref().map_or(0, |channels| channels.count());
        Ok(Self::new(rate, channels, moments))
    }

    /// Refuses what [`Waveform::decode`] would refuse too.
    fn check(self) -> Result<Self, AudioError> {
        let Self { sample_rate_hz, channels, num_samples } = self;
        if channels == 0 {
            return Err(AudioError::NoSound("no channels"));
        }
        if num_samples == Some(0) {
            return Err(AudioError::NoSound("no samples"));
        }
        crate::resample::check_rate(sample_rate_hz)?;
        Ok(self)
    }
}

impl Waveform {
    /// What a file tells of its sound without being decoded.
    ///
    /// # Errors
    /// If the file cannot be read, is empty, of no known format, holds a codec that is not read, no channel or no
    /// sample, or is a WAV or AIFF file that is cut short. Damage within the samples shows only when they are decoded.
    pub fn probe(reader: impl Read + Seek + Send + Sync) -> Result<AudioHeader, AudioError> {
        AudioHeader::read(reader)?.check()
    }
}

/// A reader that knows its length.
struct Source<R> {
    reader: R,
    length: u64,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

impl<R: Seek> Seek for Source<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.reader.seek(to)
    }
}

impl<R: Read + Seek + Send + Sync> MediaSource for Source<R> {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.length)
    }
}

/// The packets of a file of any format but AIFF and WAV.
pub(crate) fn open<'s>(source: impl MediaSource + 's) -> Result<Box<dyn FormatReader + 's>, AudioError> {
    let source = MediaSourceStream::new(Box::new(source), Default::default());
    let (format, metadata) = (FormatOptions::default(), MetadataOptions::default());
    let found = symphonia::default::get_probe().probe(&Hint::new(), source, format, metadata);
    found.map_err(|error| match error {
        symphonia::core::errors::Error::Unsupported(_) => AudioError::UnknownFormat,
        // The probe looks for a format until the file ends.
        symphonia::core::errors::Error::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            AudioError::UnknownFormat
        }
        error => error.into(),
    })
}

/// The track that is heard, and how it is encoded.
pub(crate) fn audio_track(format: &dyn FormatReader) -> Result<(&Track, &AudioCodecParameters), AudioError> {
    let track = format.default_track(TrackType::Audio).ok_or(AudioError::NoSound("no audio track"))?;
    let parameters = track.codec_params.as_ref().and_then(|parameters| parameters.audio());
    Ok((track, parameters.ok_or(AudioError::NoSound("no codec parameters"))?))
}

/// Moments at the start that belong to the encoder and that the length counts: Opus has them.
pub(crate) fn skipped(track: &Track, parameters: &AudioCodecParameters) -> u64 {
    let is_opus = parameters.codec == symphonia::core::codecs::audio::well_known::CODEC_ID_OPUS;
    if is_opus { u64::from(track.delay.unwrap_or(0)).min(track.num_frames.unwrap_or(u64::MAX)) } else { 0 }
}
