//! A sound as its file holds it.

use std::io::Cursor;

use symphonia::core::{
    codecs::audio::AudioDecoderOptions,
    errors::Error as SymphoniaError,
    formats::{FormatOptions, TrackType, probe::Hint},
    io::MediaSourceStream,
    meta::MetadataOptions,
};

use crate::{AudioError, Waveform};

/// Samples of all channels at the file's own rate.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    /// Samples in [-1, 1], the channels of each moment side by side.
    pub samples: Vec<f32>,
    /// Number of channels, at least one.
    pub channels: usize,
    /// Moments a second.
    pub sample_rate_hz: u32,
}

impl Recording {
    /// Decodes a file by its content: WAV with integers of 8 to 32 bits or floats of 32 or 64, FLAC, MP3, Ogg Vorbis.
    ///
    /// # Errors
    /// If the bytes are empty, of no known format, cut short, without a channel or a sample, or hold samples that
    /// are not finite.
    pub fn decode(bytes: &[u8]) -> Result<Self, AudioError> {
        let recording = match bytes {
            [] => return Err(AudioError::Empty),
            [b'R', b'I', b'F', b'F', ..] => decode_wav(bytes)?,
            _ => decode_with_symphonia(bytes)?,
        };
        if recording.samples.is_empty() {
            return Err(AudioError::NoSound("no samples"));
        }
        if let Some(index) = recording.samples.iter().position(|sample| !sample.is_finite()) {
            return Err(AudioError::NotFinite { index });
        }
        Ok(recording)
    }

    /// The mean of the channels.
    pub fn mono(self) -> Waveform {
        let Self { samples, channels, sample_rate_hz } = self;
        let mean = |moment: &[f32]| moment.iter().sum::<f32>() / channels as f32;
        let samples =
            if channels == 1 { samples } else { samples.chunks_exact(channels).map(mean).collect() };
        Waveform { samples, sample_rate_hz }
    }
}

fn decode_wav(bytes: &[u8]) -> Result<Recording, AudioError> {
    let mut reader = match hound::WavReader::new(Cursor::new(bytes)) {
        Ok(reader) => reader,
        // What hound does not know: 64-bit floats, a list of tags before the format.
        Err(error) => return decode_with_symphonia(bytes).map_err(|_| error.into()),
    };
    let spec = reader.spec();
    if spec.channels == 0 {
        return Err(AudioError::NoSound("no channels"));
    }
    let samples: Vec<f32> = match spec.sample_format {
        hound::SampleFormat::Float => reader.samples::<f32>().collect::<Result<_, _>>()?,
        hound::SampleFormat::Int => {
            let scale = 1.0 / (1_u64 << (spec.bits_per_sample - 1)) as f32;
            reader
                .samples::<i32>()
                .map(|sample| sample.map(|value| value as f32 * scale))
                .collect::<Result<_, _>>()?
        }
    };
    Ok(Recording { samples, channels: usize::from(spec.channels), sample_rate_hz: spec.sample_rate })
}

fn decode_with_symphonia(bytes: &[u8]) -> Result<Recording, AudioError> {
    let source = MediaSourceStream::new(Box::new(Cursor::new(bytes.to_vec())), Default::default());
    let (format_options, metadata_options) = (FormatOptions::default(), MetadataOptions::default());
    let mut format =
        symphonia::default::get_probe().probe(&Hint::new(), source, format_options, metadata_options)?;
    let track = format.default_track(TrackType::Audio).ok_or(AudioError::NoSound("no audio track"))?;
    let (track_id, promised) = (track.id, track.num_frames);
    let parameters = track.codec_params.as_ref().and_then(|parameters| parameters.audio());
    let parameters = parameters.ok_or(AudioError::NoSound("no codec parameters"))?;
    let mut decoder =
        symphonia::default::get_codecs().make_audio_decoder(parameters, &AudioDecoderOptions::default())?;
    let mut recording = Recording { samples: Vec::new(), channels: 0, sample_rate_hz: 0 };
    let mut interleaved: Vec<f32> = Vec::new();
    while let Some(packet) = format.next_packet()? {
        if packet.track_id != track_id {
            continue;
        }
        match decoder.decode(&packet) {
            Ok(buffer) => {
                recording.accept(buffer.num_planes(), buffer.spec().rate())?;
                buffer.copy_to_vec_interleaved(&mut interleaved);
                recording.samples.append(&mut interleaved);
            }
            // A damaged packet is skipped, as players do.
            Err(SymphoniaError::DecodeError(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let wav_cut_short = bytes.starts_with(b"RIFF")
        && promised
            .is_some_and(|frames| frames > (recording.samples.len() / recording.channels.max(1)) as u64);
    if wav_cut_short {
        return Err(AudioError::CutShort);
    }
    Ok(recording)
}

impl Recording {
    /// Takes the shape of the next packet.
    fn accept(&mut self, channels: usize, sample_rate_hz: u32) -> Result<(), AudioError> {
        if channels == 0 {
            return Err(AudioError::NoSound("no channels"));
        }
        if !self.samples.is_empty() && channels != self.channels {
            return Err(AudioError::ChannelsChange);
        }
        (self.channels, self.sample_rate_hz) = (channels, sample_rate_hz);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wav(channels: u16, bits: u16, format: hound::SampleFormat, frames: &[f64]) -> Vec<u8> {
        let spec =
            hound::WavSpec { channels, sample_rate: 16_000, bits_per_sample: bits, sample_format: format };
        let mut bytes = Cursor::new(Vec::new());
        let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
        for &frame in frames {
            for _ in 0..channels {
                match format {
                    hound::SampleFormat::Float => writer.write_sample(frame as f32).unwrap(),
                    hound::SampleFormat::Int => {
                        writer.write_sample((frame * (1_i64 << (bits - 1)) as f64) as i32).unwrap();
                    }
                }
            }
        }
        writer.finalize().unwrap();
        bytes.into_inner()
    }

    #[test]
    fn every_kind_of_wav_gives_the_same_samples() {
        let frames = [0.0, 0.5, -0.5, 0.25];
        for (bits, format) in [
            (8, hound::SampleFormat::Int),
            (16, hound::SampleFormat::Int),
            (24, hound::SampleFormat::Int),
            (32, hound::SampleFormat::Int),
            (32, hound::SampleFormat::Float),
        ] {
            for channels in [1, 2] {
                let decoded = Waveform::decode(&wav(channels, bits, format, &frames)).unwrap();
                for (got, expected) in decoded.samples.iter().zip(frames) {
                    assert!((f64::from(*got) - expected).abs() < 1e-6, "{bits} {format:?} {channels}");
                }
            }
        }
    }

    #[test]
    fn broken_files_are_errors_not_panics() {
        let whole = wav(1, 16, hound::SampleFormat::Int, &[0.1; 100]);
        assert!(matches!(Waveform::decode(b""), Err(AudioError::Empty)));
        assert!(Waveform::decode(b"no sound at all").is_err());
        for cut in [3, 10, 30, 43, whole.len() / 2] {
            assert!(Waveform::decode(&whole[..cut]).is_err(), "cut after {cut} bytes");
        }
        let silent = wav(1, 16, hound::SampleFormat::Int, &[]);
        assert!(matches!(Waveform::decode(&silent), Err(AudioError::NoSound(_))));
        let mut no_channels = whole.clone();
        no_channels[22..24].copy_from_slice(&[0, 0]);
        assert!(Waveform::decode(&no_channels).is_err());
        let nan = wav(1, 32, hound::SampleFormat::Float, &[0.0, f64::NAN]);
        assert!(matches!(Waveform::decode(&nan), Err(AudioError::NotFinite { index: 1 })));
    }

    #[test]
    fn sixty_four_bit_floats_are_read_and_a_cut_is_noticed() {
        let frames = [0.0, 0.5, -0.5, 0.25];
        let mut whole = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x03\0\x01\0".to_vec();
        whole.extend(16_000_u32.to_le_bytes());
        whole.extend(128_000_u32.to_le_bytes());
        whole.extend([8, 0, 64, 0]);
        whole.extend(b"data\x20\0\0\0");
        whole.extend(frames.iter().flat_map(|frame: &f64| frame.to_le_bytes()));
        let size = whole.len() as u32 - 8;
        whole[4..8].copy_from_slice(&size.to_le_bytes());
        let decoded = Recording::decode(&whole).unwrap();
        assert_eq!((decoded.samples, decoded.channels), (frames.map(|frame| frame as f32).to_vec(), 1));
        assert!(Recording::decode(&whole[..whole.len() - 9]).is_err());
    }
}
